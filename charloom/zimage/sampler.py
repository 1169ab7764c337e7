"""Sampling images: explicit noise levels, Euler steps, latents in fp32, no training adapter.

The result equals that of ``ZImagePipeline`` on the same noise. Noise is drawn on the CPU from one seed per image, so an
image depends on its own prompt and seed, never on its neighbours in a batch.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from charloom.core.errors import UserError
from charloom.zimage import flow
from charloom.zimage import vae as vae_codec
from charloom.zimage.forward import Predict, forward, pad_captions, padded_length


def initial_noise(seed: int, channels: int, height: int, width: int) -> Tensor:
    """Noise of one image, fp32 (channels, height / 8, width / 8), drawn by a CPU ``torch.Generator``."""
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, channels, height // vae_codec.FACTOR, width // vae_codec.FACTOR)
    return torch.randn(shape, generator=generator, dtype=torch.float32)[0]


@torch.no_grad()
def sample_latents(
    predict: Predict,
    noise: Tensor,
    embeds: Sequence[Tensor],
    *,
    steps: int = 8,
    guidance: float = 1.0,
    negative: Tensor | None = None,
    shift: float = flow.SHIFT,
) -> Tensor:
    """Latents (B, C, h, w) from ``noise`` of the same shape; ``embeds`` share one padded length.

    ``guidance`` is the scale g in ``negative + g (positive - negative)``, as in ai-toolkit; 1 is off.
    """
    device = noise.device
    captions = pad_captions(embeds, device)
    if guidance > 1.0:
        if negative is None:
            raise ValueError("guidance above 1 needs the embedding of a negative prompt")
        negatives = pad_captions([negative] * len(embeds), device)
    x = noise.float()
    sigmas = flow.sample_sigmas(steps, shift)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        v = flow.velocity(predict, x, sigma, *captions).float()
        if guidance > 1.0:
            unconditional = flow.velocity(predict, x, sigma, *negatives).float()
            v = unconditional + guidance * (v - unconditional)
        x = x + (following - sigma) * v
    return x


@torch.no_grad()
def sample(
    model,
    vae,
    embeds: Sequence[Tensor],
    *,
    width: int,
    height: int,
    seeds: Sequence[int],
    steps: int = 8,
    guidance: float = 1.0,
    negative: Tensor | None = None,
    shift: float = flow.SHIFT,
    batch_size: int = 10,
    predict: Predict | None = None,
    log: Callable[[str], None] | None = None,
    on_halved: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Images (B, height, width, 3) uint8 for ``embeds``, one each, with one seed each.

    Images are batched by padded caption length. ``predict`` replaces the plain forward of ``model``. When a batch does
    not fit into GPU memory, the batch size is halved from then on, and ``on_halved`` is called with the new size.
    ``log`` gets a line when the autoencoder must work in tiles.

    Raises:
        UserError: not even one image fits.
    """
    if width % 16 or height % 16:
        raise ValueError(f"width and height must be multiples of 16, got {width}x{height}")
    device = next(model.parameters()).device
    predict = predict or functools.partial(forward, model)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, cap in enumerate(embeds):
        groups[padded_length(len(cap))].append(index)
    images = np.zeros((len(embeds), height, width, 3), dtype=np.uint8)
    channels = model.config.in_channels
    for members in groups.values():
        while members:
            chunk = members[:batch_size]
            noise = torch.stack([initial_noise(seeds[i], channels, height, width) for i in chunk]).to(device)
            try:
                latents = sample_latents(
                    predict,
                    noise,
                    [embeds[i] for i in chunk],
                    steps=steps,
                    guidance=guidance,
                    negative=negative,
                    shift=shift,
                )
            except torch.OutOfMemoryError:
                # Retried below, where the traceback no longer keeps tensors alive.
                latents = None
            if latents is None:
                torch.cuda.empty_cache()
                if len(chunk) == 1:
                    raise UserError(
                        f"a picture of {width}x{height} needs more GPU memory than it may use; close other programs "
                        "that use the GPU, raise recipe.memory, set sample.precision: float8, or lower its width and "
                        "height (recipe.sample)"
                    )
                batch_size = len(chunk) // 2
                if on_halved:
                    on_halved(batch_size)
                continue
            # On a GPU the autoencoder needs gigabytes per image, and batches are no faster.
            for part, piece in _pieces(chunk, latents):
                images[part] = vae_codec.to_uint8(vae_codec.decode(vae, piece, log)).cpu().numpy()
            members = members[batch_size:]
    return images


def _pieces(chunk: list[int], latents: Tensor) -> list[tuple[list[int], Tensor]]:
    """Latents to decode together, with the indices of their images."""
    if latents.device.type != "cuda":
        return [(chunk, latents)]
    return [([index], latents[place : place + 1]) for place, index in enumerate(chunk)]
