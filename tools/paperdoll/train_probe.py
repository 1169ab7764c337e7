"""Train the probe on drawn pictures, part of them seen through the autoencoder, all mildly degraded."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from clock import Budget
from torch import Tensor
from train_vae import resize, to_pixels

from charloom.paperdoll.attributes import IDENTITY_VALUES, TABLES
from charloom.paperdoll.probe import Probe

BATCH = 192
RATE = 2e-3
BOOST = {"lips": 4.0, "brows": 3.0, "skin": 2.0, "outfit": 2.0, "expression": 2.0}
"""Weights of the attributes that are learned last: small, or alike from behind."""


@torch.no_grad()
def reconstructions(vae, pictures: Tensor, count: int, device, batch: int = 64) -> Tensor:
    """The first ``count`` pictures through the autoencoder with a little noise on the latents, uint8."""
    generator = torch.Generator(device).manual_seed(4)
    out = torch.empty_like(pictures[:count])
    for start in range(0, count, batch):
        pixels = to_pixels(pictures[start : min(start + batch, count)], device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
            strength = 0.25 * torch.rand(len(latents), 1, 1, 1, generator=generator, device=device)
            noise = torch.randn(latents.shape, generator=generator, device=device)
            latents = latents + strength * latents.std() * noise
            decoded = vae.decode(latents, return_dict=False)[0].float().clamp(-1, 1)
        out[start : start + len(pixels)] = ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return out


def degrade(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Lower resolution for some, a little noise for others, a small shift for all."""
    quarter = len(pixels) // 4
    low = 128 if torch.rand((), generator=generator) < 0.5 else 192
    pixels[:quarter] = resize(resize(pixels[:quarter], low), 256)
    noise = torch.randn(pixels[quarter : quarter * 2].shape, device=pixels.device)
    pixels[quarter : quarter * 2] = (pixels[quarter : quarter * 2] + 0.04 * noise).clamp(-1, 1)
    shift = torch.randint(-8, 9, (2,), generator=generator).tolist()
    return torch.roll(pixels, shift, dims=(2, 3))


def targets(labels: dict[str, np.ndarray], device) -> tuple[Tensor, Tensor]:
    """Target distributions (N, attributes, longest) and weights (N, attributes).

    An identity attribute that cannot be seen should be left undecided; any other is not asked for.
    """
    longest = max(len(values) for values in TABLES.values())
    count = len(next(iter(labels.values())))
    goal = torch.zeros(count, len(TABLES), longest)
    weight = torch.ones(count, len(TABLES))
    for i, (key, values) in enumerate(TABLES.items()):
        truth = torch.from_numpy(labels[key].astype(np.int64))
        goal[torch.arange(count), i, truth.clamp(min=0)] = 1.0
        hidden = truth < 0
        goal[hidden, i] = 0.0
        if key in IDENTITY_VALUES:
            goal[hidden, i, : len(values)] = 1.0 / len(values)
            weight[hidden, i] = 0.3
        else:
            weight[hidden, i] = 0.0
        weight[:, i] *= BOOST.get(key, 1.0)
    return goal.to(device), weight.to(device)


def train(probe: Probe, vae, pictures: Tensor, labels: dict[str, np.ndarray], budget: Budget, device, log) -> int:
    """Train until the budget is spent; ``pictures`` uint8 (N, 256, 256, 3) on the device."""
    generator = torch.Generator().manual_seed(3)
    goal, weight = targets(labels, device)
    seen = reconstructions(vae, pictures, min(16_000, len(pictures)), device)
    log("probe: reconstructions ready")
    valid = torch.tensor([len(v) for v in TABLES.values()], device=device)[:, None]
    valid = torch.arange(goal.shape[-1], device=device) < valid
    probe.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=0.05, fused=device.type == "cuda")
    batch = BATCH if device.type == "cuda" else 8
    third = batch // 3
    step = 0
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(RATE, step, warmup=100)
        index = torch.randint(len(pictures), (batch,), generator=generator)
        index[:third] %= len(seen)
        index = index.to(device)
        images = torch.cat((seen[index[:third]], pictures[index[third:]]))
        shuffle = torch.randperm(batch, generator=generator).to(device)
        pixels = degrade(to_pixels(images[shuffle], device), generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = probe(pixels.contiguous(memory_format=torch.channels_last))
        scores = F.log_softmax(logits.float().masked_fill(~valid, -30.0), dim=-1)
        rows = index[shuffle]
        loss = -((goal[rows] * scores).sum(-1) * weight[rows]).sum() / weight[rows].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
        optimizer.step()
        if step % 500 == 0:
            log(f"probe step {step} loss {loss.item():.4f}")
        step += 1
    probe.eval()
    return step


def accuracy(probe: Probe, images: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of pictures read correctly per attribute, where it is visible."""
    read = probe.read(images, batch_size=128)["attributes"]
    return {
        key: round(float((read[key].argmax(-1) == truth)[truth >= 0].mean()), 4)
        for key, truth in labels.items()
        if (truth >= 0).any()
    }
