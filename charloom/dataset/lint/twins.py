"""Finds pictures of a data set that are the same, nearly the same, or mirror images; 10,000 of them take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charloom.core import hashing
from charloom.dataset.lint.measure import THUMB, unpacked

SAME = 0.4
NEAR = 3.0
"""Mean difference of two 64-pixel thumbnails (grey levels) below which images count as the same, or nearly the same."""
BITS = 6
"""Images whose perceptual hashes differ in at most this many of 64 bits are compared, whatever their tones."""
LIKE = 0.97
"""Smallest correlation of two thumbnails at which images with other tones, or mirrored, count as nearly the same."""

SAME_KIND, NEAR_KIND, MIRRORED = "same", "near", "mirrored"


@dataclass(frozen=True)
class Twin:
    """``index`` resembles the earlier ``other``; ``difference`` is that of their thumbnails (mean, grey levels)."""

    index: int
    other: int
    kind: str
    difference: float


class Thumbnails:
    """The thumbnails of N pictures, prepared for comparison."""

    def __init__(self, packed: Sequence[str]) -> None:
        self.grey = np.array([unpacked(text, THUMB, THUMB) for text in packed], np.uint8).reshape(-1, THUMB, THUMB)
        # Block means never differ by more than the thumbnails, so they are a fast first filter; so is the overall mean.
        blocks = self.grey.reshape(-1, 8, THUMB // 8, 8, THUMB // 8).mean(axis=(2, 4), dtype=np.float32)
        self.blocks = blocks.reshape(len(self.grey), 64)
        self.means = self.blocks.mean(axis=1)
        half = self.grey.reshape(-1, hashing.EDGE, 2, hashing.EDGE, 2).mean(axis=(2, 4), dtype=np.float32)
        self.bits = _words(hashing.perceptual_hash(half))
        self.mirrored = _words(hashing.perceptual_hash(half[:, :, ::-1]))

    def twins(self, among: int | None = None) -> list[Twin]:
        """For each picture find the nearest earlier one, if it is near enough.

        Only the nearest counts, so that a folder of copies gives one finding per picture, not one per pair. With
        ``among``, each picture after the first ``among`` is compared with those only.
        """
        first = 1 if among is None else among
        found = (self._nearest(index, index if among is None else among) for index in range(first, len(self.grey)))
        return [twin for twin in found if twin]

    def _nearest(self, index: int, end: int) -> Twin | None:
        near = np.flatnonzero(np.abs(self.means[:end] - self.means[index]) < NEAR)
        near = near[np.abs(self.blocks[near] - self.blocks[index]).mean(axis=1) < NEAR]
        if len(near):
            differences = np.abs(self.grey[near].astype(np.int16) - self.grey[index]).mean(axis=(1, 2))
            nearest = int(differences.argmin())
            if (least := float(differences[nearest])) < NEAR:
                return Twin(index, int(near[nearest]), SAME_KIND if least < SAME else NEAR_KIND, least)
        for kind, bits in ((NEAR_KIND, self.bits), (MIRRORED, self.mirrored)):
            near = np.flatnonzero(np.bitwise_count(bits[:end] ^ self.bits[index]) <= BITS)
            likeness = [self._like(index, other, kind) for other in near]
            if likeness and max(likeness) >= LIKE:
                other = int(near[int(np.argmax(likeness))])
                difference = np.abs(self._turned(other, kind).astype(np.int16) - self.grey[index]).mean()
                return Twin(index, other, kind, float(difference))
        return None

    def _turned(self, index: int, kind: str) -> np.ndarray:
        return self.grey[index][:, ::-1] if kind == MIRRORED else self.grey[index]

    def _like(self, index: int, other: int, kind: str) -> float:
        """Correlation of two thumbnails."""
        one, two = (self.grey[index].astype(np.float32).ravel(), self._turned(other, kind).astype(np.float32).ravel())
        one, two = one - one.mean(), two - two.mean()
        length = float(np.sqrt((one * one).sum() * (two * two).sum()))
        return float((one * two).sum()) / length if length else 0.0


def _words(bits: np.ndarray) -> np.ndarray:
    """Bits (N, 64) as one 64-bit word each."""
    return np.packbits(bits, axis=-1).reshape(-1, 8).view(np.uint64).ravel() if len(bits) else np.zeros(0, np.uint64)
