"""Finds the person in a picture: a mask by mediapipe, or a crop around a face.

Crops are again pictures, with a content digest of their own, so that any instrument can look at them and its looks can
be cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charloom.core.canonical import digest
from charloom.core.errors import UserError, reason
from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture

LEAST = 0.03
"""A mask that covers a smaller share of the picture shows nobody."""
MEAN = 127
INSTALL = "pip install --no-deps mediapipe==0.10.21 'protobuf>=6.33,<7' absl-py attrs flatbuffers"


class Selfie:
    """``mask`` by mediapipe's selfie segmentation: uint8 (64, 64), 255 where the person is."""

    name = "mediapipe"
    version = 1
    SIZE = 64

    def __init__(self, files: dict[str, Path], weights: str, device: Any = "cpu") -> None:
        from mediapipe.python.solutions import selfie_segmentation

        self.weights = weights
        self._network = selfie_segmentation.SelfieSegmentation(model_selection=0)

    def look(self, pictures: Sequence[Picture]) -> list[Look]:
        """Look at each picture; the look is empty if there is nobody."""
        from PIL import Image

        looks: list[Look] = []
        for picture in pictures:
            share = self._network.process(np.ascontiguousarray(picture.pixels)).segmentation_mask
            small = Image.fromarray((np.clip(share, 0, 1) * 255).astype(np.uint8)).resize((self.SIZE, self.SIZE))
            mask = np.asarray(small)
            looks.append({"mask": mask} if (mask > 127).mean() >= LEAST else {})
        return looks


def share(pixels: np.ndarray) -> np.ndarray | None:
    """How much of each RGB pixel (H, W, 3) is the person: (H, W), fp32, 0 to 1; None if there is nobody.

    Raises:
        UserError: mediapipe is not installed, or cannot be imported.
    """
    if find_spec("mediapipe") is None:
        raise UserError(f"images.masks: auto needs mediapipe where pictures are not transparent: {INSTALL}")
    try:
        from mediapipe.python.solutions import selfie_segmentation
    except Exception as error:  # an incompatible protobuf or numpy
        raise UserError(
            f"images.masks: auto needs mediapipe, which cannot be imported ({reason(error)}): {INSTALL}"
        ) from error

    with selfie_segmentation.SelfieSegmentation(model_selection=0) as network:
        found = network.process(np.ascontiguousarray(pixels)).segmentation_mask
    found = np.clip(np.asarray(found, np.float32), 0.0, 1.0)
    return found if (found > 0.5).mean() >= LEAST else None


def around_face(picture: Picture, look: Look) -> Picture:
    """Crop head and shoulders: the face's box, widened by its own size to the sides and downwards."""
    left, top, right, bottom = (int(edge) for edge in look["box"])
    width, height = right - left, bottom - top
    return _cut(picture, [left - width, top - height, right + width, bottom + 2 * height], "face")


def person(picture: Picture, look: Look) -> Picture:
    """Crop the picture to the mask, with the person on grey."""
    mask = look["mask"] > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    high, wide = mask.shape
    box = [columns[0] / wide, rows[0] / high, (columns[-1] + 1) / wide, (rows[-1] + 1) / high]

    def pixels() -> np.ndarray:
        own = picture.pixels
        scale = [own.shape[1], own.shape[0]] * 2
        left, top, right, bottom = (round(edge * size) for edge, size in zip(box, scale, strict=True))
        kept = np.where(_grown(mask, own.shape)[..., None], own, MEAN).astype(np.uint8)
        return kept[top : max(bottom, top + 8), left : max(right, left + 8)]

    return _derived(picture, pixels, "person", [round(edge, 4) for edge in box])


def clothes(picture: Picture, look: Look) -> Picture:
    """Crop roughly the person below the shoulders: the lower two thirds of :func:`person`."""
    whole = person(picture, look)

    def pixels() -> np.ndarray:
        return whole.pixels[whole.pixels.shape[0] // 3 :]

    return _derived(whole, pixels, "clothes", 3)


def background(picture: Picture, look: Look) -> Picture:
    """Paint the person over in grey."""
    mask = look["mask"] > 127

    def pixels() -> np.ndarray:
        own = picture.pixels
        return np.where(_grown(mask, own.shape)[..., None], MEAN, own).astype(np.uint8)

    return _derived(picture, pixels, "background", int(mask.sum()))


def _grown(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scale the mask to the size of the picture."""
    from PIL import Image

    big = Image.fromarray(mask.astype(np.uint8) * 255).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(big) > 127


def _cut(picture: Picture, box: list[int], kind: str) -> Picture:
    def pixels() -> np.ndarray:
        own = picture.pixels
        left, top = max(0, box[0]), max(0, box[1])
        return own[top : min(own.shape[0], box[3]), left : min(own.shape[1], box[2])]

    return _derived(picture, pixels, kind, box)


def _derived(picture: Picture, pixels: Any, kind: str, how: Any) -> Picture:
    content = digest({"of": picture.content, "kind": kind, "how": how}) if picture.content else ""
    return type(picture)(picture.name, picture.text, pixels, picture.seed, picture.strength, content)
