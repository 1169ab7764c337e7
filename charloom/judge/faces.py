"""Identity of photographed faces: dlib's detector, five landmarks and its 128-dimensional embedding.

Everything is in two packages, ``dlib-bin`` and ``face-recognition-models``. Faces are compared by Euclidean distance,
because the cosine is above 0.8 even for strangers. The check of a data set uses only the detector (:func:`boxes`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture


class Faces:
    """The largest face of a picture: ``vector`` (128,) and ``box`` (left, top, right, bottom; pixels)."""

    name = "dlib"
    version = 1

    def __init__(self, files: dict[str, Path], weights: str, device: Any = "cpu") -> None:
        import dlib

        self.weights = weights
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(files["shape_predictor_5_face_landmarks.dat"]))
        self._encoder = dlib.face_recognition_model_v1(str(files["dlib_face_recognition_resnet_model_v1.dat"]))

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """Look at each picture; the look is empty if there is no face."""
        return [self._one(picture.pixels) for picture in pictures]

    def _one(self, pixels: np.ndarray) -> Look:
        pixels = np.ascontiguousarray(pixels)
        # Enlarged only if nothing was found: it finds smaller faces, but takes four times as long.
        for enlarged in (0, 1):
            boxes, scores, _ = self._detector.run(pixels, enlarged, 0.0)
            if boxes:
                break
        else:
            return {}
        # The largest face, weighted by the detector's score, because some patterns look like faces to it.
        box, _ = max(zip(boxes, scores, strict=True), key=lambda found: found[1] * found[0].width())
        vector = self._encoder.compute_face_descriptor(pixels, self._landmarks(pixels, box))
        edges = [box.left(), box.top(), box.right(), box.bottom()]
        return {"vector": np.asarray(vector, dtype=np.float32), "box": np.asarray(edges, dtype=np.int32)}

    @staticmethod
    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """1 - Euclidean distance, between (N, 128) and (M, 128): about 0.64 for one person, 0.1 for strangers."""
        return 1.0 - np.linalg.norm(one[:, None, :] - other[None, :, :], axis=-1)

    stranger = 0.113
    """Mean similarity of two strangers (distance 0.887), on portraits of 62 pictures; used where no pictures of
    others were measured."""
    cut = 0.4
    """The usual limit between same and different: distance 0.6 (King 2017)."""


LONGEST = 480
"""Pixels to which the longer edge is reduced before detection; faces of at least 80 pixels are found."""
CERTAIN = 0.25
"""Below this score the detector often mistakes a pattern for a face."""

_own = threading.local()


def installed() -> bool:
    """Whether the detector is installed; it only needs ``dlib-bin``."""
    return find_spec("dlib") is not None


def boxes(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Find all frontal faces in RGB pixels (H, W, 3; uint8), largest first.

    Each has ``box`` (left, top, right, bottom as shares of the edges) and ``score``.
    """
    if not hasattr(_own, "detector"):
        import dlib

        _own.detector = dlib.get_frontal_face_detector()  # one per thread: it has internal buffers
    found, scores, _ = _own.detector.run(np.ascontiguousarray(pixels), 0, 0.0)
    height, width = pixels.shape[:2]
    out = []
    for box, score in zip(found, scores, strict=True):
        if score >= CERTAIN:
            shares = [box.left() / width, box.top() / height, box.right() / width, box.bottom() / height]
            out.append({"box": [round(value, 4) for value in shares], "score": round(float(score), 3)})
    return sorted(out, key=lambda face: face["box"][1] - face["box"][3])
