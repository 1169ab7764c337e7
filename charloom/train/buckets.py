"""Training sizes of an image: one bucket per resolution, cropped in the middle, never scaled up.

The rule is ai-toolkit's (``toolkit/buckets.py``): sides are multiples of 16, the area is at most that of
the resolution squared and of the image itself. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MULTIPLE = 16
"""Pixels per side must be a multiple of this: 8 from the VAE, 2 from the transformer's patches."""


def bucket(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) in pixels to train an image of ``width`` x ``height`` at.

    Of the four roundings of the ideal sides, the one with the largest area that fits is taken; among equal
    areas the one nearest to the image's aspect.

    Raises:
        ValueError: the image is smaller than 16 pixels on a side.
    """
    if min(width, height) < MULTIPLE:
        raise ValueError(f"an image of {width}x{height} pixels is too small to train on")
    area = min(width * height, resolution**2)
    scale = math.sqrt(area / (width * height))
    # The tolerance absorbs rounding: 128.0 must not become 127.99.
    candidates = [
        (w, h)
        for w in _roundings(width * scale)
        for h in _roundings(height * scale)
        if w * h <= area and w <= width and h <= height
    ]
    if not candidates:
        return max(MULTIPLE, int(width * scale) // 16 * 16), max(MULTIPLE, int(height * scale) // 16 * 16)
    return max(candidates, key=lambda c: (c[0] * c[1], -abs(math.log(c[0] / c[1] * height / width))))


def buckets(width: int, height: int, resolutions: Sequence[int]) -> list[tuple[int, int]]:
    """The distinct buckets of an image over all training resolutions, in ascending area."""
    return sorted({bucket(width, height, r) for r in resolutions}, key=lambda size: size[0] * size[1])


def cover_box(width: int, height: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The centred part (left, top, right, bottom) of an image that has the aspect of bucket ``size``."""
    scale = max(size[0] / width, size[1] / height)
    w, h = size[0] / scale, size[1] / scale
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _roundings(side: float) -> set[int]:
    units = side / MULTIPLE
    return {max(1, n) * MULTIPLE for n in (math.floor(units + 1e-6), math.ceil(units - 1e-6))}
