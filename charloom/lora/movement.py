"""How far an adapter has moved from its start, as a number that is independent of the model's size.

B starts at zero, and AdamW moves each of its entries by about the learning rate per step, whatever the width, the rank
or the gradients. The norm of a LoRA's change is about ``||B A|| = rms(B) sqrt(out) ||A||`` (Frobenius norms; rows of B
and A are nearly independent), so the root mean square of B is its size-independent part. For LoKr, the second Kronecker
factor takes the place of B. What AdamW reaches at 1e-4 is recorded here; an adapter far below that has learnt nothing,
even if it loads correctly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from charloom.lora.export import SCALED

RATE = 1e-4
"""Learning rate of the recorded curve."""
LEAST = 0.01
"""Fraction of the recorded movement below which an adapter counts as not moved."""
RECORDED = ((1, 0.949), (3, 1.96), (10, 4.16), (30, 8.07), (100, 17.5), (300, 31.6), (1000, 61.7))
"""(step, rms of B in units of RATE) of AdamW on the miniature: ``benchmarks/results/adapter_movement.json``."""


def moved(parameters: Mapping[str, Tensor]) -> float:
    """Root mean square of all entries that start at zero; ``parameters`` by name, such as ``….lora_B.weight``."""
    zeros = [p for name, p in parameters.items() if name.removesuffix(".weight").rsplit(".", 1)[-1] in SCALED]
    squares = sum(float(p.detach().float().square().sum()) for p in zeros)
    return math.sqrt(squares / max(1, sum(p.numel() for p in zeros)))


def expected(step: int) -> float:
    """:func:`moved` after ``step`` updates of AdamW at :data:`RATE`.

    Interpolated between the recorded steps, and extrapolated beyond them, as a power of the step.
    """
    step = max(step, 1)
    right = next((i for i, (at, _) in enumerate(RECORDED) if at >= step and i), len(RECORDED) - 1)
    (x0, y0), (x1, y1) = RECORDED[right - 1], RECORDED[right]
    return RATE * y0 * (step / x0) ** (math.log(y1 / y0) / math.log(x1 / x0))


def share(parameters: Mapping[str, Tensor], step: int, scale: float = 1.0) -> float:
    """Movement in ``step`` updates as a fraction of AdamW's at 1e-4; ``scale`` is the one folded into B."""
    return moved(parameters) / scale / expected(step)


def complaint(share: float, step: int, train: Mapping[str, Any]) -> str | None:
    """The problem and remedy if an adapter has not moved; None if it has.

    ``train`` are the settings of that section, which show whether the learning rate is the cause.
    """
    if share >= LEAST:
        return None
    remedy = "set train.lr to auto, or raise it"
    if (decay := train.get("ema")) and decay**step > 0.5:
        remedy = f"lower train.ema.decay {decay:g}, a running mean over about {1.0 / (1.0 - decay):,.0f} steps"
    elif (warmup := train.get("warmup_steps", 0)) > step:
        remedy = f"the rate still rises until step {warmup}: train on, or lower train.warmup_steps"
    return (
        f"the adapter has not moved: in {step} steps {share:.2g} of what AdamW reaches at a learning rate of {RATE:g}; "
        f"{remedy}"
    )
