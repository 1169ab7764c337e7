"""docs/knobs.md is the schemas' own table, and what a schema says about reruns is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_project
from small_project import edit

from charloom.config import generation, knob_table, knobs, schema, yaml
from charloom.config.character import Character
from charloom.config.project import load
from charloom.core.canonical import file_digest
from charloom.workflow import judge_slices, slices, training

MARA = "config/characters/mara.yaml"
KNOBS = dict(knobs.leaves(schema.load_schema("recipe")))


def test_the_page_is_up_to_date() -> None:
    """If not: python -m charloom.config.knob_table"""
    assert knob_table.FILE == small_project.ROOT / "docs" / "knobs.md"
    assert knob_table.FILE.read_text(encoding="utf-8") == knob_table.page()


def test_the_page_says_everything_about_a_knob() -> None:
    page = knob_table.page()
    of_sets = schema.load_schema("dataset")["properties"]
    images = schema.load_schema("character")["properties"]["images"]["properties"]
    of_images = {f"images.{key}": node for key, node in images.items() if "x-reruns" in node}
    for source in generation.GENERATORS:
        of_images |= {f"images.{source}.{key}": node for key, node in images[source]["properties"].items()}
    of_sets = {f"datasets[].{key}": node for key, node in of_sets.items()}
    for name, node in {**KNOBS, **of_sets, **of_images}.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert node["description"] in row and row.endswith(f"| {node['x-reruns']} |")
        assert "default" not in node or f"`{knob_table.shown(node['default'])}`" in row
        for part in [node, *node.get("anyOf", ())]:
            assert all(word in row for word in map(str, part.get("enum", ()))), name
            assert all(str(part[bound]) in row for bound in knob_table._BOUNDS if bound in part), name


def stage(before: Character, after: Character) -> str:
    """The first stage whose settings differ."""
    shots = before.shot_names

    def differs(slice_of: Any) -> bool:
        return slice_of(before) != slice_of(after)

    stages = {
        "captions": differs(lambda c: [slices.caption(c, shot) for shot in shots]),
        "latents": differs(lambda c: slices.latents(c, shots[0])),
        "embeddings": differs(lambda c: (slices.text_encoder(c), slices.texts(c))),
        "class": differs(slices.class_captions),
        "manifest": differs(slices.manifest),
        "base": differs(slices.prepared_name),
        "training": differs(lambda c: training.started_from(slices.train(c), file_digest(c.init) if c.init else "")),
        "checkpoints": differs(lambda c: c.saved_steps),
        "previews": differs(lambda c: (slices.samples(c), c.sampled_steps)),
        "scores": differs(judge_slices.judge),
        "choice": differs(slices.choice),
        "strengths": differs(lambda c: (c.strengths, c.strength_prompts)),
    }
    return next((name for name, changed in stages.items() if changed), "report")


def another(name: str, value: Any, node: dict[str, Any]) -> Any:
    """An allowed value that is not the present one."""
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if "enum" in node:
        return next(word for word in node["enum"] if word != value)
    return value + 1 if isinstance(value, int) else value / 2 + 0.125


OTHERS: dict[str, Any] = {
    "network.modules": "attention",
    "network.lokr_factor": 4,
    "network.init": "first.safetensors",
    "training_adapter": "none",
    "memory": 8,
    "train.ema": {"decay": 0.9},
    "train.steps": 150,
    "train.preservation.differential.class": "girl",
    "save.every": 25,
    "save.keep": 1,
    "data.resolutions": [192],
    "data.default_caption": "another photo of {trigger}",
    "data.mask_weight": 0.5,
    "sample.every": 100,
    "sample.strengths": [1.0],
    "sample.strength_prompts": [2],
    "sample.guidance": 2.0,
    "sample.negative": "blurry",
    "sample.width": 256,
    "sample.height": 256,
    **{f"validation.limits.{name}": 0.5 for name in ("identity_enough", "identity_low", "stranger")},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one empty hand-written caption, so that the default caption is of use, and with masks."""
    monkeypatch.chdir(tmp_path)
    folder = small_project.make(tmp_path)
    own = folder / "config/captions/mara/medium-01.txt"
    own.parent.mkdir(parents=True)
    own.touch()
    (folder / OTHERS["network.init"]).write_bytes(b"any LoRA")
    images = {**small_project.CHARACTER["images"], "masks": "auto"}
    edit(folder / MARA, images=images, recipe={"data": {"default_caption": "a photo of {trigger}"}})
    return folder


def test_reruns_start_where_the_schema_says(project: Path) -> None:
    before = load(project).characters["mara"]
    wrong = {}
    for name, node in KNOBS.items():
        *groups, last = name.split(".")
        present: Any = before.recipe
        for group in groups:
            present = present[group]
        change: Any = {last: another(name, present.get(last), node)}
        for group in reversed(groups):
            change = {group: change}
        edit(project / MARA, recipe=yaml.merge({"data": {"default_caption": "a photo of {trigger}"}}, change))
        found = stage(before, load(project).characters["mara"])
        if not node["x-reruns"].startswith(found):
            wrong[name] = f"{found}, not {node['x-reruns']}"
    assert wrong == {}


def test_names_in_other_trainers_stand_for_knobs_that_exist() -> None:
    recipe = schema.load_schema("recipe")
    for key in recipe["aka"].values():
        group = recipe
        for part in key.split("."):
            group = (
                group["properties"][part]
                if "properties" in group
                else next(one["properties"][part] for one in group["anyOf"] if "properties" in one)
            )
    sets = schema.load_schema("dataset")
    assert {*sets["aka"].values()} <= {*sets["properties"]}
