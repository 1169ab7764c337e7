"""Previews: what a checkpoint draws for the sample prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core.canonical import digest, file_digest
from charloom.core.store import Store
from charloom.engine.options import EngineOptions

KIND = "sample"


@dataclass(frozen=True)
class Wanted:
    """One preview: checkpoint (None is the base alone), embedding of the prompt, settings, and its store key."""

    step: int
    prompt: str
    checkpoint: Path | None
    embedding: Path
    settings: dict[str, Any]
    key: str


class Previews:
    """The previews of one character, whose results are in ``results``; files are hashed once."""

    def __init__(self, results: Path, lock: dict[str, Any]) -> None:
        self.results = results
        self.lock = lock
        self._digests: dict[Path, str] = {}

    def wanted(self, step: int, prompt: str, settings: dict[str, Any]) -> Wanted | None:
        """One preview, or None while its checkpoint or its embedding is not there."""
        checkpoint = self.results / "checkpoints" / f"step-{step:06d}.safetensors" if step else None
        embedding = self.results / "embeddings" / f"_prompt-{prompt}.safetensors"
        if not embedding.is_file() or (checkpoint and not checkpoint.is_file()):
            return None
        empty = self.results / "embeddings" / "_empty.safetensors"
        key = digest(
            {
                "checkpoint": self._digest(checkpoint) if checkpoint else None,
                "embedding": self._digest(embedding),
                "negative": self._digest(empty) if settings["guidance"] > 1 else None,
                "transformer": self.lock["components"]["transformer"],
                "vae": self.lock["components"]["vae"],
                **settings,
            }
        )
        return Wanted(step, prompt, checkpoint, embedding, settings, key)

    def all(self, sisters: dict[str, Any]) -> list[Wanted]:
        """Every preview of ``sisters`` (``steps``; ``prompts``: name to settings, JSON) that could be made now."""
        found = [
            self.wanted(step, name, json.loads(settings))
            for step in sisters["steps"]
            for name, settings in sisters["prompts"].items()
        ]
        return [one for one in found if one]

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]


def make(
    previews: Previews,
    wanted: list[Wanted],
    store: Store,
    device: Any,
    tell: Callable[[str], None],
    options: EngineOptions,
) -> None:
    """Draw those of ``wanted`` that are not stored, checkpoint by checkpoint, with the model loaded once.

    ``options`` and the memory that is free decide how many are drawn at a time and in which precision; as that is
    worth little more than rounding, it is no part of a preview's key, and neither is the device.
    """
    import time

    from PIL import Image

    from charloom.core.tensors import read_safetensors
    from charloom.engine import previews as engine
    from charloom.zimage import sampler, weights

    missing = [one for one in wanted if not store.has(KIND, one.key, ".png")]
    if not missing:
        return
    root, single = locks.locate(previews.lock, "transformer", store), locks.single_file(previews.lock, store)
    model = engine.load_transformer(root, single, device, options, tell)
    vae = engine.quick_decoder(weights.load_vae(locks.locate(previews.lock, "vae", store)), device)
    predict = engine.predict_for(model, options, sum(one.settings["steps"] for one in missing))
    adapters = engine.Adapters(model, options)
    empty = read_safetensors(previews.results / "embeddings" / "_empty.safetensors")[0]["embeds"]
    groups: dict[tuple[Any, ...], list[Wanted]] = {}
    for one in missing:
        s = one.settings
        groups.setdefault((one.step, s["scale"], s["width"], s["height"], s["steps"], s["guidance"]), []).append(one)
    batches: dict[tuple[int, int], int] = {}

    for (step, scale, width, height, steps, guidance), members in groups.items():
        size = (width, height)
        batches.setdefault(size, engine.batch_size(model, width, height, device, options))

        def halved(batch: int, size: tuple[int, int] = size) -> None:
            batches[size] = batch
            tell(f"the GPU memory is too small for more: {size[0]}x{size[1]} in batches of {batch} from now on")

        started = time.monotonic()
        with adapters.applied(members[0].checkpoint, scale):
            pixels = sampler.sample(
                model,
                vae,
                [read_safetensors(one.embedding)[0]["embeds"] for one in members],
                width=width,
                height=height,
                seeds=[one.settings["seed"] for one in members],
                steps=steps,
                guidance=guidance,
                negative=empty if guidance > 1 else None,
                batch_size=batches[size],
                predict=predict,
                log=tell,
                on_halved=halved,
            )
        for one, picture in zip(members, pixels, strict=True):
            with store.put(KIND, one.key, ".png") as path:
                Image.fromarray(picture).save(path, format="PNG", compress_level=6)
        tell(f"step {step}: {len(members)} pictures of {width}x{height} in {time.monotonic() - started:.1f} s")
