"""Measures what the rules need to know about a picture: plain values that depend only on its bytes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from charloom.core import pictures

THUMB = 64
CORNER = 24
CORNER_SHARE = 0.1
CORNERS = ("bottom right", "bottom left", "top right", "top left")
LEVELS = (1, 5, 50, 95, 99)
"""Percentiles of the grey levels that are kept."""


def facts(path: Path) -> dict[str, Any]:
    """Measure what the rules need to know about an image, as plain values.

    ``size`` (width, height) in pixels; ``sharpness``, variance of the Laplacian at a width of 512 pixels; ``levels``,
    grey levels at the percentiles :data:`LEVELS`; ``thumb``, 64 x 64 grey levels, and ``corners``, 24 x 24 grey levels
    each in the order of :data:`CORNERS`, both for :func:`unpacked`; ``notes`` (only if there are any), keys of
    :data:`charloom.core.pictures.NOTES`.
    """
    return facts_of(pictures.read(path))


def facts_of(picture: pictures.Picture) -> dict[str, Any]:
    """The same for a picture that is already open."""
    from PIL import Image

    grey = picture.image.convert("L")
    width, height = grey.size
    small = grey.resize((512, max(1, 512 * height // width)), Image.Resampling.BOX)
    middle = np.asarray(small, dtype=np.float32)
    edge = max(2, int(min(width, height) * CORNER_SHARE))
    corners = []
    for name in CORNERS:
        left = width - edge if "right" in name else 0
        top = height - edge if "bottom" in name else 0
        box = (left, top, left + edge, top + edge)
        corners.append(np.asarray(grey.resize((CORNER, CORNER), Image.Resampling.BOX, box=box)))
    return {
        "size": [width, height],
        "sharpness": round(float(_laplacian(middle).var()), 3),
        "levels": [round(float(level), 1) for level in np.percentile(np.asarray(small), LEVELS)],
        "thumb": _packed(np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX))),
        "corners": _packed(np.stack(corners)),
        **({"notes": list(picture.notes)} if picture.notes else {}),
    }


def _laplacian(grey: np.ndarray) -> np.ndarray:
    return 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]


def _packed(levels: np.ndarray) -> str:
    """Bytes as text: a tenth of the memory of a list of numbers, which matters with ten thousand pictures."""
    return base64.b64encode(levels.astype(np.uint8).tobytes()).decode("ascii")


def unpacked(text: str, *shape: int) -> np.ndarray:
    """Unpack ``thumb`` or ``corners`` into grey levels (uint8) of the given shape."""
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(shape)
