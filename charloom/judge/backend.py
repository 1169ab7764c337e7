"""The interface of judges: back ends that turn pictures into scores.

A back end studies the reference pictures of one character once and then measures any number of samples
against them. A metric that it cannot measure is left out: it is *not scored*, never a pass. This module
imports no network; the module of a back end is imported when it is opened.

Metrics and their ranges, one value per sample:

* ``identity``: cosine between the identity of the sample and the unit mean of the references', -1 to 1.
* ``identity_relative``: the same divided by the mean leave-one-out value of the references; 1 means as similar
  as the references are to each other.
* ``obedience``: share of the attributes named in the prompt that the sample shows, 0 to 1;
  ``obedience.<attribute>`` is 1 or 0.
* ``bleed``: share of the opportunities to copy the training pictures (an outfit, background or accessory that
  they show and the prompt does not ask for) that were taken, 0 to 1; ``bleed.<attribute>`` is 1 or 0.
* ``detail``: sharpness relative to the references, 1 is as sharp.
* ``contrast``: standard deviation of the luminance, 0 to 0.5; near 0 the picture is blank.

To add a back end, write a class with the members of :class:`Backend`, name it in :data:`BACKENDS` as
``"module:Class"``, and allow its name for ``judge`` in ``config/schemas/base.schema.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from charloom.core import pictures, words
from charloom.core.errors import UserError

BACKENDS: dict[str, str] = {
    "none": "charloom.judge.plain:Plain",
    "paperdoll": "charloom.judge.paperdoll:Paperdoll",
}
"""Name in the base file to ``module:Class``; the module is imported when the back end is opened."""

METRICS = ("identity", "identity_relative", "obedience", "bleed", "detail", "contrast")
"""The metrics that a report explains; back ends may add ``<metric>.<attribute>``."""

OF_THE_CHARACTER = ("identity", "identity_relative", "bleed")
"""Metrics that compare with the character; meaningless where the prompt lacks the trigger."""


@dataclass(frozen=True)
class Picture:
    """A picture with its text: the caption of a reference, the prompt of a sample."""

    name: str
    text: str
    pixels: np.ndarray
    """uint8 (H, W, 3)."""
    seed: int = 0
    strength: float = 1.0
    """Strength of the LoRA."""


@dataclass(frozen=True)
class Reading:
    """The metrics of one sample, and in words what differs from the prompt."""

    values: dict[str, float]
    misses: tuple[str, ...] = field(default=())


class Backend(Protocol):
    """Measures samples against the references of one character."""

    name: str
    weights: str
    """SHA-256 of the network that judges, empty where there is none."""

    def study(self, references: Sequence[Picture]) -> dict[str, float]:
        """Learn the references; returns the levels that they reach among themselves, by metric."""
        ...

    def measure(self, samples: Sequence[Picture]) -> list[Reading]:
        """One reading per sample, in their order; call :meth:`study` first."""
        ...


def open_backend(name: str, weights: Path | None = None) -> Backend:
    """Open the back end ``name`` with its network from ``weights``.

    Raises:
        UserError: the name is unknown or the weights are missing.
    """
    if name not in BACKENDS:
        raise UserError(f"judge: there is no back end '{name}'; use one of {', '.join(sorted(BACKENDS))}")
    module, _, cls = BACKENDS[name].partition(":")
    return getattr(import_module(module), cls)(weights)


def load_picture(
    path: Path, text: str, *, name: str = "", seed: int = 0, strength: float = 1.0, edge: int = 512
) -> Picture:
    """Read a picture as RGB with no edge longer than ``edge`` pixels (judging needs no more).

    Raises:
        UserError: the file is missing or is no picture.
    """
    image = pictures.read(path, pictures.MADE_HERE).image
    # reduce() first: on 2048 pixels a box filter takes a tenth of the time of resizing.
    if (factor := max(image.size) // (edge * 2)) > 1:
        image = image.reduce(factor)
    if max(image.size) > edge:
        image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return Picture(name or path.stem, text, pixels, seed, strength)


def score(
    backend: Backend, levels: dict[str, float], character: str, step: int, samples: Sequence[Picture], trigger: str = ""
) -> dict[str, Any]:
    """The scores of one checkpoint as plain values, the content of ``scores/step-NNNNNN.json``.

    ``levels`` is what :meth:`Backend.study` returned. A sample whose prompt lacks the trigger shows somebody else, so
    its identity and bleed are left out. Values are rounded to 6 digits, so that the file is the same on machines
    whose arithmetic differs in the last bits.
    """
    rows, misses = [], {}
    for sample, reading in zip(samples, backend.measure(samples), strict=True):
        other = bool(trigger) and not words.count(sample.text, trigger)
        for metric, value in reading.values.items():
            if other and metric.partition(".")[0] in OF_THE_CHARACTER:
                continue
            key = {"prompt": sample.name, "seed": sample.seed, "strength": float(sample.strength), "metric": metric}
            rows.append({**key, "value": round(float(value), 6)})
        if reading.misses:
            misses[sample.name] = list(reading.misses)
    measured = {row["metric"] for row in rows}
    return {
        "character": character,
        "step": step,
        "backend": backend.name,
        "weights": backend.weights,
        "levels": {key: round(float(value), 6) for key, value in levels.items()},
        "rows": rows,
        "misses": misses,
        "not_scored": [metric for metric in METRICS if metric not in measured],
    }
