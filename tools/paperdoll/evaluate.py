"""What the model card says: does the miniature draw what a prompt names, and does the probe read it correctly?"""

from __future__ import annotations

import functools
import random

import numpy as np
import torch
import world

from charloom.paperdoll import attributes, language
from charloom.paperdoll.attributes import TABLES
from charloom.zimage.forward import forward
from charloom.zimage.sampler import sample
from charloom.zimage.text import encode

SEED = world.UNSEEN_SEED


def unseen(count: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Complete prompts of the unseen world, with a new meaningless trigger each, and their truth."""
    prompts = []
    for index in range(count):
        identity, scene = world.person(SEED, index * world.SCENES)
        prompts.append(language.describe(identity, scene, language.random_trigger(random.Random(index))))
    truth = {key: values[:: world.SCENES][:count] for key, values in world.labels(SEED, count * world.SCENES).items()}
    return prompts, truth


def draw(tokenizer, encoder, transformer, vae, prompts: list[str], seeds: list[int], size: int, steps: int = 8):
    """Sampled pictures (N, size, size, 3) uint8, guidance off."""
    device = next(transformer.parameters()).device
    embeds = encode(tokenizer, encoder, prompts)

    def predict(x, t, caps, pad):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return forward(transformer, x, t, caps, pad)

    return sample(
        transformer, vae, embeds, width=size, height=size, seeds=seeds, steps=steps, batch_size=100, predict=predict
    )


def obedience(probe, images: np.ndarray, prompts: list[str], truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of pictures in which each attribute that the prompt names is read as named."""
    read = {key: value.argmax(-1) for key, value in probe.read(images)["attributes"].items()}
    named = [language.parse(prompt) for prompt in prompts]
    out: dict[str, float] = {}
    near = np.array([n.get("tier") != "full-body" for n in named])
    for key, values in TABLES.items():
        rows = np.array([key in n for n in named]) & (truth[key] >= 0)
        want = np.array([values.index(n[key]) if key in n else -1 for n in named])
        if rows.any():
            out[key] = round(float((read[key] == want)[rows].mean()), 4)
        if key == "expression":
            out["expression (close-up, medium)"] = round(float((read[key] == want)[rows & near].mean()), 4)
    return out


def trigger_invariance(tokenizer, encoder, transformer, vae, probe, count: int = 100) -> dict[str, float]:
    """Share of attributes read alike in two pictures that differ in their trigger only (same noise)."""
    prompts, again = [], []
    for index in range(count):
        identity, scene = world.person(SEED, index * world.SCENES)
        prompts.append(language.describe(identity, scene, "l3yla"))
        again.append(language.describe(identity, scene, language.random_trigger(random.Random(index))))
    seeds = list(range(5000, 5000 + count))
    reads = []
    for texts in (prompts, again):
        images = draw(tokenizer, encoder, transformer, vae, texts, seeds, 256)
        reads.append({key: value.argmax(-1) for key, value in probe.read(images)["attributes"].items()})
    return {key: round(float((reads[0][key] == reads[1][key]).mean()), 4) for key in attributes.SCENE_VALUES}


def contact_sheet(images: np.ndarray, columns: int):
    """One PNG-ready picture of all ``images``."""
    from PIL import Image

    size = images.shape[1]
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size), "white")
    for i, image in enumerate(images):
        sheet.paste(Image.fromarray(image), ((i % columns) * size, (i // columns) * size))
    return sheet


@torch.no_grad()
def own_samples(trainer, ids, mask, generator, steps: int = 8):
    """Latents (B, 16, 32, 32) that the base itself draws for token ids (B, L)."""
    from train_base import text_states

    from charloom.zimage import flow

    device = ids.device
    x = torch.randn(len(ids), 16, 32, 32, generator=generator, device=device)
    sigmas = flow.sample_sigmas(steps)
    predict = functools.partial(forward, trainer.transformer)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        caps = text_states(trainer.encoder, ids)
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            x = x + (following - sigma) * flow.velocity(predict, x, sigma, caps, mask).float()
    return x
