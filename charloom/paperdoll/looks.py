"""Looks: techniques, besides the usual flat one, in which the paper-doll world can be drawn.

A look changes how a picture is drawn and not what is drawn, which is what a style LoRA has to learn. The face keeps its
colours in every look, because dolls are told apart by colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

SEPIA = (94, 56, 28)
PAPER = (246, 235, 211)


@dataclass(frozen=True)
class Look:
    """A technique: how the backdrop is changed, and the line around the person.

    ``line`` is the colour of that line, ``width`` its width as a share of the picture's.
    """

    ground: Callable[[Image.Image], Image.Image]
    line: tuple[int, int, int]
    width: float


def ink_drawing(picture: Image.Image) -> Image.Image:
    """Redraw in sepia ink on warm paper: lines where colours meet, a thin wash for the shade. Same size, RGB."""
    size = max(picture.size)
    reach = max(1, round(0.004 * size))
    soft = picture.filter(ImageFilter.GaussianBlur(0.5 * reach))
    contrast = _contrast(np.asarray(soft, dtype=np.float32), reach)
    lines = _blurred(np.clip((contrast - 12.0) / 40.0, 0.0, 1.0), 0.3 * reach)[..., None]
    shade = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255.0
    paper, sepia = (np.array(colour, dtype=np.float32) for colour in (PAPER, SEPIA))
    wash = 0.38 * (1.0 - shade)
    drawn = paper * (1 - wash) + sepia * wash
    drawn = drawn * (1 - 0.85 * lines) + 0.85 * lines * sepia
    return Image.fromarray(np.clip(drawn + 0.5, 0, 255).astype(np.uint8))


def outlined(picture: Image.Image, mask: Image.Image, look: Look) -> Image.Image:
    """Draw the line of ``look`` into ``picture`` around the outside of ``mask`` (L, the person)."""
    radius = look.width * picture.width
    grown = mask.filter(ImageFilter.GaussianBlur(radius)).point(lambda v: min(255, int(v * 6.0)))
    out = picture.copy()
    out.paste(look.line, mask=ImageChops.lighter(grown, mask))
    return out


def _blurred(values: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((values * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / 255.0


def _contrast(pixels: np.ndarray, reach: int) -> np.ndarray:
    """Local contrast (H, W): the largest difference of a channel within ``reach`` pixels."""
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    middle = slice(reach, -reach)
    across = np.abs(padded[middle, 2 * reach :] - padded[middle, : -2 * reach])
    along = np.abs(padded[2 * reach :, middle] - padded[: -2 * reach, middle])
    return np.maximum(across, along).max(axis=2)


LOOKS: dict[str, Look] = {"ink": Look(ink_drawing, SEPIA, 0.006)}
"""The looks, by their name in ``images.look``."""
