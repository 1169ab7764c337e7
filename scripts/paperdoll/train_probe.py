"""Train the probe on drawn pictures, half of them seen through the autoencoder and mildly degraded."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from clock import Budget
from torch import Tensor
from train_vae import resize, to_pixels

from charloom.paperdoll.attributes import IDENTITY_VALUES
from charloom.paperdoll.probe import TABLES, Probe

BATCH = 192
RATE = 1.5e-3


def degrade(pixels: Tensor, vae, generator: torch.Generator) -> Tensor:
    """Through the autoencoder for half of the batch; then a lower resolution or a little noise for some."""
    half = len(pixels) // 2
    with torch.no_grad(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
        latents = vae.encode(pixels[:half].contiguous(memory_format=torch.channels_last)).latent_dist.mode()
        latents = latents + 0.1 * latents.std() * torch.randn(latents.shape, generator=generator, device=latents.device)
        pixels[:half] = vae.decode(latents, return_dict=False)[0].float().clamp(-1, 1)
    quarter = len(pixels) // 4
    low = 128 if torch.rand((), generator=generator, device=pixels.device) < 0.5 else 192
    pixels[quarter : quarter * 2] = resize(resize(pixels[quarter : quarter * 2], low), 256)
    noise = torch.randn(pixels[quarter * 3 :].shape, generator=generator, device=pixels.device)
    pixels[quarter * 3 :] = (pixels[quarter * 3 :] + 0.03 * noise).clamp(-1, 1)
    shift = torch.randint(-6, 7, (2,), generator=generator, device=pixels.device).tolist()
    return torch.roll(pixels, shift, dims=(2, 3))


def loss_of(logits: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Cross-entropy per attribute; an identity attribute that cannot be seen should be left undecided."""
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for key, values in logits.items():
        known = truth[key] >= 0
        target = F.one_hot(truth[key].clamp(min=0), values.shape[-1]).float()
        if key in IDENTITY_VALUES:
            target = torch.where(known[:, None], target, torch.full_like(target, 1.0 / values.shape[-1]))
            weight = torch.ones_like(known, dtype=torch.float)
        else:
            weight = known.float()
        loss = -(target * F.log_softmax(values.float(), dim=-1)).sum(-1)
        total = total + (loss * weight).sum() / weight.sum().clamp(min=1)
    return total


def train(probe: Probe, vae, pictures, labels: dict[str, np.ndarray], budget: Budget, device, log) -> int:
    """Train until the budget is spent."""
    rng = np.random.default_rng(3)
    generator = torch.Generator(device).manual_seed(3)
    truth = {key: torch.from_numpy(value.astype(np.int64)).to(device) for key, value in labels.items()}
    probe.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=0.02, fused=device.type == "cuda")
    average = [p.detach().clone() for p in probe.parameters()]
    batch = BATCH if device.type == "cuda" else 8
    step = 0
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(RATE, step, warmup=100)
        index = torch.from_numpy(rng.integers(0, len(pictures), size=batch)).to(device)
        pixels = degrade(to_pixels(pictures[index], device), vae, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = probe(pixels.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits, {key: value[index] for key, value in truth.items()})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in probe.parameters()], 2e-3 if step > 500 else 2e-2)
        if step % 250 == 0:
            log(f"probe step {step} loss {loss.item() / len(TABLES):.4f}")
        step += 1
    with torch.no_grad():
        for parameter, smooth in zip(probe.parameters(), average, strict=True):
            parameter.copy_(smooth)
    probe.eval()
    return step


def accuracy(probe: Probe, images: np.ndarray, labels: dict[str, np.ndarray], keep=None) -> dict[str, float]:
    """Share of pictures read rightly per attribute, where it can be seen; ``keep`` (N,) bool selects pictures."""
    read = probe.read(images)["attributes"]
    out = {}
    for key, truth in labels.items():
        known = truth >= 0
        if keep is not None:
            known = known & keep
        if known.any():
            out[key] = float((read[key].argmax(-1) == truth)[known].mean())
    return out
