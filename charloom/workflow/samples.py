"""Previews: the images that a checkpoint draws for the sample prompts.

Drawn by the trainer as each checkpoint is saved (:mod:`charloom.workflow.while_training`), and by
``sample_checkpoint`` if one is missing: the prompt was changed later, or there was no memory for both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core.canonical import digest, file_digest
from charloom.core.contents import remembered, signature
from charloom.core.errors import Stopped
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.core.words import several
from charloom.engine.options import EngineOptions

KIND = "sample"

REMEMBERED = 2**22
"""Digests of files larger than this (bytes) are kept in the store."""
SAVING = 8
"""Pictures saved as PNG in parallel; each takes a quarter of a second of a CPU."""


@dataclass(frozen=True)
class Wanted:
    """One picture: checkpoint (None: the base alone), embedding of the prompt, settings and store key.

    ``settings`` hold ``width``, ``height``, ``seed``, ``scale`` (strength of the checkpoint), ``steps``, ``guidance``
    and whatever else the key depends on; ``styles`` are LoRA files on top, each with its strength; ``negative`` is the
    embedding of what guidance leads away from (None: no guidance).
    """

    step: int
    prompt: str
    checkpoint: Path | None
    embedding: Path
    settings: dict[str, Any]
    key: str
    styles: tuple[tuple[Path, float], ...] = ()
    negative: Path | None = None

    @property
    def loras(self) -> tuple[tuple[Path, float], ...]:
        """Every LoRA file that it is drawn with, and its strength."""
        own = ((self.checkpoint, self.settings["scale"]),) if self.checkpoint else ()
        return own + self.styles


class Previews:
    """The previews of the character whose files are in the folder ``results``; each file is hashed once."""

    def __init__(self, results: Path, lock: dict[str, Any], store: Store) -> None:
        self.files = Results(results)
        self.lock = lock
        self.store = store
        self._digests: dict[Any, str] = {}

    def wanted(self, step: int, prompt: str, settings: dict[str, Any], checkpoint: Path | None = None) -> Wanted | None:
        """One preview, or None while its checkpoint or its embedding is missing.

        ``checkpoint`` is where the checkpoint is, if not among the results yet.
        """
        checkpoint = (checkpoint or self.files.checkpoint(step)) if step else None
        embedding = self.files.prompt_embedding(prompt)
        away = settings.get("negative_prompt")
        negative = self.files.negative_embedding(away) if settings["guidance"] > 1 else None
        if not all(path.is_file() for path in (embedding, checkpoint, negative) if path):
            return None
        shift = locks.shift(self.lock)
        key = digest(
            {
                "checkpoint": self._digest(checkpoint) if checkpoint else None,
                "embedding": self._digest(embedding),
                "negative": self._digest(negative) if negative else None,
                "transformer": self.lock["components"]["transformer"],
                "vae": self.lock["components"]["vae"],
                **({"shift": shift} if shift != locks.SHIFT else {}),
                **settings,
            }
        )
        return Wanted(step, prompt, checkpoint, embedding, settings, key, negative=negative)

    def all(self, siblings: dict[str, Any]) -> list[Wanted]:
        """Every preview of ``siblings`` (``steps``; ``prompts``: name to settings) that can be drawn now."""
        return [one for step in siblings["steps"] for one in self.of(step, siblings["prompts"])]

    def of(self, step: int, prompts: dict[str, Any], checkpoint: Path | None = None) -> list[Wanted]:
        """Those of one checkpoint."""
        found = [self.wanted(step, name, settings, checkpoint) for name, settings in prompts.items()]
        return [one for one in found if one]

    def _digest(self, path: Path) -> str:
        # During training, another process may replace an embedding.
        state = (path, *signature(path))
        if state not in self._digests:
            # A checkpoint is hundreds of megabytes, and one job per picture asks for its digest.
            large = state[1] > REMEMBERED
            self._digests[state] = remembered(path, self.store) if large else file_digest(path)
        return self._digests[state]


class Painter:
    """Draws previews into the store with a transformer that is loaded once.

    Args:
        lock: the base's lock file.
        model: the transformer, ready to sample; loaded if not given.
    """

    def __init__(
        self,
        lock: dict[str, Any],
        store: Store,
        device: Any,
        log: Callable[[str], None],
        options: EngineOptions,
        precision: str,
        model: Any = None,
    ) -> None:
        from charloom.engine import previews as engine
        from charloom.zimage import weights

        self.store, self.device, self.log = store, device, log
        self.shift = locks.shift(lock)
        if model is None:
            root, single = locks.locate(lock, "transformer", store), locks.single_file(lock, store)
            model = engine.load_transformer(root, single, device, options, precision)
        self.model = model
        self.vae = engine.quick_decoder(weights.load_vae(locks.locate(lock, "vae", store)), device)
        self.predict = engine.predict_for(model, options, device, log)
        self.adapters = engine.Adapters(model, options, self.predict)
        self._batches: dict[tuple[int, int], int] = {}

    def draw(self, wanted: list[Wanted], asked: Callable[[], bool] | None = None) -> None:
        """Draw those of ``wanted`` that are not stored.

        Raises:
            UserError, Stopped: as :meth:`paint`.
        """
        # In the order of the prompts: on the CPU, pictures of a batch may depend on each other in the last bit.
        missing = [one for one in wanted if not self.store.has(KIND, one.key, ".png")]
        missing.sort(key=lambda one: (one.step, one.prompt))
        # A GPU draws one picture at a time anyway, and the next one while the last is packed.
        drawn = self.paint(missing, 1 if self.device.type == "cuda" else None, asked)
        packing: list[Future[None]] = []
        started = time.monotonic()
        with ThreadPoolExecutor(SAVING) as pool:
            for _, group in groupby(drawn, key=lambda part: alike(part[0][0])):
                count = 0
                for members, pixels in group:
                    packing += [pool.submit(self.keep, *one) for one in zip(members, pixels, strict=True)]
                    count += len(members)
                    for done in [one for one in packing if one.done()]:
                        packing.remove(done)
                        done.result()
                step, size = members[0].step, "{width}x{height}".format(**members[0].settings)
                self.log(f"step {step}: {several(count, 'preview')} of {size} in {time.monotonic() - started:.1f} s")
                started = time.monotonic()
        for one in packing:
            one.result()

    def keep(self, one: Wanted, picture: Any) -> None:
        """Store the pixels of ``one``, (height, width, 3) uint8."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        words = PngInfo()
        if precision := one.settings.get("precision"):
            words.add_text("precision", precision)
        with self.store.put(KIND, one.key, ".png") as path:
            Image.fromarray(picture).save(path, format="PNG", compress_level=6, pnginfo=words)

    def paint(
        self, wanted: Sequence[Wanted], at_once: int | None = None, asked: Callable[[], bool] | None = None
    ) -> Iterator[tuple[list[Wanted], Any]]:
        """Draw all of ``wanted``; yields those that are done, and their pixels (n, height, width, 3) uint8.

        By default all that share their LoRAs and settings are drawn together; with ``at_once`` at most that many.

        Raises:
            UserError: not even one picture fits into GPU memory, or a LoRA does not fit the base.
            Stopped: ``asked()`` before a step of the sampler; what was being drawn is dropped.
        """
        from charloom.core.tensors import read_safetensors
        from charloom.engine import previews as engine
        from charloom.zimage import sampler

        def predict(*inputs: Any) -> Any:
            if asked and asked():
                raise Stopped("in the middle of a picture")
            return self.predict(*inputs)

        groups: dict[tuple[Any, ...], list[Wanted]] = {}
        for one in wanted:
            groups.setdefault(alike(one), []).append(one)
        for (loras, _, width, height, steps, guidance, negative), group in groups.items():
            size = (width, height)

            def halved(batch: int, size: tuple[int, int] = size) -> None:
                self._batches[size] = batch
                self.log(f"out of GPU memory: drawing {size[0]}x{size[1]} in batches of {batch} from now on")

            with self.adapters.applied(loras):
                for start in range(0, len(group), at_once or len(group)):
                    members = group[start : start + (at_once or len(group))]
                    pixels = sampler.sample(
                        self.model,
                        self.vae,
                        [read_safetensors(one.embedding)[0]["embeds"] for one in members],
                        width=width,
                        height=height,
                        seeds=[one.settings["seed"] for one in members],
                        steps=steps,
                        guidance=guidance,
                        negative=read_safetensors(negative)[0]["embeds"] if negative else None,
                        shift=self.shift,
                        batch_size=self._batches.get(size, engine.batch_size(self.device)),
                        predict=predict,
                        log=self.log,
                        on_halved=halved,
                    )
                    yield members, pixels


def make(
    previews: Previews,
    wanted: list[Wanted],
    store: Store,
    device: Any,
    log: Callable[[str], None],
    options: EngineOptions,
) -> None:
    """Draw those of ``wanted`` that are not stored, with a transformer of its own.

    Raises:
        UserError: as :class:`Painter`.
    """
    by_format: dict[str, list[Wanted]] = {}
    for one in wanted:
        if not store.has(KIND, one.key, ".png"):
            by_format.setdefault(precision_of(one.settings), []).append(one)
    for precision, members in by_format.items():
        Painter(previews.lock, store, device, log, options, precision).draw(members)


def alike(one: Wanted) -> tuple[Any, ...]:
    """What pictures share that are drawn together: LoRAs, size, steps, guidance."""
    s = one.settings
    return one.loras, s["scale"], s["width"], s["height"], s["steps"], s["guidance"], one.negative


def precision_of(settings: dict[str, Any]) -> str:
    """The number format of the transformer's weights that a preview is drawn with."""
    return settings.get("precision", "bf16")
