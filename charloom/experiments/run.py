"""Runs one training in this process, draws with its checkpoints, and reads the pictures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from charloom.base import locks
from charloom.core.layout import Results
from charloom.engine.options import EngineOptions
from charloom.experiments.data import Place
from charloom.experiments.design import Look, Training
from charloom.experiments.reader import Reader
from charloom.experiments.watermark import star
from charloom.judge import backend as judges
from charloom.lora.adapter import load_into
from charloom.train.job import TrainJob
from charloom.train.keys import CHECKPOINT, checkpoint_key
from charloom.train.loop import train
from charloom.workflow import prepared, slices
from charloom.workflow import training as runs
from charloom.zimage import sampler, weights

SEEDS = (7001, 8001, 9001)
"""Seeds of the pictures that a checkpoint is measured on; each prompt adds its index. Previews use others."""
SAVE_EVERY = 100
"""Steps between checkpoints of an experiment."""
GPU_MEMORY = 4.0
"""GiB of GPU memory that a training may use, so that many fit on one GPU."""


@dataclass(frozen=True)
class Seen:
    """A picture that a checkpoint drew, with its prompt and seed."""

    prompt: str
    text: str
    seed: int
    pixels: np.ndarray


class Studio:
    """The miniature, its instruments and their folder; loaded once per process."""

    def __init__(
        self, place: Place, reader: Path, log: Callable[[str], None] = print, device: str | torch.device = "cpu"
    ) -> None:
        self.place, self.log, self.device = place, log, torch.device(device)
        root = Path(place.lock["root"])
        self.model = weights.load_transformer(root).to(self.device)
        self.vae = weights.load_vae(root).to(self.device)
        self.reader = Reader.load(reader).to(self.device)
        self._judges: dict[Path, tuple[Any, dict[str, float]]] = {}

    def judge(self, files: Results) -> tuple[Any, dict[str, float]]:
        """The miniature's own judge after studying a data set, and the levels of that."""
        if files.root not in self._judges:
            judge = judges.open_backend("paperdoll", Path(self.place.base.judge_weights or ""))
            items = json.loads(files.manifest.read_text(encoding="utf-8"))["items"]
            own = [judges.load_picture(files.image(i["name"]), i["caption"], name=i["name"]) for i in items]
            self._judges[files.root] = judge, judge.study(own)
        return self._judges[files.root]


@dataclass
class Run:
    """A training that runs when one of its checkpoints is first needed."""

    studio: Studio
    training: Training
    every: int = SAVE_EVERY

    @cached_property
    def files(self) -> Results:
        """The data set."""
        return self.studio.place.dataset(self.training)

    @cached_property
    def _job(self) -> TrainJob:
        place, person = self.studio.place, self.training.person
        transformer, record = place.transformer(self.training)
        slice_ = json.loads(slices.train(person))
        last, shift = person.recipe["train"]["steps"], locks.shift(place.lock)
        settings = runs.settings_of(slice_, every=self.every, last=last, shift=shift)
        device = self.studio.device
        if device.type != "cpu":
            # fp32 as on the CPU. A step takes a few milliseconds, so compiling would take longer than training.
            settings = replace(settings, train=replace(settings.train, dtype="fp32"))
        return TrainJob(
            settings=settings,
            run_key=runs.key(settings, slice_, self.files.manifest, record, person.init),
            manifest=self.files.manifest,
            load_model=lambda dtype, device: prepared.load(place.lock, transformer, dtype, device),
            log_dir=place.root / "logs" / self.training.key[:16],
            title=person.id,
            trigger=person.trigger,
            device=str(device),
            engine=EngineOptions(memory=GPU_MEMORY, compile=False),
        )

    def checkpoint(self, step: int) -> Path:
        """The LoRA of a step."""
        store, job = self.studio.place.store, self._job
        with store.lock(runs.lock(job.run_key)):
            train(job, store, step, lambda progress: None, lambda text: None)
        return store.path(CHECKPOINT, checkpoint_key(job.run_key, step), ".safetensors")

    def draw(self, step: int, strength: float, seeds: Sequence[int] = SEEDS) -> list[Seen]:
        """Draw each sample prompt with each seed; step 0 is the base alone."""
        prompts = self.training.person.sample_prompts
        wanted = [(prompt, seed + place) for seed in seeds for place, prompt in enumerate(prompts)]
        embeds = self.studio.place.embeddings(self.training, [prompt.text for prompt, _ in wanted])
        lora = load_into(self.studio.model, self.checkpoint(step), strength) if step else contextlib.nullcontext()
        with lora:
            images = sampler.sample(
                self.studio.model,
                self.studio.vae,
                embeds,
                width=prompts[0].width,
                height=prompts[0].height,
                seeds=[seed for _, seed in wanted],
                steps=self.training.person.recipe["sample"]["steps"],
                shift=locks.shift(self.studio.place.lock),
                batch_size=10,
            )
        return [Seen(p.name, p.text, seed, image) for (p, seed), image in zip(wanted, images, strict=True)]

    def read(self, seen: Sequence[Seen], step: int = 0) -> list[dict[str, Any]]:
        """Measure each picture; returns plain values.

        ``reader`` are indices into the tables of :mod:`charloom.experiments.reader`; ``judge`` are the values of the
        miniature's own judge; ``star`` is the similarity of the corner to the watermark.
        """
        found = self.studio.reader.read(np.stack([one.pixels for one in seen]))
        judge, levels = self.studio.judge(self.files)
        pictures = [judges.Picture(f"{one.prompt}-{one.seed}", one.text, one.pixels, one.seed) for one in seen]
        scores = judges.score(judge, levels, self.training.character, step, pictures, self.training.person.trigger)
        values: dict[str, dict[str, float]] = {}
        for row in scores["rows"]:
            if row["metric"] in ("identity_relative", "obedience", "bleed", "detail"):
                values.setdefault(row["prompt"], {})[row["metric"]] = round(row["value"], 4)
        return [
            {
                "prompt": one.prompt,
                "seed": one.seed,
                "reader": [int(index) for index in row],
                "judge": values.get(picture.name, {}),
                "star": round(star(one.pixels), 3),
            }
            for one, row, picture in zip(seen, found, pictures, strict=True)
        ]


def measured(studio: Studio, looks: Sequence[Look], pictures: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield a line of results for each of ``looks``, which share one training, as soon as it is known.

    ``pictures`` is a folder for strips of what each look drew with the first seed.
    """
    run = Run(studio, looks[0].training)
    for look in sorted(looks, key=lambda look: (look.step, look.strength)):
        started = time.monotonic()
        path = run.checkpoint(look.step)
        trained = time.monotonic() - started
        seen = run.draw(look.step, look.strength)
        if pictures:
            save_strip(seen[: len(run.training.person.sample_prompts)], pictures / f"{look.name}.webp")
        yield {
            "look": look.name,
            "character": look.training.character,
            "seed": look.training.seed,
            "step": look.step,
            "strength": look.strength,
            "changes": json.loads(look.training.changes),
            "training_s": round(trained, 1),
            "looking_s": round(time.monotonic() - started - trained, 1),
            "bytes": path.stat().st_size,
            "device": torch.cuda.get_device_name(studio.device) if studio.device.type == "cuda" else studio.device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "pictures": run.read(seen, look.step),
        }


def save_strip(seen: Sequence[Seen], path: Path) -> None:
    """Save small copies of pictures side by side."""
    size = seen[0].pixels.shape[0]
    strip = Image.new("RGB", (size * len(seen), size))
    for place, one in enumerate(seen):
        strip.paste(Image.fromarray(one.pixels), (place * size, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    strip.save(path, quality=82)


def previews(run: Run, step: int) -> dict[str, Any]:
    """Score a checkpoint as the workflow does: one preview per prompt, with the prompt's own seed."""
    person = run.training.person
    judge, levels = run.studio.judge(run.files)
    prompts = person.sample_prompts
    embeds = run.studio.place.embeddings(run.training, [prompt.text for prompt in prompts])
    lora = load_into(run.studio.model, run.checkpoint(step), 1.0) if step else contextlib.nullcontext()
    with lora:
        images = sampler.sample(
            run.studio.model,
            run.studio.vae,
            embeds,
            width=prompts[0].width,
            height=prompts[0].height,
            seeds=[prompt.seed for prompt in prompts],
            steps=person.recipe["sample"]["steps"],
            shift=locks.shift(run.studio.place.lock),
            batch_size=10,
        )
    pictures = [
        judges.Picture(p.name, p.text, image, p.seed, p.scale) for p, image in zip(prompts, images, strict=True)
    ]
    return judges.score(judge, levels, person.id, step, pictures, person.trigger)
