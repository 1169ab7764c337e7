"""Where the person is in a picture, at the sizes of its latents: from a mask file, from alpha, or by a segmenter.

A mask is treated like its picture: rotated upright, cropped at the edges, cut and scaled to each bucket. Each value is
the mean over the 8 x 8 pixels of one latent pixel.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from charloom.config import masking
from charloom.core import layout, pictures
from charloom.core.canonical import digest, file_digest
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset.buckets import buckets, cover_box
from charloom.judge import person

KIND = "mask"
WHOLE = layout.WHOLE_MASK
CELL = 8
"""Pixels per latent pixel, in each direction."""


def key(image: Path, own: Path | None, mask: Path | None, settings: dict[str, Any]) -> str:
    """Store key of a mask; ``own`` is the user's picture, ``mask`` the user's mask."""
    files = {name: file_digest(path) for name, path in (("image", image), ("own", own), ("mask", mask)) if path}
    return digest({**files, **settings})


def make(image: Path, own: Path | None, mask: Path | None, settings: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The masks of a picture as ``"<W>x<H>"`` (of the bucket, in pixels) to (H/8, W/8) in fp32, 1 on the person; and
    where they come from.

    Args:
        image: the picture that is trained on, cropped.
        own: the user's picture, which may be transparent.
        mask: the user's mask, of the size or at least the aspect ratio of the picture: white on the person.

    Raises:
        UserError: a file cannot be read or does not fit; nothing tells where the person is.
    """
    grey, origin = _whole(image, own, mask, settings)
    return _at_all(grey, settings), origin


def _at_all(grey: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return {f"{w}x{h}": _at(grey, grey.size, (w, h)) for w, h in buckets(*grey.size, settings["resolutions"])}


def _whole(image: Path, own: Path | None, mask: Path | None, settings: dict[str, Any]) -> tuple[Any, str]:
    """(grey levels of the size of the picture that is trained on, where they come from)."""
    from PIL import Image

    made = pictures.read(image, pictures.MADE_HERE).image
    if mask is not None:
        grey = pictures.read(mask).image.convert("L")
        return _fitted(grey, mask, made.size, settings["crop"]), "mask"
    if settings["source"] != masking.AUTO:
        raise UserError(f"{image.name}: its mask is no longer in the folder images.masks; put it back")
    if own is not None and (clear := pictures.opacity(own)) is not None:
        return _fitted(clear, own, made.size, settings["crop"]), "alpha"
    share = person.share(np.asarray(made))
    if share is None:
        return Image.new("L", made.size, 255), "nobody"
    return Image.fromarray(np.rint(share * 255).astype(np.uint8)), "segmenter"


def _fitted(grey: Any, name: Path, size: tuple[int, int], crop: dict[str, int]) -> Any:
    """A mask at the size of the picture that is trained on, cropped as that was."""
    from PIL import Image

    if grey.size == size:
        return grey
    whole = (size[0] + crop["right"], size[1] + crop["bottom"])
    if grey.size != whole:
        if abs(grey.width * whole[1] - grey.height * whole[0]) > max(whole):
            raise UserError(
                f"{name}: {grey.width}x{grey.height} has a different aspect ratio from its picture, "
                f"{whole[0]}x{whole[1]}; make it as large as the picture"
            )
        grey = grey.resize(whole, Image.Resampling.BOX if grey.width > whole[0] else Image.Resampling.BILINEAR)
    return grey.crop((0, 0, *size))


def _at(grey: Any, size: tuple[int, int], bucket: tuple[int, int]) -> Any:
    """The mask at a bucket: cut as the picture is, the mean of each cell."""
    import torch
    from PIL import Image

    left, top, right, bottom = cover_box(*size, bucket)
    box = (max(left, 0.0), max(top, 0.0), min(right, size[0]), min(bottom, size[1]))
    small = grey.resize((bucket[0] // CELL, bucket[1] // CELL), Image.Resampling.BOX, box=box)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255.0)


def stored(image: Path, own: Path | None, mask: Path | None, settings: dict[str, Any], store: Store, name: str) -> str:
    """Put a mask into the store; returns where it comes from. Arguments of :func:`make`, and the key.

    Beside the tensors of :func:`make` the file has :data:`WHOLE`. Nothing in it says where the mask came from, so that
    a bundle, which has masks as files, makes the same bytes.
    """
    import torch

    from charloom.core.tensors import write_safetensors

    grey, origin = _whole(image, own, mask, settings)
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    packed = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    with store.put(KIND, name, ".safetensors") as path:
        write_safetensors(path, {**_at_all(grey, settings), WHOLE: packed}, {})
    return origin
