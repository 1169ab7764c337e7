"""The back end ``none``: sharpness and contrast, which do not depend on what a picture shows.

It works with any base; identity, obedience and bleed stay *not scored*. Other back ends reuse these two metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from charloom.judge.backend import Backend, Picture, Reading
from charloom.judge.memory import Look, Memory

EDGE = 256
"""Size in pixels at which pictures are compared, so that sharpness does not depend on their resolution."""


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Convert uint8 (H, W, 3) to luminance (256, 256) in 0..1 with ITU-R 601 weights."""
    image = Image.fromarray(pixels).convert("L").resize((EDGE, EDGE), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.float64) / 255.0


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian of a luminance picture (H, W); a common measure of focus (Pech-Pacheco 2000)."""
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4.0 * grey[1:-1, 1:-1]
    return float(laplacian.var())


class Plain(Backend):
    """Sharpness relative to the references, and contrast."""

    name = "none"

    def __init__(self, weights: Path | None = None, memory: Memory | None = None) -> None:
        self.weights = ""
        self._memory = memory or Memory()
        self._sharpness = 0.0

    def study(self, references: Sequence[Picture]) -> dict[str, float]:
        """Learn the median sharpness of the references; without references there is no ``detail``."""
        values = [float(look["sharpness"][0]) for look in self._looks(references) if look]
        self._sharpness = float(np.median(values)) if values else 0.0
        return {"sharpness": self._sharpness} if values else {}

    def measure(self, samples: Sequence[Picture]) -> list[Reading]:
        """Measure ``detail`` and ``contrast`` of each sample."""
        readings = []
        for look in self._looks(samples):
            values = {"contrast": float(look["contrast"][0])} if look else {}
            if look and self._sharpness > 0:
                values["detail"] = float(look["sharpness"][0]) / self._sharpness
            readings.append(Reading(values))
        return readings

    def _looks(self, pictures: Sequence[Picture]) -> list[Look | None]:
        return self._memory.looks("plain 1", pictures, lambda new: [_look(picture.pixels) for picture in new])


def _look(pixels: np.ndarray) -> Look:
    grey = luminance(pixels)
    return {"sharpness": np.float64(sharpness(grey)).reshape(1), "contrast": np.float64(grey.std()).reshape(1)}
