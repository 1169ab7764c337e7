"""Losses between predicted and true velocity, one value per sample, always in fp32."""

from __future__ import annotations

import torch
from torch import Tensor

HUBER_C = 0.01
"""Width of the quadratic part of the pseudo-Huber loss; ai-toolkit's value."""


def per_item(prediction: Tensor, target: Tensor, kind: str, mask: Tensor | None = None) -> Tensor:
    """Mean loss of each sample: (B, …) and (B, …) give (B,) fp32.

    ``mse`` (p - t)^2; ``mae`` |p - t|; ``huber`` sqrt((p - t)^2 + c^2) - c with c = 0.01 (pseudo-Huber). With ``mask``
    (B, 1, h, w), weights by position, a weighted mean: sum(m l) / sum(m). A picture then counts as much as any other,
    however small the person in it; a mask of ones changes no bit.
    """
    difference = prediction.float() - target.float()
    if kind == "mse":
        values = difference.square()
    elif kind == "mae":
        values = difference.abs()
    elif kind == "huber":
        values = torch.sqrt(difference.square() + HUBER_C**2) - HUBER_C
    else:
        raise ValueError(f"unknown loss {kind!r}")
    if mask is None:
        return values.flatten(1).mean(dim=1)
    return (values * mask).flatten(1).mean(dim=1) / mask.flatten(1).mean(dim=1)


def preservation(adapted: Tensor, bare: Tensor) -> Tensor:
    """Mean squared difference per sample (B,) between predictions of the adapted model and of the bare base.

    Used with other prompts than the caption: the class word in place of the trigger (differential output preservation)
    or an empty prompt (blank prompt preservation). No gradient flows into ``bare``.
    """
    return per_item(adapted, bare.detach(), "mse")
