"""The back end ``look``: tells from colours and lines alone whether a picture is drawn in a style, on any base.

A picture is treated as a bag of pixels, each in a cell of colour (CIELAB) and local contrast: which colours are flat
and which are at edges is typical of a technique, whatever is drawn. Two histograms, of the style's own pictures and of
what the base draws for the same prompts without the LoRA, give each cell a log likelihood ratio; a picture's is the
mean over its pixels (naive Bayes on colour histograms: Swain and Ballard 1991, Jones and Rehg 2002).

That mean is put on a scale where 0 is the base, 1 is the style and 0.5 is the cut between them; all three are found by
leaving out each known picture in turn. ``style`` is how far a sample is above what the base draws for the same prompt
and seed, so that a subject that happens to have the style's colours does not count.
Identity, obedience and bleed concern persons and prompts: they stay *not scored*.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from charloom.judge.backend import Backend, Picture, Reading
from charloom.judge.memory import Look as Seen
from charloom.judge.memory import Memory
from charloom.judge.plain import Plain

EDGE = 128
"""Pictures are compared at this size in pixels,"""
LIGHT, COLOUR = 10, 16
"""with this many steps of L and of each of a and b,"""
CONTRAST = (2.0, 8.0)
"""and these limits between steps of the gradient of L (per pixel, L from 0 to 100)."""
SPREAD = 2
"""How often the shares are smoothed across neighbouring colours, so that the borders of cells do not matter."""
CELLS = LIGHT * COLOUR**2 * (len(CONTRAST) + 1)
RARE = 3e-4
"""Share of pixels below which a cell says little,"""
MOST = 3.0
"""and the most that a cell may say for or against a style (nats)."""
ENOUGH = 4
"""A reader needs at least this many pictures of either kind."""
READ = 0.5
"""A picture counts as drawn in the style if its value exceeds that of the base alone by more than this."""


def cells(pixels: np.ndarray) -> np.ndarray:
    """Share of a picture's pixels, uint8 (H, W, 3), in each cell: float32 (CELLS,), with sum 1."""
    image = Image.fromarray(pixels).resize((EDGE, EDGE), Image.Resampling.BOX)
    lab = _lab(np.asarray(image, dtype=np.float64) / 255.0)
    light = np.clip(lab[..., 0] / 100 * LIGHT, 0, LIGHT - 1).astype(int)
    a, b = (np.clip((lab[..., i] + 60) / 120 * COLOUR, 0, COLOUR - 1).astype(int) for i in (1, 2))
    contrast = np.digitize(np.hypot(*np.gradient(lab[..., 0])), CONTRAST)
    index = ((light * COLOUR + a) * COLOUR + b) * (len(CONTRAST) + 1) + contrast
    shares = np.bincount(index.ravel(), minlength=CELLS).reshape(LIGHT, COLOUR, COLOUR, -1) / index.size
    for _ in range(SPREAD):
        for axis in range(3):
            shares = _smoothed(shares, axis)
    return shares.ravel().astype(np.float32)


def _smoothed(shares: np.ndarray, axis: int) -> np.ndarray:
    """Apply a binomial filter of three cells along an axis; what would leave at an end stays there."""
    moved = np.moveaxis(shares, axis, 0)
    padded = np.concatenate([moved[:1], moved, moved[-1:]])
    return np.moveaxis(0.25 * padded[:-2] + 0.5 * moved + 0.25 * padded[2:], 0, axis)


class Reader:
    """A classifier of pictures with and without a style, made from the :func:`cells` (N, CELLS) of some of each."""

    def __init__(self, styled: np.ndarray, plain: np.ndarray) -> None:
        self._weights = _ratio(styled.mean(axis=0), plain.mean(axis=0))
        known = [
            np.array([_left_out(group, other, place) * sign for place in range(len(group))])
            for group, other, sign in ((plain, styled, -1.0), (styled, plain, 1.0))
        ]
        (self._zero, self._one), spread = ([f(values) for values in known] for f in (np.mean, np.std))
        # Equally many standard deviations away from both.
        share = (spread[0] + 1e-6) / (spread[0] + spread[1] + 2e-6)
        self._cut = self._zero + share * (self._one - self._zero)
        self.styled = float(np.median(self._placed(known[1])))
        """The typical ``style`` of the style's own pictures."""

    def read(self, seen: np.ndarray) -> np.ndarray:
        """``style`` of pictures from their cells (N, CELLS): 0 is without, 1 is the style; values may go beyond."""
        return self._placed(seen @ self._weights)

    def _placed(self, values: np.ndarray) -> np.ndarray:
        zero, cut, one = (float(value) for value in (self._zero, self._cut, self._one))
        if one - zero < 1e-6:
            return np.zeros_like(values)  # nothing tells them apart
        return np.interp(values, [2 * zero - cut, cut, 2 * one - cut], [0.5 - 1.0, 0.5, 0.5 + 1.0])


def _ratio(styled: np.ndarray, plain: np.ndarray) -> np.ndarray:
    return np.clip(np.log((styled + RARE) / (plain + RARE)), -MOST, MOST)


def _left_out(group: np.ndarray, other: np.ndarray, place: int) -> float:
    """The mean log likelihood ratio of one picture for its own group, from which the picture itself is left out."""
    rest = np.delete(group, place, axis=0).mean(axis=0)
    return float(group[place] @ _ratio(rest, other.mean(axis=0)))


class Look(Backend):
    """``style`` by a :class:`Reader`; ``detail`` and ``contrast`` by :class:`Plain`."""

    name = "look"
    weights = ""

    def __init__(
        self, weights: Path | None = None, memory: Memory | None = None, without: Sequence[Picture] = ()
    ) -> None:
        """``without`` are pictures that the base alone draws, named like the samples; with too few there is no
        ``style``."""
        self._memory = memory or Memory()
        self._plain = Plain(memory=self._memory)
        self._without = without
        self._reader: Reader | None = None
        self._usual: dict[str, float] = {}

    def study(self, references: Sequence[Picture]) -> dict[str, float]:
        """Learn the style from its own pictures; the level is what they reach when each is left out in turn."""
        levels = self._plain.study(references)
        styled, plain = self._cells(references), self._cells(self._without)
        if len(styled) < ENOUGH or len(plain) < ENOUGH:
            return levels
        self._reader = Reader(styled, plain)
        places = self._reader.read(plain).tolist()
        if len(places) == len(self._without):  # otherwise one could not be read, and it is unknown which
            self._usual = dict(zip((one.name for one in self._without), places, strict=True))
        return {**levels, "style": self._reader.styled}

    def measure(self, samples: Sequence[Picture]) -> list[Reading]:
        """Measure ``style`` (0 to 1), ``detail`` and ``contrast`` of each sample."""
        readings = []
        for sample, plain, look in zip(samples, self._plain.measure(samples), self._looks(samples), strict=True):
            values, misses = dict(plain.values), ()
            if look and self._reader:
                place = float(self._reader.read(look["cells"][None])[0])
                style = float(np.clip(place - self._usual.get(sample.name, 0.0), 0.0, 1.0))
                values["style"] = style
                if style <= READ and sample.strength:
                    misses = (f"style: {style:.2f}, not drawn in it",)
            readings.append(Reading(values, misses))
        return readings

    def _cells(self, pictures: Sequence[Picture]) -> np.ndarray:
        found = [look["cells"] for look in self._looks(pictures) if look] if pictures else []
        return np.stack(found) if found else np.zeros((0, CELLS))

    def _looks(self, pictures: Sequence[Picture]) -> list[Seen | None]:
        return self._memory.looks("look 1", pictures, lambda new: [{"cells": cells(picture.pixels)} for picture in new])


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB (…, 3) in 0..1 to CIELAB, D65 (IEC 61966-2-1, CIE 15)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
