"""Flow-matching conventions of Z-Image in one place.

sigma in [0, 1] is the noise level (1 = pure noise): ``x_sigma = (1 - sigma) x0 + sigma noise``. The
transformer takes ``t = 1 - sigma`` and returns about ``x0 - noise``; the prediction is its negative,
about ``v = noise - x0``, so an Euler step is ``x <- x + (sigma_next - sigma) v``.
Source: diffusers ``pipeline_z_image.py`` and ``train_dreambooth_lora_z_image.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SHIFT = 3.0
"""Static schedule shift of Z-Image-Turbo (scheduler_config.json)."""


def shift_sigma(sigma: float, shift: float = SHIFT) -> float:
    """Time shift ``s sigma / (1 + (s - 1) sigma)`` (Esser et al. 2024, eq. 23)."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def sample_sigmas(steps: int, shift: float = SHIFT) -> list[float]:
    """The ``steps + 1`` noise levels of a sampling run: ``linspace(1, 1/steps, steps)`` shifted, then 0.

    Eight steps are 1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3, 0.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return [shift_sigma(1.0 - i / steps, shift) for i in range(steps)] + [0.0]


def _broadcast(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.view(-1, *[1] * (like.ndim - 1))


def noisy(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Latents at noise level ``sigma`` (B,); ``x0`` and ``noise`` (B, …)."""
    sigma = _broadcast(sigma, x0)
    return (1.0 - sigma) * x0 + sigma * noise


def target(x0: Tensor, noise: Tensor) -> Tensor:
    """The true velocity, which the prediction ``v`` is trained towards."""
    return noise - x0


def velocity(predict: Callable[..., Tensor], x: Tensor, sigma: Tensor | float, *captions: Tensor) -> Tensor:
    """Prediction ``v`` (B, …) for ``x`` (B, …) at noise level ``sigma``, (B,) or one for all.

    ``predict`` is a :data:`charloom.zimage.forward.Predict`, ``captions`` its remaining arguments.
    """
    if not isinstance(sigma, Tensor):
        return -predict(x, torch.full((len(x),), 1.0 - sigma, device=x.device), *captions)
    return -predict(x, 1.0 - sigma, *captions)
