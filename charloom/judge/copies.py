"""Detects copies of training pictures by perceptual hash, and by an embedding with a limit measured on the data set.

How similar two different pictures of a data set are, and how similar a picture and a crop of it are, depends on the
embedding and on the data set. Both are measured, and the limit lies between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from charloom.core import hashing
from charloom.core.canonical import digest
from charloom.judge.memory import Look

if TYPE_CHECKING:
    from charloom.judge.backend import Picture

SAME_HASH = 8
"""Two pictures that differ in at most this many of 64 bits are the same; different photographs differ in 18 or more."""
KEPT = 0.84
"""Edge of the crop that serves as a near copy, as a share of the picture's."""
VERSION = "copies 1"


def perceptual_hash(pixels: np.ndarray) -> np.ndarray:
    """64 bits (bool): signs of the low frequencies of the luminance against their median (pHash, Zauner 2010)."""
    grey = Image.fromarray(pixels).convert("L").resize((hashing.EDGE, hashing.EDGE), Image.Resampling.LANCZOS)
    return hashing.perceptual_hash(np.asarray(grey, np.float64))


def hashes(pictures: Sequence[Picture]) -> list[Look]:
    """The perceptual hash of each picture as a look, ``bits`` (64,)."""
    return [{"bits": perceptual_hash(picture.pixels).astype(np.uint8)} for picture in pictures]


def near_copy(picture: Picture) -> Picture:
    """The middle of a picture, a little blurred: what a memorised picture looks like."""

    def pixels() -> np.ndarray:
        image = Image.fromarray(picture.pixels)
        wide, high = image.size
        left, top = round(wide * (1 - KEPT) / 2), round(high * (1 - KEPT) / 2)
        image = image.crop((left, top, wide - left, high - top)).filter(ImageFilter.GaussianBlur(1.0))
        return np.asarray(image)

    content = digest({"of": picture.content, "kind": "near copy", "kept": KEPT}) if picture.content else ""
    return type(picture)(picture.name, picture.text, pixels, content=content)


@dataclass(frozen=True)
class Nearest:
    """The training picture that a sample is most like."""

    name: str
    cosine: float
    bits: int
    """Differing bits of the perceptual hash, the least over all training pictures."""
    copied: bool


@dataclass(frozen=True)
class Copies:
    """Vectors (M, D) and hashes (M, 64) of the training pictures, and the cosine at which a sample is a copy."""

    names: list[str]
    vectors: np.ndarray
    bits: np.ndarray
    limit: float

    def nearest(self, vector: np.ndarray, bits: np.ndarray | None) -> Nearest:
        """Find the training picture nearest to a sample."""
        cosines = self.vectors @ vector
        index = int(cosines.argmax())
        least = 64
        if bits is not None and len(self.bits):
            differing = (self.bits != bits[None, :]).sum(axis=1)
            least = int(differing.min())
            if least <= SAME_HASH:
                index = int(differing.argmin())
        copied = least <= SAME_HASH or float(cosines.max()) >= self.limit
        return Nearest(self.names[index], float(cosines.max()), least, copied)


def limit(vectors: np.ndarray, of_copies: np.ndarray) -> float:
    """The cosine at which a picture counts as copied, from M >= 2 training pictures and their near copies.

    It lies halfway between the lowest decile of picture against near copy and the highest decile of picture against
    nearest *other* picture; never above the near copies, even if the pictures of a data set are almost the same.
    """
    own = np.einsum("md,md->m", vectors, of_copies)
    table = vectors @ vectors.T
    np.fill_diagonal(table, -1.0)
    copy, other = float(np.quantile(own, 0.1)), float(np.quantile(table.max(axis=1), 0.9))
    return 0.5 * (copy + min(other, copy))
