"""Images to latents: one file per image, with one tensor per training size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core import pictures
from charloom.core.canonical import digest, file_digest
from charloom.core.errors import UserError
from charloom.core.store import Store

KIND = "latents"
READERS = 4
"""Threads that read and resize images."""


def key(image_sha256: str, lock: dict[str, Any], settings: dict[str, Any]) -> str:
    """Store key of the latents of an image."""
    return digest({"image": image_sha256, "vae": lock["components"]["vae"], **settings})


def make(
    images: Sequence[Path],
    lock: dict[str, Any],
    settings: dict[str, Any],
    store: Store,
    device: Any,
    log: Callable[[str], None] | None = None,
) -> list[tuple[Path, str]]:
    """Encode those of ``images`` that are not stored.

    Each file holds normalised latents (16, H/8, W/8) in fp32, named ``"<W>x<H>"`` in pixels, and with flips also
    ``"<W>x<H>.flip_x"`` and so on. Images are encoded one by one, so that a latent does not depend on the others.
    ``log`` gets a line for each size that fits into GPU memory only in tiles.

    Returns:
        (image, reason) for each image that could not be read.
    """
    from charloom.core.tensors import write_safetensors
    from charloom.zimage import weights

    missing = {}
    for image in images:
        sha = file_digest(image)
        if not store.has(KIND, entry := key(sha, lock, settings), ".safetensors"):
            missing[image] = sha, entry
    if not missing:
        return []
    failed = []
    with ThreadPoolExecutor(READERS) as pool:
        # The next few images are read and resized while one is encoded.
        waiting, ahead = iter(missing), {}

        def read_on() -> None:
            for image in itertools.islice(waiting, 2 * READERS - len(ahead)):
                ahead[image] = pool.submit(resized, image, settings["resolutions"])

        read_on()
        vae = weights.load_vae(locks.locate(lock, "vae", store), device=device)
        for image, (sha, entry) in missing.items():
            read_on()
            try:
                pixels = ahead.pop(image).result()
            except UserError as error:
                failed.append((image, str(error)))
                continue
            tensors = encode(vae, pixels, settings["flips"], device, log)
            with store.put(KIND, entry, ".safetensors") as path:
                write_safetensors(path, tensors, {"image": sha, "vae": lock["components"]["vae"]})
    return failed


def resized(image: Path, resolutions: Sequence[int]) -> dict[tuple[int, int], Any]:
    """An image at each of its training sizes: (width, height) in pixels to uint8 (height, width, 3).

    Raises:
        UserError: the file is not an image.
    """
    import numpy as np
    from PIL import Image

    from charloom.dataset.buckets import buckets, cover_box

    picture = pictures.read(image, pictures.MADE_HERE).image
    found = {}
    for size in buckets(*picture.size, resolutions):
        left, top, right, bottom = cover_box(*picture.size, size)
        # Rounding may put an edge slightly outside the image.
        box = (max(left, 0.0), max(top, 0.0), min(right, picture.width), min(bottom, picture.height))
        found[size] = np.array(picture.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    return found


def encode(
    vae: Any,
    pixels: dict[tuple[int, int], Any],
    flips: Sequence[str],
    device: Any,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Latents of one image from :func:`resized`, by the names that :func:`make` describes."""
    import torch

    from charloom.zimage import vae as codec

    tensors = {}
    for (width, height), values in pixels.items():
        picture = codec.from_uint8(torch.from_numpy(values)[None]).to(device)
        for name, axes in _flips(flips).items():
            flipped = picture.flip(axes) if axes else picture
            tensors[f"{width}x{height}{name}"] = codec.encode(vae, flipped, log)[0].float().cpu()
    return tensors


def _flips(wanted: Sequence[str]) -> dict[str, list[int]]:
    """Suffix of the tensor name to the axes to flip, for every combination that training may use."""
    found = {"": [], ".flip_x": [3], ".flip_y": [2], ".flip_xy": [2, 3]}
    return {name: axes for name, axes in found.items() if set(name.removeprefix(".flip_")) <= set(wanted)}
