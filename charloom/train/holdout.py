"""Loss on images that are never trained on, with the adapter and without it.

The same noise at the same noise levels every time, so the numbers of different steps and runs compare. It
knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from charloom.core import randomness
from charloom.lora.attach import Adapter
from charloom.train import losses
from charloom.train.data import bucket_of, located, read_checked, read_manifest
from charloom.train.settings import TrainSettings
from charloom.train.step import padded
from charloom.zimage import flow

SIGMAS = (0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def evaluate(
    predict: Callable[..., Tensor], adapter: Adapter, manifest: Path, settings: TrainSettings, device: torch.device
) -> dict[str, float]:
    """Mean loss over the held-out images by noise level: ``{"on 0.25": …, "off 0.25": …, …}``.

    ``off`` is the bare base; an adapter that generalises lowers ``on`` below it. Images are taken in the largest
    resolution, of the training or of their own. The model should be in eval mode: dropout would make other numbers
    each time.
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
            inputs = flow.noisy(x0, noise, sigma), 1.0 - sigma, caps, pad
            for name, output in (("on", predict(*inputs)), ("off", _bare(predict, adapter, inputs))):
                loss = losses.per_item(-output, flow.target(x0, noise), settings.train.loss).item()
                sums[f"{name} {value:.2f}"] = sums.get(f"{name} {value:.2f}", 0.0) + loss / len(items)
    return sums


def _bare(predict: Callable[..., Tensor], adapter: Adapter, inputs: tuple[Tensor, ...]) -> Tensor:
    with adapter.disabled():
        return predict(*inputs)
