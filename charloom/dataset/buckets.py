"""Training sizes of an image: one bucket per resolution, centre-cropped, never scaled up.

The rule is ai-toolkit's (``toolkit/buckets.py``): sides are multiples of 16, and the area is at most the resolution
squared and at most that of the image. Images too narrow for this rule lose their ends. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from charloom.core.errors import UserError

MULTIPLE = 16
"""Pixels per side must be a multiple of this: 8 from the VAE, 2 from the transformer's patches."""
LONGEST = 8192
"""Longest side in pixels: the transformer has positions for 512 patches along each axis (``axes_lens``)."""
LEAST_SHOWN = 0.5
"""Fraction of an image that its bucket should show. Only buckets of very narrow images show less."""


def bucket(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) in pixels at which to train an image of ``width`` x ``height``.

    Of the four roundings of the ideal sides, take the largest that fits; of equal areas, the one nearest to the image's
    aspect ratio.

    Raises:
        UserError: the image is smaller than 16 pixels on a side.
    """
    if min(width, height) < MULTIPLE:
        raise UserError(f"an image of {width}x{height} pixels is too small to train on; use a larger one")
    area = min(width * height, resolution**2)
    scale = math.sqrt(area / (width * height))
    # The tolerance absorbs rounding: 128.0 must not become 127.99.
    candidates = [
        (w, h)
        for w in _roundings(width * scale)
        for h in _roundings(height * scale)
        if w * h <= area and w <= width and h <= height and max(w, h) <= LONGEST
    ]
    if not candidates:
        return _strip(width, height, width * scale, height * scale, area)
    return max(candidates, key=lambda c: (c[0] * c[1], -abs(math.log(c[0] / c[1] * height / width))))


def _strip(width: int, height: int, w: float, h: float, area: int) -> tuple[int, int]:
    """A bucket for an image that is too narrow or too long for any rounding of the ideal sides (w, h)."""
    short, long = sorted((w, h))
    short = max(MULTIPLE, int(short) // MULTIPLE * MULTIPLE)
    long = int(min(long, LONGEST, area // short)) // MULTIPLE * MULTIPLE
    return (short, long) if width <= height else (long, short)


def shown(width: int, height: int, size: tuple[int, int]) -> float:
    """Fraction of an image that a bucket shows; the rest is cropped."""
    left, top, right, bottom = cover_box(width, height, size)
    return (right - left) * (bottom - top) / (width * height)


def problem(width: int, height: int, resolutions: Sequence[int]) -> str | None:
    """What is wrong with training an image at these resolutions, and what to do; None if nothing is."""
    if min(width, height) < MULTIPLE:
        return f"{width}x{height} has a side below {MULTIPLE} pixels; use a larger image"
    sizes = buckets(width, height, resolutions)
    share, worst = min(((shown(width, height, size), size) for size in sizes), default=(1.0, None))
    if share >= LEAST_SHOWN:
        return None
    return (
        f"{width}x{height} is so narrow that only {share:.0%} of it would be seen at {worst[0]}x{worst[1]}; "
        "crop it to what matters, or train at larger resolutions"
    )


def buckets(width: int, height: int, resolutions: Sequence[int]) -> list[tuple[int, int]]:
    """The distinct buckets of an image over all training resolutions, in ascending area."""
    return sorted({bucket(width, height, r) for r in resolutions}, key=lambda size: size[0] * size[1])


def cover_box(width: int, height: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The centred part (left, top, right, bottom) of an image with the aspect ratio of bucket ``size``."""
    scale = max(size[0] / width, size[1] / height)
    w, h = size[0] / scale, size[1] / scale
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _roundings(side: float) -> set[int]:
    units = side / MULTIPLE
    return {max(1, n) * MULTIPLE for n in (math.floor(units + 1e-6), math.ceil(units - 1e-6))}
