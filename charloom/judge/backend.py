"""The interface of judges: back ends that turn pictures into scores.

A back end studies the reference pictures of one character once and then measures any number of samples
against them. A metric that it cannot measure is left out: it is *not scored*, never a pass. This module
imports no network; the module of a back end is imported when it is opened.

Metrics and their ranges, one value per sample:

* ``identity``: similarity of the sample to the references, in the judge's own unit; 1 is the same.
* ``identity_relative``: the same on a scale where 1 is the similarity of the references to each other and 0 is
  somebody else, or nothing in common.
* ``obedience``: share of the attributes named in the prompt that the sample shows, 0 to 1;
  ``obedience.<attribute>`` is 1 or 0, or a probability.
* ``bleed``: share of the opportunities to copy the training pictures (an outfit, background or accessory that
  they show and the prompt does not ask for) that were taken, 0 to 1; ``bleed.<attribute>`` is 1 or 0.
* ``style``: how far the sample is drawn in the trained style, from 0 (like the base alone) to 1 (like the style's own
  pictures); above 0.5 it counts as drawn in it.
* ``detail``: sharpness relative to the references, 1 is as sharp.
* ``brisque``: artefacts, 0 (none) to 100 (ruined); measured on request.
* ``copy.cosine``, ``copy.bits``: similarity to the nearest training picture, and differing bits of 64 of their hashes.
* ``identity.found``: 1 if the identity instrument found somebody.
* ``contrast``: standard deviation of the luminance, 0 to 0.5; near 0 the picture is blank.

To add a back end, write a subclass of :class:`Backend`, name it in :data:`BACKENDS` as
``"module:Class"``, and allow its name for ``judge`` in ``config/schemas/base.schema.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from charloom.core import pictures, words
from charloom.core.errors import UserError
from charloom.judge.memory import Memory

BACKENDS: dict[str, str] = {
    "auto": "charloom.judge.auto:Auto",
    "none": "charloom.judge.plain:Plain",
    "paperdoll": "charloom.judge.paperdoll:Paperdoll",
}
"""Name in the base file to ``module:Class``; the module is imported when the back end is opened."""

LOOK = "look"
"""The back end for styles, whatever the base's judge is."""
_ALL = {**BACKENDS, LOOK: "charloom.judge.look:Look"}

METRICS = ("identity", "identity_relative", "obedience", "bleed", "detail", "contrast")
"""The metrics that a report explains; back ends may add ``<metric>.<attribute>``."""

EDGE = 512
"""Pictures are measured with no edge longer than this (pixels)."""

LEAK = "leak.identity"
"""Identity for prompts without the trigger, by back ends that have ``leaks``; it should be like the base's."""

OF_THE_CHARACTER = ("identity", "identity_relative", "bleed", "copy")
"""Metrics that compare with the character; they mean nothing for prompts without the trigger."""


class Picture:
    """A picture with its text: the caption of a reference, the prompt of a sample.

    ``pixels`` is uint8 (H, W, 3), or a function that reads it on first use, so that a picture whose measurements are
    cached is never read.
    """

    def __init__(
        self,
        name: str,
        text: str,
        pixels: np.ndarray | Callable[[], np.ndarray],
        seed: int = 0,
        strength: float = 1.0,
        content: str = "",
    ) -> None:
        self.name = name
        self.text = text
        self.seed = seed
        self.strength = strength
        """Strength of the LoRA."""
        self.content = content
        """SHA-256 of its file, the key of cached measurements; empty: nothing is cached."""
        self._pixels = pixels

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3).

        Raises:
            UserError: the file is missing or is not a picture.
        """
        if callable(self._pixels):
            self._pixels = self._pixels()
        return self._pixels


@dataclass(frozen=True)
class Reading:
    """The metrics of one sample, and what differs from the prompt, in words."""

    values: dict[str, float]
    misses: tuple[str, ...] = field(default=())
    by: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The instrument that measured a metric, if not the back end itself: its name and the SHA-256 of its weights."""


class Backend(Protocol):
    """Measures samples against the references of one character."""

    name: str
    weights: str
    """SHA-256 of the network that judges; empty if there is none."""
    leaks: bool = False
    """Whether identity is also scored for prompts without the trigger (:data:`LEAK`)."""

    @property
    def failed(self) -> Set[str]:
        """Instruments that failed at runtime and may work next time; scores made without them are not kept."""
        return frozenset()

    def study(self, references: Sequence[Picture]) -> dict[str, float]:
        """Study the references; returns, by metric, the levels that they reach among themselves."""
        ...

    def measure(self, samples: Sequence[Picture]) -> list[Reading]:
        """Measure samples: one reading per sample, in order; call :meth:`study` first."""
        ...

    def about(self) -> dict[str, Any]:
        """What a score document contains besides its values."""
        return {}


def open_backend(name: str, weights: Path | None = None, memory: Memory | None = None, **more: Any) -> Backend:
    """Open the back end ``name`` with its network from ``weights``.

    ``memory`` caches what was seen in a picture; ``more`` is passed to the back end: ``auto`` needs ``judge`` (the
    content of ``judge.json``) and ``device``; ``look`` needs ``without``, pictures drawn by the base alone.

    Raises:
        UserError: the name is unknown or the weights are missing.
    """
    if name not in _ALL:
        raise UserError(f"judge: there is no back end '{name}'; use one of {', '.join(sorted(BACKENDS))}")
    module, _, cls = _ALL[name].partition(":")
    return getattr(import_module(module), cls)(weights, memory=memory, **more)


def load_picture(
    path: Path, text: str, *, name: str = "", seed: int = 0, strength: float = 1.0, edge: int = EDGE
) -> Picture:
    """Read a picture as RGB with no edge longer than ``edge`` pixels (judging needs no more).

    Raises:
        UserError: the file is missing or is not a picture.
    """
    return Picture(name or path.stem, text, _pixels(path, edge), seed, strength)


def later(
    path: Path, text: str, content: str, *, name: str = "", seed: int = 0, strength: float = 1.0, edge: int = EDGE
) -> Picture:
    """The same, but read on first use; ``content`` is the SHA-256 of the file."""
    return Picture(name or path.stem, text, lambda: _pixels(path, edge), seed, strength, content)


def _pixels(path: Path, edge: int) -> np.ndarray:
    image = pictures.read(path, pictures.MADE_HERE).image
    # reduce() first: at 2048 pixels its box filter takes a tenth of the time of resizing.
    if (factor := max(image.size) // (edge * 2)) > 1:
        image = image.reduce(factor)
    if max(image.size) > edge:
        image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return np.asarray(image)


def score(
    backend: Backend, levels: dict[str, float], character: str, step: int, samples: Sequence[Picture], trigger: str = ""
) -> dict[str, Any]:
    """Score one checkpoint; returns plain values, the content of ``scores/step-NNNNNN.json``.

    A back end adds :meth:`Backend.about`; if it has several instruments, each row names its own.

    ``levels`` is what :meth:`Backend.study` returned. A sample whose prompt lacks the trigger shows somebody else, so
    its identity and bleed are left out. Values are rounded to 6 digits, so that the file is the same on machines
    whose arithmetic differs in the last bits.
    """
    rows, misses = [], {}
    for sample, reading in zip(samples, backend.measure(samples), strict=True):
        other = bool(trigger) and not words.count(sample.text, trigger)
        for metric, value in reading.values.items():
            who = dict(zip(("backend", "weights"), reading.by[metric], strict=True)) if metric in reading.by else {}
            if other and metric == "identity_relative" and backend.leaks:
                metric = LEAK
            if other and metric.partition(".")[0] in OF_THE_CHARACTER:
                continue
            key = {"prompt": sample.name, "seed": sample.seed, "strength": float(sample.strength), "metric": metric}
            rows.append({**key, "value": round(float(value), 6), **who})
        if reading.misses:
            misses[sample.name] = list(reading.misses)
    measured = {row["metric"] for row in rows}
    return {
        **backend.about(),
        "character": character,
        "step": step,
        "backend": backend.name,
        "weights": backend.weights,
        "levels": {key: round(float(value), 6) for key, value in levels.items()},
        "rows": rows,
        "misses": misses,
        "not_scored": [] if backend.name == LOOK else [metric for metric in METRICS if metric not in measured],
    }
