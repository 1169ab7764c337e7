"""Train the autoencoder of the miniature on drawn pictures, then measure its latents."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from clock import Budget
from diffusers import AutoencoderKL
from torch import Tensor

BATCH = 48
RATE = 6e-4
KL_WEIGHT = 2e-4


def to_pixels(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) to (B, 3, H, W) in [-1, 1]."""
    images = torch.as_tensor(images).to(device, non_blocking=True)
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def resize(pixels: Tensor, size: int) -> Tensor:
    """Antialiased square resize."""
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def train(vae: AutoencoderKL, pictures: np.ndarray, ready, budget: Budget, device: torch.device, log) -> int:
    """Minimise L1 + MSE + a little KL until the budget is spent; ``ready()`` tells how many pictures are drawn."""
    rng = np.random.default_rng(1)
    vae.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    average = [p.detach().clone() for p in vae.parameters()]
    cuda = device.type == "cuda"
    step = 0
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(RATE, step)
        size = int(rng.choice((256, 192, 128), p=(0.7, 0.15, 0.15)))
        count = BATCH * (256 // size) ** 2
        picked = np.sort(rng.integers(0, ready(), size=count))
        pixels = resize(to_pixels(pictures[picked], device), size).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cuda):
            posterior = vae.encode(pixels).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            latents = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
            out = vae.decode(latents, return_dict=False)[0].float()
        error = out - pixels
        edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) * 0.5
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1.0 - logvar).mean()
        loss = error.abs().mean() + error.pow(2).mean() + edges + KL_WEIGHT * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in vae.parameters()], 1e-2 if step < 500 else 2e-3)
        if step % 200 == 0:
            psnr = -10 * torch.log10(error.detach().pow(2).mean() / 4)
            log(f"vae step {step} size {size} loss {loss.item():.4f} kl {kl.item():.3f} psnr {psnr.item():.2f}")
        step += 1
    with torch.no_grad():
        for parameter, smooth in zip(vae.parameters(), average, strict=True):
            parameter.copy_(smooth)
    return step


@torch.no_grad()
def encode_all(
    vae: AutoencoderKL, pictures: np.ndarray | Tensor, size: int, device: torch.device, batch: int = 256
) -> Tensor:
    """Posterior modes of all pictures at ``size``, bf16 on the device, (N, 16, size/8, size/8), not normalised."""
    out = torch.empty(len(pictures), 16, size // 8, size // 8, dtype=torch.bfloat16, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for start in range(0, len(pictures), batch):
            pixels = resize(to_pixels(pictures[start : start + batch], device), size)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            out[start : start + batch] = vae.encode(pixels).latent_dist.mode().to(torch.bfloat16)
    return out


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: np.ndarray, device: torch.device) -> dict[str, float]:
    """Reconstruction PSNR (dB, mean over pictures, fp32) on pictures that it was not trained on."""
    values = []
    for start in range(0, len(pictures), 32):
        pixels = to_pixels(pictures[start : start + 32], device)
        out = vae.decode(vae.encode(pixels).latent_dist.mode(), return_dict=False)[0].clamp(-1, 1)
        values.append(-10 * torch.log10((out - pixels).pow(2).mean(dim=(1, 2, 3)) / 4))
    return {"psnr": torch.cat(values).mean().item()}


def normalise(vae: AutoencoderKL, latents: Tensor) -> None:
    """Store mean and 1/std of ``latents`` as shift and scaling factor in the config."""
    sample = latents[:4096].float()
    shift, scale = sample.mean().item(), 1.0 / sample.std().item()
    vae.register_to_config(shift_factor=round(shift, 4), scaling_factor=round(scale, 4))
