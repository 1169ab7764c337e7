"""Cutting the generator's watermark off the right and bottom edges, without loss.

Why it must be done: a mark in the same corner of every image is learnt before the face is. Knows Pillow, not torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from charloom.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FLATTENED = "transparency on white"
"""Comment in the PNG of an image that was transparent, which the check of the data set reads."""


def transparent(image: Image) -> bool:
    """Whether a pixel of the image lets something through; not if it merely could."""
    return image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255


def crop_file(
    source: Path, target: Path, *, right: int = 150, bottom: int = 150, minimum: int = 1024
) -> tuple[int, int]:
    """Write ``source`` without its right and bottom pixels to ``target`` as a PNG; returns (width, height).

    What is transparent becomes white. The original is never touched, even if both are the same file by mistake.

    Raises:
        UserError: not an image, or one that would be smaller than ``minimum`` pixels at an edge.
    """
    from PIL import Image, UnidentifiedImageError
    from PIL.PngImagePlugin import PngInfo

    if target.exists() and os.path.samefile(source, target):
        raise UserError(f"{source}: would be overwritten by its own crop; give another output")
    try:
        with Image.open(source) as opened:
            comment = None
            if transparent(opened):
                clear = opened.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
                comment = PngInfo()
                comment.add_text("Comment", FLATTENED)
            else:
                image = opened.convert("RGB") if opened.mode not in ("RGB", "L") else opened.copy()
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{source}: is no image that can be read ({error}); replace it") from None
    width, height = image.width - right, image.height - bottom
    if min(width, height) < minimum:
        cut = f" leaves {max(width, 0)}x{max(height, 0)} after the crop of {right} and {bottom} pixels,"
        mark = ", or set crop: {right: 0, bottom: 0} if no image has a watermark"
        raise UserError(
            f"{source}: {image.width}x{image.height}{cut if right or bottom else ' is'} less than the minimum of "
            f"{minimum}; use a larger image, lower crop.minimum{mark if right or bottom else ''}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        image.crop((0, 0, width, height)).save(temporary, format="PNG", compress_level=4, pnginfo=comment)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return width, height
