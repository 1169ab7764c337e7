"""Cutting the generator's watermark off the right and bottom edges, without loss.

Why it must be done: a mark in the same corner of every image is learnt before the face is. Knows Pillow, not torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from charloom.errors import UserError


def crop_file(
    source: Path, target: Path, *, right: int = 150, bottom: int = 150, minimum: int = 1024
) -> tuple[int, int]:
    """Write ``source`` without its right and bottom pixels to ``target`` as a PNG; returns (width, height).

    The original is never touched, even if both are the same file by mistake.

    Raises:
        UserError: not an image, or one that would be smaller than ``minimum`` pixels at an edge.
    """
    from PIL import Image, UnidentifiedImageError

    if target.exists() and os.path.samefile(source, target):
        raise UserError(f"{source}: would be overwritten by its own crop; give another output")
    try:
        with Image.open(source) as opened:
            image = opened.convert("RGB") if opened.mode not in ("RGB", "L") else opened.copy()
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{source}: is no image that can be read ({error}); replace it") from None
    width, height = image.width - right, image.height - bottom
    if min(width, height) < minimum:
        raise UserError(
            f"{source}: {image.width}x{image.height} leaves {max(width, 0)}x{max(height, 0)} after the crop of "
            f"{right} and {bottom} pixels, less than the minimum of {minimum}; use a larger image or lower crop.minimum"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        image.crop((0, 0, width, height)).save(temporary, format="PNG", compress_level=4)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return width, height
