"""Previews: the images that a checkpoint draws for the sample prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core.canonical import digest, file_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.engine.options import EngineOptions

KIND = "sample"


@dataclass(frozen=True)
class Wanted:
    """One preview: checkpoint (None: the base alone), embedding of the prompt, settings and store key."""

    step: int
    prompt: str
    checkpoint: Path | None
    embedding: Path
    settings: dict[str, Any]
    key: str


class Previews:
    """The previews of the character whose files are in the folder ``results``; each file is hashed once."""

    def __init__(self, results: Path, lock: dict[str, Any]) -> None:
        self.files = Results(results)
        self.lock = lock
        self._digests: dict[Path, str] = {}

    def wanted(self, step: int, prompt: str, settings: dict[str, Any]) -> Wanted | None:
        """One preview, or None while its checkpoint or its embedding is missing."""
        checkpoint = self.files.checkpoint(step) if step else None
        embedding = self.files.prompt_embedding(prompt)
        if not embedding.is_file() or (checkpoint and not checkpoint.is_file()):
            return None
        key = digest(
            {
                "checkpoint": self._digest(checkpoint) if checkpoint else None,
                "embedding": self._digest(embedding),
                "negative": self._digest(self.empty) if settings["guidance"] > 1 else None,
                "transformer": self.lock["components"]["transformer"],
                "vae": self.lock["components"]["vae"],
                **settings,
            }
        )
        return Wanted(step, prompt, checkpoint, embedding, settings, key)

    def all(self, siblings: dict[str, Any]) -> list[Wanted]:
        """Every preview of ``siblings`` (``steps``; ``prompts``: name to settings) that can be drawn now."""
        found = [
            self.wanted(step, name, settings)
            for step in siblings["steps"]
            for name, settings in siblings["prompts"].items()
        ]
        return [one for one in found if one]

    @property
    def empty(self) -> Path:
        """The embedding of the empty prompt, which guidance leads away from."""
        return self.files.embedding("_empty")

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]


def make(
    previews: Previews,
    wanted: list[Wanted],
    store: Store,
    device: Any,
    log: Callable[[str], None],
    options: EngineOptions,
) -> None:
    """Draw those of ``wanted`` that are not stored, checkpoint by checkpoint; the model is loaded once.

    ``options`` and the free memory decide batch size and precision. Their effect is little more than rounding, so
    neither they nor the device are part of a preview's key.
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
    model = engine.load_transformer(root, single, device, options, log)
    vae = engine.quick_decoder(weights.load_vae(locks.locate(previews.lock, "vae", store)), device)
    predict = engine.predict_for(model, options, sum(one.settings["steps"] for one in missing))
    adapters = engine.Adapters(model, options)
    empty = read_safetensors(previews.empty)[0]["embeds"]
    groups: dict[tuple[Any, ...], list[Wanted]] = {}
    for one in missing:
        s = one.settings
        groups.setdefault((one.step, s["scale"], s["width"], s["height"], s["steps"], s["guidance"]), []).append(one)
    batches: dict[tuple[int, int], int] = {}

    for (step, strength, width, height, steps, guidance), members in groups.items():
        size = (width, height)
        batches.setdefault(size, engine.batch_size(model, width, height, device, options))

        def halved(batch: int, size: tuple[int, int] = size) -> None:
            batches[size] = batch
            log(f"out of GPU memory: drawing {size[0]}x{size[1]} in batches of {batch} from now on")

        started = time.monotonic()
        with adapters.applied(members[0].checkpoint, strength):
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
                log=log,
                on_halved=halved,
            )
        for one, picture in zip(members, pixels, strict=True):
            with store.put(KIND, one.key, ".png") as path:
                Image.fromarray(picture).save(path, format="PNG", compress_level=6)
        log(f"step {step}: {len(members)} previews of {width}x{height} in {time.monotonic() - started:.1f} s")
