"""Pixels to normalized latents and back, as ``ZImagePipeline`` does it.

Normalized means ``(z - shift_factor) * scaling_factor``; the latent is the mode of the posterior, not a sample, so that
encoding is a function of the pixels alone. An image that does not fit into GPU memory is processed in overlapping tiles
that are blended; the result is close, not equal.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from charloom.core.errors import UserError
from charloom.zimage.libraries import AutoencoderKL

FACTOR = 8
"""Pixels per latent cell; two cells make a transformer patch, so image sides are multiples of 16."""

TILES = (512, 256, 128)
"""Tile edges in pixels, tried in this order. diffusers' default of 1024 is too large to save memory."""

Log = Callable[[str], None]
"""Takes one line for the user."""

_tiled: WeakKeyDictionary[AutoencoderKL, dict[tuple[str, int, int], int]] = WeakKeyDictionary()
"""By autoencoder: what did not fit in one piece so far, and the tile edge that did."""


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor, log: Log | None = None) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to normalized latents (B, C, H/8, W/8), fp32; ``log`` gets a line if tiled."""

    def work() -> Tensor:
        return vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()

    mode = _fitting(work, vae, ("encoding", pixels.shape[-1], pixels.shape[-2]), log)
    return (mode - vae.config.shift_factor) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, log: Log | None = None) -> Tensor:
    """Normalized latents (B, C, h, w) to pixels (B, 3, 8h, 8w) in [-1, 1], fp32; ``log`` as for :func:`encode`."""
    latents = latents.float() / vae.config.scaling_factor + vae.config.shift_factor

    def work() -> Tensor:
        return vae.decode(latents.to(vae.dtype), return_dict=False)[0].float().clamp(-1, 1)

    return _fitting(work, vae, ("decoding", latents.shape[-1] * FACTOR, latents.shape[-2] * FACTOR), log)


def _fitting(work: Callable[[], Tensor], vae: AutoencoderKL, what: tuple[str, int, int], log: Log | None) -> Tensor:
    """The result of ``work``, in tiles if it does not fit; the tile that worked for a size is remembered."""
    known = _tiled.setdefault(vae, {})
    verb, width, height = what
    whole = max(width, height)
    edges = [edge for edge in (whole, *(tile for tile in TILES if tile < whole)) if edge <= known.get(what, whole)]
    for edge in edges:
        vae.use_tiling = edge < whole
        vae.tile_sample_min_size, vae.tile_latent_min_size = edge, edge // FACTOR
        try:
            result = work()
        except torch.OutOfMemoryError:
            # Retry after leaving the handler: its traceback keeps tensors alive.
            result = None
        finally:
            vae.use_tiling = False
        if result is not None:
            if log and known.setdefault(what, whole) != edge:
                log(f"{verb} {width}x{height} does not fit into the GPU memory in one piece: in tiles of {edge}")
            known[what] = edge
            return result
        torch.cuda.empty_cache()
    raise UserError(
        f"{verb} a picture of {width}x{height} needs more GPU memory than there is, even in tiles of {edges[-1]}; "
        "close other programs that use the GPU, raise recipe.memory or set device: cpu"
    )


def to_uint8(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3), rounded as diffusers' image processor does."""
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to fp32 (B, 3, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
