"""BRISQUE (Mittal 2012): measures artefacts of blur, noise and compression without a reference picture.

It runs in OpenCV's ``quality`` module (``opencv-contrib-python``); Debian has the model's files in ``opencv-data``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture


class Brisque:
    """``brisque``: 0 is flawless, 100 is ruined."""

    name = "brisque"
    version = 1

    def __init__(self, files: dict[str, Path], weights: str, device: Any = "cpu") -> None:
        import cv2

        self.weights = weights
        self._model = cv2.quality.QualityBRISQUE_create(
            str(files["brisque_model_live.yml"]), str(files["brisque_range_live.yml"])
        )

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """Return one number per picture."""
        # OpenCV's order of colours is blue, green, red.
        bgr = [np.ascontiguousarray(picture.pixels[:, :, ::-1]) for picture in pictures]
        return [{"brisque": np.array([self._model.compute(one)[0]], np.float64)} for one in bgr]
