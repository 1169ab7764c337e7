"""Pixels to normalised latents and back, as ``ZImagePipeline`` does it.

Normalised means ``(z - shift_factor) * scaling_factor``; the latent is the mode of the posterior,
not a sample, so that encoding is a function of the pixels alone.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

FACTOR = 8
"""Pixels per latent cell; two cells make a transformer patch, so image sides are multiples of 16."""


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to normalised latents (B, C, H/8, W/8), fp32."""
    mode = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    return (mode - vae.config.shift_factor) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Normalised latents (B, C, h, w) to pixels (B, 3, 8h, 8w) in [-1, 1], fp32."""
    latents = latents.float() / vae.config.scaling_factor + vae.config.shift_factor
    return vae.decode(latents.to(vae.dtype), return_dict=False)[0].float().clamp(-1, 1)


def to_uint8(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3), rounded as diffusers' image processor does."""
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to fp32 (B, 3, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
