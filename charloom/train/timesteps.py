"""Noise levels of training as named distributions.

Tools for Z-Image differ in their defaults, so each name is defined here by a formula. With u uniform
in (0, 1), the bias first turns u into a *position* q, 0 = noisiest:

    balanced    q = u
    high_noise  q = u^3          (ai-toolkit "content")
    low_noise   q = 1 - u^3      (ai-toolkit "style")

and the type turns the position into sigma, the quantile of its distribution seen from the noisy end:

    linear      sigma = 1 - q                         uniform
    sigmoid     sigma = sigmoid(Phi^-1(1 - q))        logit-normal(0, 1); the guide's default
    shift       sigma = a s / (1 + (a - 1) s), s = 1 - q    the schedule the base is sampled with (Turbo: a = 3)
    weighted    as linear, and the loss is multiplied by a bell over sigma (:func:`loss_weight`)

ai-toolkit takes q on a grid of 1000 points; here it is continuous. A new type is one word in
``recipe.schema.yaml`` and its formula in :data:`TYPES`. Independent of data and models.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

from charloom.core import randomness
from charloom.zimage import flow

BANDS = 4
"""Bands of sigma that losses are reported in: quarters of [0, 1]."""

_PHI = NormalDist()

# Loss weight over sigma as measured by the authors of ai-toolkit on a flow-matching model (mean 1 over
# uniform sigma), reduced to knots joined by straight lines.
_BELL = (
    (0.000, 0.446), (0.008, 0.451), (0.020, 0.466), (0.035, 0.510), (0.050, 0.560), (0.065, 0.615),
    (0.080, 0.661), (0.100, 0.708), (0.120, 0.730), (0.150, 0.728), (0.200, 0.718), (0.260, 0.714),
    (0.320, 0.728), (0.380, 0.766), (0.440, 0.833), (0.500, 0.925), (0.560, 1.030), (0.620, 1.142),
    (0.680, 1.257), (0.740, 1.380), (0.780, 1.446), (0.820, 1.497), (0.860, 1.519), (0.877, 1.522),
    (0.900, 1.503), (0.930, 1.455), (0.950, 1.380), (0.965, 1.276), (0.975, 1.211), (0.985, 1.101),
    (0.992, 1.017), (0.997, 0.940), (1.000, 0.906),
)  # fmt: skip


def _logit_normal(s: float) -> float:
    # The clamp keeps the quantile finite where the cube of the bias underflows.
    return 1.0 / (1.0 + math.exp(-_PHI.inv_cdf(min(max(s, 1e-16), 1.0 - 1e-16))))


BIASES: dict[str, Callable[[float], float]] = {
    "balanced": lambda u: u,
    "high_noise": lambda u: u**3,
    "low_noise": lambda u: 1.0 - u**3,
}
"""The position q for a uniform u, by ``train.timestep_bias``."""
TYPES: dict[str, Callable[[float, float], float]] = {
    "sigmoid": lambda s, _: _logit_normal(s),
    "linear": lambda s, _: s,
    "shift": flow.shift_sigma,
    "weighted": lambda s, _: s,
}
"""Sigma for s = 1 - q and the shift of the base's scheduler, by ``train.timestep_type``."""


def position(u: float, bias: str) -> float:
    """Position on the noise axis, 0 = noisiest, for a uniform ``u``."""
    return BIASES[bias](u)


def sigma_at(q: float, kind: str, shift: float = flow.SHIFT) -> float:
    """Noise level at position ``q`` of the named distribution; ``shift`` is that of the base's scheduler."""
    return TYPES[kind](1.0 - q, shift)


def sigma(seed: int, draw: int, kind: str, bias: str, shift: float = flow.SHIFT) -> float:
    """Noise level of training sample ``draw``."""
    return sigma_at(position(randomness.uniform(seed, "sigma", draw), bias), kind, shift)


def loss_weight(value: float, kind: str) -> float:
    """Factor on the loss at noise level ``value``: the bell for ``weighted``, else 1."""
    if kind != "weighted":
        return 1.0
    right = min(max(bisect.bisect_right(_BELL, (value,)), 1), len(_BELL) - 1)
    (x0, y0), (x1, y1) = _BELL[right - 1], _BELL[right]
    return y0 + (y1 - y0) * (value - x0) / (x1 - x0)


def band(value: float) -> int:
    """Index of the reporting band that a noise level falls into."""
    return min(int(value * BANDS), BANDS - 1)


def histogram(values: Sequence[float], bins: int = 20) -> list[int]:
    """How many noise levels fall into each of ``bins`` equal parts of [0, 1]."""
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins), bins - 1)] += 1
    return counts
