"""Loss on held-out images, with and without the adapter.

Noise and noise levels are the same every time, so results of different steps and runs are comparable.
"""

from __future__ import annotations

from pathlib import Path

import torch

from charloom.core import randomness
from charloom.lora.attach import Adapter
from charloom.train import losses
from charloom.train.data import bucket_of, located, read_checked, read_manifest
from charloom.train.settings import TrainSettings
from charloom.train.step import padded
from charloom.zimage import flow
from charloom.zimage.forward import Predict

SIGMAS = (0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def evaluate(
    predict: Predict, adapter: Adapter, manifest: Path, settings: TrainSettings, device: torch.device
) -> dict[str, float]:
    """Mean loss over the held-out images by noise level: ``{"on 0.25": …, "off 0.25": …, …}``.

    ``off`` is the bare base; an adapter that generalizes lowers ``on`` below it. Images are used at the largest
    resolution, their own or else that of the training. The model should be in eval mode: dropout would make the results
    random.
    """
    items, _ = read_manifest(manifest, "holdout")
    sums: dict[str, float] = {}
    for index, item in enumerate(items):
        root = Path(manifest).parent
        latents = read_checked(located(root, item["latents"]), item["latents_sha256"])
        bucket = bucket_of(latents, max(item.get("resolutions", settings.data.resolutions)))
        assert bucket is not None, f"{item['latents']} holds no latents"
        caption = read_checked(located(root, item["embeddings"]), item["embeddings_sha256"])["embeds"]
        x0 = latents[bucket][None].to(device)
        caps, pad = padded([caption], device)
        for level, value in enumerate(SIGMAS):
            noise = randomness.normals(settings.train.seed, "holdout", tuple(x0.shape), index, level).to(device)
            sigma = torch.full((1,), value, device=device)
            arguments = predict, flow.noisy(x0, noise, sigma), sigma, caps, pad
            with_adapter = flow.velocity(*arguments)
            with adapter.disabled():
                without = flow.velocity(*arguments)
            for name, prediction in (("on", with_adapter), ("off", without)):
                loss = losses.per_item(prediction, flow.target(x0, noise), settings.train.loss).item()
                sums[f"{name} {value:.2f}"] = sums.get(f"{name} {value:.2f}", 0.0) + loss / len(items)
    return sums
