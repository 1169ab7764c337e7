"""Reads the results folder of one character into what the report shows.

Everything except the choice is optional: a run without previews, logs or benchmarks still gets a report. No picture is
opened, and torch is not imported.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors import SafetensorError, safe_open

from charloom.core import files, records
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.dataset import captions


@dataclass(frozen=True)
class TrainingImage:
    """An image of the data set with its caption."""

    name: str
    tier: str
    """``close-up``, ``medium``, ``full-body``, or empty if the character file does not say."""
    caption: str
    picture: Path


@dataclass(frozen=True)
class Prompt:
    """A sample prompt."""

    name: str
    text: str


@dataclass(frozen=True)
class Cost:
    """What the jobs of a rule took: their number, total seconds, and peak main memory in MiB."""

    rule: str
    jobs: int
    seconds: float
    memory: float


@dataclass(frozen=True)
class Material:
    """Everything that the page shows about a character."""

    id: str
    name: str
    trigger: str
    base: str
    choice: Mapping[str, Any]
    base_source: str = ""
    concept: str = ""
    kind: str = "character"
    """``style`` for a way of drawing."""
    notices: Sequence[str] = ()
    """What the base cannot do for this character."""
    reference: Path | None = None
    images: Sequence[TrainingImage] = ()
    spoken_of: Mapping[str, str] = field(default_factory=dict)
    """``class``, ``look`` and ``noun`` of the character, unless it is a woman in photographs."""
    prompts: Sequence[Prompt] = ()
    samples: Mapping[int, Mapping[str, Path]] = field(default_factory=dict)
    """Picture by step and prompt name."""
    scores: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Score document by step."""
    loss: Sequence[tuple[int, float]] = ()
    smoothed: Sequence[tuple[int, float]] = ()
    """The trainer's own running mean of the loss, which the terminal and the live page show too."""
    holdout: Sequence[tuple[int, float, float]] = ()
    """(step, loss with the LoRA, loss without it) on held-out images, mean over the noise levels."""
    unmoved: str = ""
    """The trainer's warning if the chosen checkpoint has hardly moved from its initial weights."""
    gpu_bytes: int = 0
    """Peak GPU memory that the trainer allocated, in bytes; 0 on a CPU."""
    gallery: int = 0
    """Number of scenes that the finished LoRA draws after this page is written."""
    strengths: Mapping[str, Any] = field(default_factory=dict)
    """The chosen checkpoint at several strengths, if that was drawn."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the software on the machine that wrote the page."""
    folder: Path = Path()
    """The folder of all files."""
    lint: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    costs: Sequence[Cost] = ()
    file_bytes: int = 0
    """Size of the chosen checkpoint; 0 if it is missing."""
    header: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the chosen checkpoint."""
    width: int | None = None
    """Width of the transformer that the file fits; ``None`` when unknown."""


def gather(results: Path, settings: Mapping[str, Any]) -> Material:
    """Gather the material of the character in ``results``.

    Args:
        results: the folder ``results/<character>``.
        settings: ``character`` (its id), ``name``, ``trigger``, ``base``, ``concept``, ``shots`` (``name`` and
            ``tier``), ``prompts`` (``name``, ``text``), ``steps`` (those with samples), ``recipe_settings``, and
            optionally ``notices`` and ``spoken_of``.

    Raises:
        UserError: ``validation.json`` is missing or broken; everything else may be absent.
    """
    made = Results(results)
    try:
        choice = json.loads(made.validation.read_text(encoding="utf-8"))
        step = int(choice["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{made.validation}: cannot be read ({error}); delete it and it will be rebuilt") from None
    file = made.checkpoint(step)
    prompts = [Prompt(p["name"], p["text"]) for p in settings.get("prompts", ())]
    header, shapes = _header(file)
    # A longer run of the same training may have recorded more.
    last = settings.get("recipe_settings", {}).get("train", {}).get("steps", math.inf)
    lines = [line for line in records.of_training(made) if line.get("step", 0) <= last]
    return Material(
        id=settings["character"],
        name=settings.get("name", settings["character"]),
        trigger=settings.get("trigger", ""),
        base=settings.get("base", ""),
        base_source=settings.get("base_source", ""),
        choice=choice,
        concept=settings.get("concept", ""),
        kind=settings.get("kind", "character"),
        notices=settings.get("notices", ()),
        gallery=settings.get("gallery", 0),
        reference=made.reference if made.reference.is_file() else None,
        images=[_image(made, shot) for shot in settings.get("shots", ())],
        spoken_of=settings.get("spoken_of", {}),
        prompts=prompts,
        # The base alone is drawn for comparison even if it is not scored.
        samples={s: _samples(made, s, prompts) for s in sorted({0, *settings.get("steps", ())})},
        strengths=files.read_mapping(made.strengths),
        versions=versions(),
        scores={s: d for s in settings.get("steps", ()) if (d := files.read_mapping(made.scores(s)))},
        loss=_curve(lines, "loss"),
        smoothed=_curve(lines, "smoothed"),
        holdout=_holdout(lines),
        unmoved=next((r["adapter"]["problem"] for r in lines if "problem" in _adapter(r, step)), ""),
        gpu_bytes=max((int(r["gpu_memory"]) for r in lines if "gpu_memory" in r), default=0),
        folder=results,
        lint=files.read_mapping(made.lint),
        recipe=settings.get("recipe_settings", {}),
        costs=_costs(made),
        file_bytes=file.stat().st_size if file.is_file() else 0,
        header=header,
        width=width(shapes),
    )


def versions() -> dict[str, str]:
    """Versions of charloom, Python and the libraries that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in ("charloom", "torch", "diffusers", "transformers", "peft", "snakemake", "numpy", "pillow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def width(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Width of the transformer that an adapter with tensors of these shapes fits; ``None`` when they do not say."""
    columns: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        # These projections read the hidden state, so their input width is the model width.
        if found := re.search(r"\.(?:to_[qkv]|w[13])\.(lora_A|lokr_w[12](?:_b)?)(?:\.weight)?$", name):
            columns.setdefault(name[: found.start(1)], {})[found[1].removesuffix("_b")] = int(shape[1])
    return next((math.prod(factors.values()) for factors in columns.values()), None)


def _header(path: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Metadata and tensor shapes of a safetensors file; empty when it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_slice(name).get_shape() for name in file.keys()}
    except (OSError, SafetensorError):
        return {}, {}


def _image(made: Results, shot: Mapping[str, str]) -> TrainingImage:
    path = made.caption(shot["name"])
    caption = captions.read(path) if path.is_file() else ""
    return TrainingImage(shot["name"], shot["tier"], caption, made.image(shot["name"]))


def _samples(made: Results, step: int, prompts: Sequence[Prompt]) -> dict[str, Path]:
    return {p.name: path for p in prompts if (path := made.sample(step, p.name)).is_file()}


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """The curve as (step, value); if a step was repeated, its last value counts."""
    return sorted({r["step"]: float(r[name]) for r in lines if name in r}.items())


def _holdout(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, float, float]]:
    """(step, loss with the LoRA, loss without it) on held-out images, mean over the noise levels."""
    found = {}
    for record in lines:
        losses = record.get("holdout") or {}
        on, off = ([v for k, v in losses.items() if k.startswith(f"{name} ")] for name in ("on", "off"))
        if on and off:
            found[int(record["step"])] = (fmean(on), fmean(off))
    return [(step, *found[step]) for step in sorted(found)]


def _adapter(record: Mapping[str, Any], step: int) -> Mapping[str, Any]:
    """The part of a record about the adapter saved at ``step``."""
    found = record.get("adapter") if record["step"] == step else None
    return found if isinstance(found, dict) else {}


def _costs(made: Results) -> list[Cost]:
    """Costs by rule, in the order in which the rules first finished."""
    jobs: dict[str, list[records.Job]] = {}
    for job in records.of_jobs(made):
        jobs.setdefault(job.rule, []).append(job)
    return [
        Cost(rule, len(found), sum(one.seconds for one in found), max(one.memory for one in found))
        for rule, found in jobs.items()
    ]
