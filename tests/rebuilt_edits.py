"""The edits of the matrix: what each does to the folder of a finished character, and the jobs that read the change.

What is expected comes from the edit: for a knob from its *reruns from* column, for others from the rules named here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_project
import yaml
from job_graph import Graph
from small_project import edit, replace

from charloom.config import knobs, schema
from charloom.config import yaml as merging
from charloom.core.versions import RECIPES

CHARACTER, CONFIG = "config/characters/mara.yaml", "config/config.yaml"
LATE = (
    *("train_segment", "sample_checkpoint", "draw_grid", "score_checkpoint", "choose_checkpoint", "sample_strength"),
    *("score_strengths", "verify_checkpoint", "write_report", "export_final"),
)
"""Rules whose files are missing where half is made."""


@dataclass(frozen=True)
class Edit:
    """An edit: what it is, what it does to the folder, and the jobs that read what it changes: rules with wildcards.
    Jobs that are not in the graph before the edit always run."""

    name: str
    apply: Callable[[Path], object]
    reads: tuple[tuple[str, Mapping[str, str]], ...] = ()
    column: str = ""
    target: str = small_project.TARGET

    def seeds(self, now: Graph, before: Graph) -> set[int]:
        """Numbers of the jobs that the edit reaches by itself."""
        old = set(before.jobs.values())
        found = {number for number, job in now.jobs.items() if job not in old}
        for rule, wanted in self.reads:
            for number, (name, wildcards) in now.jobs.items():
                if name == rule and wanted.items() <= dict(wildcards).items():
                    found.add(number)
        return found


def rules(*names: str, **wildcards: str) -> tuple[tuple[str, Mapping[str, str]], ...]:
    return tuple((name, wildcards) for name in names)


STAGES = {
    "latents": rules("encode_latents", "lint_dataset"),
    "embeddings": rules("encode_caption", "encode_text"),
    "captions": (),  # those that need it: none in this project
    "class": rules("write_manifest", "train_segment"),
    "manifest": rules("write_manifest"),
    "base": (),  # another prepared base is another job
    "training": rules("train_segment"),
    "checkpoints": rules("choose_checkpoint"),
    "previews": rules("sample_checkpoint", "sample_strength"),
    "scores": (),  # this project's judge measures nothing
    "choice": rules("choose_checkpoint"),
    "strengths": rules("score_strengths"),
    "report": (),
}
"""Rules that read a stage's settings, by the first word of the *reruns from* column."""
SECOND = {"prompt": "02"}
OWN = {
    "validation.drift": rules("choose_checkpoint"),
    "quantization.transformer": rules("sample_checkpoint", "sample_strength"),  # sample.precision: auto follows it
    "data.mask_weight": (),  # this project has no masks
    "data.flip_x": rules("encode_latents", "lint_dataset"),
    "data.flip_y": rules("encode_latents", "lint_dataset"),
    "sample.every": rules("choose_checkpoint"),
    "sample.walk_seed": (
        *rules("sample_checkpoint", "sample_strength", **SECOND),
        *rules("draw_grid", "score_checkpoint", "score_strengths"),
    ),
    "sample.skip_first": rules("choose_checkpoint"),
    "sample.force_first": rules("choose_checkpoint"),
    "sample.disable": rules("choose_checkpoint"),
    "sample.width": rules("sample_checkpoint", "sample_strength", "draw_grid", "score_checkpoint"),
    "sample.height": rules("sample_checkpoint", "sample_strength", "draw_grid", "score_checkpoint"),
    "train.preservation.differential.class": rules("train_segment"),
    "train.steps": rules("choose_checkpoint"),
    "save.every": rules("choose_checkpoint"),
}
"""Knobs of which less, or more than their stage says, reads the change."""
VALUES: dict[str, Any] = {
    "network.init": "first.safetensors",
    "data.mask_weight": 0.5,
    "network.modules": "attention", "train.lr": 1.0e-3, "training_adapter": "none", "memory": 8,
    "train.ema": {"decay": 0.9},
    "train.steps": 150, "train.preservation.differential.class": "girl", "save.every": 25, "save.keep": 1,
    "data.resolutions": [192], "data.default_caption": "another photo of {trigger}", "sample.every": 100,
    "sample.strengths": [1.0], "sample.strength_prompts": [2], "sample.guidance": 2.0, "sample.negative": "blurry",
    "sample.width": 256, "sample.height": 256,
    **{f"validation.limits.{name}": 0.5 for name in ("identity_enough", "identity_low", "stranger")},
}  # fmt: skip
"""Another value of the knobs for which any other one will not do."""


def another(name: str, value: Any, node: Mapping[str, Any]) -> Any:
    """An allowed value that is not the present one."""
    if name in VALUES:
        return VALUES[name]
    if isinstance(value, bool):
        return not value
    if "enum" in node:
        return next(word for word in node["enum"] if word != value)
    return value + 1 if isinstance(value, int) else value / 2 + 0.125


def of_knobs() -> list[Edit]:
    """An edit of every knob of the recipe."""
    present = merging.merge(schema.defaults(schema.load_schema("recipe")), small_project.BASE["recipe"])
    present = merging.merge(present, small_project.CONFIG["recipe"])
    found = []
    for name, node in dict(knobs.leaves(schema.load_schema("recipe"))).items():
        value: Any = present
        for part in name.split("."):
            value = value.get(part)  # a knob without a default is unset
        change: Any = another(name, value, node)
        for part in reversed(name.split(".")):
            change = {part: change}
        column = str(node["x-reruns"])
        reads = OWN.get(name, STAGES[re.split(r"[ ,:;]", column)[0]])
        found.append(
            Edit(
                name,
                lambda p, change=change: ((p / "first.safetensors").touch(), edit(p / CHARACTER, recipe=change)),
                (*reads, *rules("write_report")),
                column,
            )
        )
    return found


def touched(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path)


def caption(folder: Path) -> None:
    path = folder / "config/captions/mara/medium-01.txt"
    path.parent.mkdir(parents=True)
    path.write_text("a medium shot photo of m4ra, side profile, a black hoodie")


def shot(folder: Path, change: Callable[[list[Any]], Any]) -> None:
    data = yaml.safe_load((folder / CHARACTER).read_text())
    change(data["shots"])
    edit(folder / CHARACTER, shots=data["shots"], images={**data["images"], "count": len(data["shots"])})


def docstring(folder: Path) -> None:
    path = folder / "charloom/dataset/captions.py"
    path.write_text(path.read_text().replace('"""', '"""Again. ', 1))


def character(folder: Path, name: str) -> None:
    """A copy of the character under another name, with a trigger of its own."""
    data = yaml.safe_load((folder / CHARACTER).read_text())
    small_project.write_yaml(folder / f"config/characters/{name}.yaml", {**data, "name": name, "trigger": "n1na"})


def other_base(folder: Path) -> None:
    """Another file in config/bases, with the same weights."""
    shutil.copy(folder / "config/bases/mini.yaml", folder / "config/bases/other.yaml")
    edit(folder / CONFIG, base="other")


def number(folder: Path) -> None:
    replace(folder, "charloom/core/versions.py", f'"latents": {RECIPES["latents"]},', '"latents": 999,')


NINA = "results/nina/final.safetensors"
EVERYTHING = rules(
    *("write_prompts", "make_reference", "make_source_image", "crop_watermark", "write_caption", "lint_dataset"),
    *("encode_latents", "encode_caption", "encode_text", "write_manifest", *LATE),
)
"""All that is a character's own."""
DATA = rules("write_prompts", "lint_dataset", "write_manifest")
PICTURE = rules("make_source_image")
OTHERS: tuple[Edit, ...] = (
    Edit("files touched", touched),
    Edit("a comment in YAML", lambda p: replace(p, CHARACTER, "name: Mara", "# a comment\nname: Mara")),
    Edit("a docstring", docstring),
    Edit("another character added", lambda p: character(p, "nina")),
    Edit("another character removed", lambda p: shutil.copytree(p / "results/mara", p / "results/nina")),
    Edit("the character renamed", lambda p: (character(p, "nina"), (p / CHARACTER).unlink()), EVERYTHING, target=NINA),
    Edit(
        "the trigger",
        lambda p: edit(p / CHARACTER, trigger="m5ra"),
        (
            *rules("write_caption", "lint_dataset", "train_segment"),
            *rules("encode_text", text="_trigger"),
            *rules("encode_text", text="_prompt-01"),
            *rules("encode_text", text="_prompt-02"),
        ),
    ),
    Edit("a recipe number", number, rules("encode_latents")),
    Edit(
        "a sample prompt",
        lambda p: replace(p, CHARACTER, "a red hoodie", "a green hoodie"),
        (*rules("encode_text", text="_prompt-01"), *rules("draw_grid", "score_checkpoint", "score_strengths")),
    ),
    Edit(
        "a scene of the gallery added",
        lambda p: edit(p / CHARACTER, gallery=["a full body photo of {trigger}, beach"]),
        rules("write_report"),
        target="results/mara/gallery/index.html",
    ),
    Edit("a caption by hand", caption, rules("write_caption", shot="medium-01")),
    Edit(
        "the outfit of a shot",
        lambda p: replace(p, CHARACTER, "a black hoodie", "a gray hoodie"),
        (*DATA, *rules("make_source_image", "write_caption", shot="medium-01")),
    ),
    Edit(
        "a picture replaced (the person's skin)",
        lambda p: replace(p, CHARACTER, "skin: tan", "skin: fair"),
        rules("make_reference", "make_source_image"),
    ),
    Edit(
        "a picture removed",
        lambda p: shot(p, lambda shots: shots.pop()),
        (*DATA, *rules("train_segment", "write_report")),
    ),
    Edit(
        "a picture left out",
        lambda p: edit(p / CHARACTER, images={**small_project.CHARACTER["images"], "exclude": ["fullbody-01"]}),
        (*DATA, *rules("train_segment", "write_report")),
    ),
    Edit(
        "a picture added",
        lambda p: shot(p, lambda shots: shots.append({**shots[0], "name": "closeup-02", "expression": "laughing"})),
        (*DATA, *rules("train_segment", "write_report")),
    ),
    Edit(
        "the wording of the report",
        lambda p: replace(p, CHARACTER, "appearance: a woman", "appearance: a tall woman"),
        rules("write_prompts"),
    ),
    Edit(
        "a training adapter of another kind",
        lambda p: edit(p / CHARACTER, recipe={"training_adapter": "none"}),
        rules("write_report"),
    ),
    Edit(
        "the judge",
        lambda p: edit(p / "config/bases/mini.yaml", judge="paperdoll"),
        rules("score_checkpoint", "score_strengths"),
    ),
    Edit("another base", other_base, rules("write_report")),
    Edit(
        "a file of the base",
        lambda p: (p / "resources/bases/mini/vae/config.json").write_text("{ }"),
        rules("lock_base"),
    ),
)


def all_edits() -> list[Edit]:
    """Every edit of the matrix."""
    return [*OTHERS, *of_knobs()]
