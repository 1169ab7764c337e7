"""Identity of photographed faces: dlib's detector, five landmarks and its 128-dimensional embedding.

Everything lies in two packages, ``dlib-bin`` and ``face-recognition-models``. Faces are compared by Euclidean distance:
its raw cosine is above 0.8 for strangers too. The detector alone (:func:`boxes`) serves the check of a data set.
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
        """An empty look where there is no face."""
        return [self._one(picture.pixels) for picture in pictures]

    def _one(self, pixels: np.ndarray) -> Look:
        pixels = np.ascontiguousarray(pixels)
        # Enlarged only where nothing was found: that finds smaller faces and takes four times as long.
        for enlarged in (0, 1):
            boxes, scores, _ = self._detector.run(pixels, enlarged, 0.0)
            if boxes:
                break
        else:
            return {}
        # The largest, unless the detector hardly believes in it: it takes some patterns for a face.
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
"""Pixels to which the longer edge is reduced before faces are looked for; those of 80 pixels and more are found."""
CERTAIN = 0.25
"""Score of the detector below which it often takes a pattern for a face."""

_own = threading.local()


def installed() -> bool:
    """Whether the detector is there; it needs ``dlib-bin`` alone."""
    return find_spec("dlib") is not None


def boxes(pixels: np.ndarray) -> list[dict[str, Any]]:
    """All frontal faces on RGB pixels (H, W, 3; uint8), the largest first.

    Each has ``box`` (left, top, right, bottom as shares of the edges) and ``score``.
    """
    if not hasattr(_own, "detector"):
        import dlib

        _own.detector = dlib.get_frontal_face_detector()  # not shared: it has buffers of its own
    found, scores, _ = _own.detector.run(np.ascontiguousarray(pixels), 0, 0.0)
    height, width = pixels.shape[:2]
    out = []
    for box, score in zip(found, scores, strict=True):
        if score >= CERTAIN:
            shares = [box.left() / width, box.top() / height, box.right() / width, box.bottom() / height]
            out.append({"box": [round(value, 4) for value in shares], "score": round(float(score), 3)})
    return sorted(out, key=lambda face: face["box"][1] - face["box"][3])
