"""Detects the watermark of the training pictures by comparing a picture's corner with the known shape of the star."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from charloom.judge.plain import luminance
from charloom.paperdoll.draw import stamp_watermark

LIKE = 0.6
"""Similarity at which a corner counts as marked."""
_SLACK = 3
"""Pixels by which the star may be displaced."""
_FAINTEST = 6.0 / 255.0
"""Contrast of the star with its surroundings below which it is invisible."""


@functools.lru_cache(maxsize=4)
def _template(size: int) -> tuple[np.ndarray, int, int]:
    """The star's mask in a square of pixels, and the left and top edge of that square in a picture of ``size``."""
    marked = np.asarray(stamp_watermark(Image.new("RGB", (2048, 2048))).resize((size, size), Image.Resampling.BOX))
    mask = marked[..., 0].astype(float) / 255.0
    rows, columns = np.nonzero(mask > 0.01)
    top, left = max(0, rows.min() - 2), max(0, columns.min() - 2)
    side = min(size - top, size - left, max(np.ptp(rows), np.ptp(columns)) + 5)
    return mask[top : top + side, left : left + side], int(left), int(top)


def star(pixels: np.ndarray) -> float:
    """Similarity of the bottom-right corner of a picture (H, W, 3) uint8, H = W, to the watermark: -1 to 1.

    It is the highest correlation of luminance with the star's mask within a few pixels of its place; 0 if the star
    would be too faint to see, as on a white background.
    """
    grey = luminance(pixels)
    mask, left, top = _template(len(grey))
    side = len(mask)
    shape = mask - mask.mean()
    best = 0.0
    for dy in range(-_SLACK, _SLACK + 1):
        for dx in range(-_SLACK, _SLACK + 1):
            y, x = top + dy, left + dx
            if y < 0 or x < 0 or y + side > len(grey) or x + side > len(grey):
                continue
            patch = grey[y : y + side, x : x + side]
            patch = patch - patch.mean()
            slope = float((patch * shape).sum() / (shape**2).sum())
            if slope * float(mask.max()) < _FAINTEST:
                continue
            likeness = float((patch * shape).sum() / (np.linalg.norm(patch) * np.linalg.norm(shape) + 1e-9))
            best = max(best, likeness)
    return best
