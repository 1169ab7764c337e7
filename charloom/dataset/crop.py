"""Crops a generator's watermark off the right and bottom edges, losslessly.

A mark in the same corner of every image would be learnt before the face. Pillow only, no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from charloom.core import pictures
from charloom.core.errors import UserError
from charloom.core.pictures import Picture


def crop_file(
    source: Path, target: Path, *, right: int = 150, bottom: int = 150, minimum: int = 1024
) -> tuple[int, int]:
    """Write ``source`` without its right and bottom pixels to ``target`` as a PNG; returns (width, height).

    The result is upright, on white if it was transparent, in 8-bit sRGB. The original is never changed, even if both
    paths are the same file by mistake.

    Raises:
        UserError: the file is not an image, or a side of the crop would be below ``minimum`` pixels.
    """
    if target.exists() and source.exists() and os.path.samefile(source, target):
        raise UserError(f"{source}: would be overwritten by its own crop; choose another output")
    made = cropped(pictures.read(source), source, right=right, bottom=bottom, minimum=minimum)
    pictures.save_png(made, target)
    return made.image.size


def cropped(picture: Picture, name: str | Path, *, right: int, bottom: int, minimum: int) -> Picture:
    """The picture without its right and bottom pixels; ``name`` is for error messages.

    Raises:
        UserError: a side would be below ``minimum`` pixels.
    """
    image = picture.image
    width, height = image.width - right, image.height - bottom
    if min(width, height) < minimum:
        cut = f" leaves {max(width, 0)}x{max(height, 0)} after the crop of {right} and {bottom} pixels,"
        mark = ", or set crop: {right: 0, bottom: 0} if no image has a watermark"
        raise UserError(
            f"{name}: {image.width}x{image.height}{cut if right or bottom else ' is'} less than the minimum of "
            f"{minimum}; use a larger image, lower crop.minimum{mark if right or bottom else ''}"
        )
    return Picture(image.crop((0, 0, width, height)), picture.notes)
