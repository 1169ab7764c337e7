"""Reading the results folder of one character into what the report shows.

Everything but the choice is optional: a run without previews, logs or benchmarks still has a report. Light:
no pandas, no torch, no picture is opened here.
"""

from __future__ import annotations

import csv
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from charloom.core.errors import UserError
from charloom.core.layout import Results


@dataclass(frozen=True)
class Shot:
    """An image of the data set with its caption."""

    name: str
    tier: str
    caption: str
    picture: Path


@dataclass(frozen=True)
class Prompt:
    """A sample prompt."""

    name: str
    text: str
    seed: int | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Stage:
    """What a rule has cost: jobs, seconds and the largest memory in MiB."""

    name: str
    jobs: int
    seconds: float
    memory: float


@dataclass(frozen=True)
class Material:
    """All that the page tells about a character."""

    id: str
    name: str
    trigger: str
    base: str
    choice: Mapping[str, Any]
    base_source: str = ""
    concept: str = ""
    notices: Sequence[str] = ()
    """What the base cannot do for this character."""
    reference: Path | None = None
    shots: Sequence[Shot] = ()
    prompts: Sequence[Prompt] = ()
    samples: Mapping[int, Mapping[str, Path]] = field(default_factory=dict)
    """Step, then prompt name, to the picture."""
    scores: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Step to its score document."""
    loss: Sequence[tuple[int, float]] = ()
    holdout: Sequence[tuple[int, float, float]] = ()
    """(step, loss with the adapter, loss without it) on held-out images, mean over the noise levels."""
    unmoved: str = ""
    """What the trainer says of the shipped adapter if it has not moved from its start."""
    gpu_bytes: int = 0
    """GPU memory that the trainer allocated at most; 0 where it ran on a CPU."""
    lint: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[Stage] = ()
    file: Path | None = None
    """The checkpoint that is shipped."""
    file_bytes: int = 0
    header: Mapping[str, str] = field(default_factory=dict)
    width: int | None = None
    """Width of the transformer that the file is made for."""


def gather(results: Path, settings: Mapping[str, Any]) -> Material:
    """The material of the character in ``results``.

    Args:
        results: the folder ``results/<character>``.
        settings: ``character`` (its id), ``name``, ``trigger``, ``base``, ``concept``, ``shots`` (names in order),
            ``prompts`` (``name``, ``text``, ``seed``, ``scale``), ``steps`` (sampled ones), ``recipe_settings`` and
            ``notices`` where there are any.

    Raises:
        UserError: ``validation.json`` is missing or broken; everything else may be absent.
    """
    try:
        choice = json.loads((results / "validation.json").read_text(encoding="utf-8"))
        step = int(choice["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{results}/validation.json: cannot be read ({error}); delete it so it is made again") from None
    file = Results(results).checkpoint(step)
    prompts = [Prompt(p["name"], p["text"], p.get("seed"), p.get("scale", 1.0)) for p in settings.get("prompts", ())]
    reference = results / "reference.png"
    records = _records(results)
    return Material(
        id=settings["character"],
        name=settings.get("name", settings["character"]),
        trigger=settings.get("trigger", ""),
        base=settings.get("base", ""),
        base_source=settings.get("base_source", ""),
        choice=choice,
        concept=settings.get("concept", ""),
        notices=settings.get("notices", ()),
        reference=reference if reference.is_file() else None,
        shots=[_shot(results, shot) for shot in settings.get("shots", ())],
        prompts=prompts,
        samples={s: _samples(results, s, prompts) for s in settings.get("steps", ())},
        scores={s: d for s in settings.get("steps", ()) if (d := _json(Results(results).scores(s)))},
        loss=_loss(records),
        holdout=_holdout(records),
        unmoved=next((r["adapter"]["problem"] for r in records if "problem" in _adapter(r, step)), ""),
        gpu_bytes=max((int(r["gpu_memory"]) for r in records if "gpu_memory" in r), default=0),
        lint=_json(results / "lint.json"),
        recipe=settings.get("recipe_settings", {}),
        stages=_stages(results / "benchmarks"),
        file=file if file.is_file() else None,
        file_bytes=file.stat().st_size if file.is_file() else 0,
        header=header(file),
        width=width(file),
    )


def header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, read without torch; empty when there is none."""
    found = _entries(path).get("__metadata__", {})
    return dict(found) if isinstance(found, dict) else {}


def width(path: Path) -> int | None:
    """Width of the transformer that an adapter is made for; ``None`` when the file does not tell."""
    columns: dict[str, dict[str, int]] = {}
    for name, entry in _entries(path).items():
        # What these read is as wide as the transformer.
        if found := re.search(r"\.(?:to_[qkv]|w[13])\.(lora_A|lokr_w[12](?:_b)?)(?:\.weight)?$", name):
            columns.setdefault(name[: found.start(1)], {})[found[1].removesuffix("_b")] = int(entry["shape"][1])
    return next((math.prod(factors.values()) for factors in columns.values()), None)


def _entries(path: Path) -> dict[str, Any]:
    """The header of a safetensors file; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            found = json.loads(file.read(min(length, 2**25)))
    except (OSError, ValueError, struct.error):
        return {}
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _shot(results: Path, shot: Any) -> Shot:
    name = shot if isinstance(shot, str) else shot["name"]
    path = results / "dataset" / f"{name}.txt"
    caption = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return Shot(name, tier(name, caption), caption, results / "dataset" / f"{name}.png")


def tier(name: str, caption: str) -> str:
    """close-up, medium or full-body, by the first words of the caption, else by the name."""
    for text in (caption.lower()[:40], name.lower()):
        for key, signs in {
            "close-up": ("close-up", "closeup", "portrait"),
            "medium": ("medium",),
            "full-body": ("full body", "full-body", "fullbody"),
        }.items():
            if any(sign in text for sign in signs):
                return key
    return "other"


def _samples(results: Path, step: int, prompts: Sequence[Prompt]) -> dict[str, Path]:
    folder = Results(results).samples(step)
    return {p.name: path for p in prompts if (path := folder / f"{p.name}.png").is_file()}


def _records(results: Path) -> list[dict[str, Any]]:
    """Lines of the newest record of the trainer that are whole."""
    files = sorted(results.glob("**/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    records = []
    for line in files[-1].read_text(encoding="utf-8").splitlines() if files else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue  # a line that is being written may be cut
    return [record for record in records if isinstance(record, dict) and "step" in record]


def _loss(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(step, loss); of a step that was done twice, the later."""
    return sorted({int(r["step"]): float(r["loss"]) for r in records if "loss" in r}.items())


def _holdout(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, float, float]]:
    """(step, with, without the adapter) of the held-out images, mean over the noise levels."""
    found = {}
    for record in records:
        losses = record.get("holdout") or {}
        on, off = ([v for k, v in losses.items() if k.startswith(f"{name} ")] for name in ("on", "off"))
        if on and off:
            found[int(record["step"])] = (fmean(on), fmean(off))
    return [(step, *found[step]) for step in sorted(found)]


def _adapter(record: Mapping[str, Any], step: int) -> Mapping[str, Any]:
    """What a record says of the adapter as it was saved at a step."""
    found = record.get("adapter") if record["step"] == step else None
    return found if isinstance(found, dict) else {}


def _stages(folder: Path) -> list[Stage]:
    """Costs by rule from Snakemake's benchmark files, in the order in which the rules first finished."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(folder.glob("**/*.tsv"), key=lambda path: (path.stat().st_mtime, path.name)):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                found.setdefault(rule, []).append((_number(row.get("s")), _number(row.get("max_rss"))))
    return [Stage(rule, len(v), sum(s for s, _ in v), max(m for _, m in v)) for rule, v in found.items()]


def _number(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0  # Snakemake writes NA where a job was too short to be measured
