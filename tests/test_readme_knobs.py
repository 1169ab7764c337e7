"""The table of knobs in the README: every knob is in it once, with its real default, and what it says about reruns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_project
from small_project import edit

from charloom.config import schema, yaml
from charloom.config.character import Character
from charloom.config.project import load
from charloom.workflow import slices

README = small_project.ROOT / "README.md"
MARA = "config/characters/mara.yaml"


def leaves(part: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Knobs by their dotted names; a group of knobs has no default of its own."""
    for key, node in part["properties"].items():
        if "properties" in node and "default" not in node:
            yield from leaves(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node


KNOBS = dict(leaves(schema.load_schema("recipe")))
OF_SETS = {f"datasets[].{key}": node for key, node in schema.load_schema("dataset")["properties"].items()}


def table() -> dict[str, list[str]]:
    """Rows of the README's table by knob: default, allowed values, meaning, from where it reruns."""
    rows: dict[str, list[str]] = {}
    known = {**KNOBS, **OF_SETS}
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and (name := cells[0].strip("`")) in known:
            assert name not in rows, f"{name} is there twice"
            rows[name] = cells[1:]
    return rows


def shown(value: Any) -> str:
    return (value or '""') if isinstance(value, str) else json.dumps(value)


def test_every_knob_is_in_the_table_with_its_default() -> None:
    rows = table()
    assert list(rows) == [*KNOBS, *OF_SETS]
    for name, node in KNOBS.items():
        assert rows[name][0] == f"`{shown(node['default'])}`", name
    for name, node in OF_SETS.items():
        required = name.removeprefix("datasets[].") in schema.load_schema("dataset")["required"]
        default = "required" if required else shown(node["default"]) if "default" in node else "unset"
        assert rows[name][0] == f"`{default}`", name
    assert all(all(cells) for cells in rows.values())


def test_every_allowed_word_is_in_the_table() -> None:
    rows = table()
    for name, node in KNOBS.items():
        for part in [node, *node.get("anyOf", ())]:
            for word in part.get("enum", ()):
                assert re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", rows[name][1]), f"{name}: {word}"
            for limit in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                assert limit not in part or str(part[limit]) in rows[name][1], f"{name}: {limit}"


def stage(before: Character, after: Character) -> str:
    """The first stage whose settings differ."""
    shots = before.shot_names

    def differs(slice_of: Any) -> bool:
        return slice_of(before) != slice_of(after)

    stages = {
        "captions": differs(lambda c: [slices.caption(c, shot) for shot in shots]),
        "latents": differs(lambda c: slices.latents(c, shots[0])),
        "embeddings": differs(slices.text_encoder),
        "class": differs(slices.class_captions),
        "manifest": differs(slices.manifest),
        "base": differs(slices.prepared_name),
        "training": differs(slices.train),
        "checkpoints": differs(lambda c: c.saved_steps),
        "previews": differs(lambda c: (slices.samples(c), c.sampled_steps)),
        "choice": differs(slices.choice),
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
    "training_adapter": "none",
    "memory": 8,
    "train.ema": {"decay": 0.9},
    "train.steps": 150,
    "train.preservation.differential.class": "girl",
    "save.every": 25,
    "save.keep": 1,
    "data.resolutions": [192],
    "data.default_caption": "another photo of {trigger}",
    "sample.every": 100,
    "sample.guidance": 2.0,
    "sample.width": 256,
    "sample.height": 256,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one empty hand-written caption, so that the default caption is of use."""
    monkeypatch.chdir(tmp_path)
    folder = small_project.make(tmp_path)
    own = folder / "config/captions/mara/medium-01.txt"
    own.parent.mkdir(parents=True)
    own.touch()
    edit(folder / MARA, recipe={"data": {"default_caption": "a photo of {trigger}"}})
    return folder


def test_reruns_start_where_the_table_says(project: Path) -> None:
    rows, before = table(), load(project).characters["mara"]
    wrong = {}
    for name, node in KNOBS.items():
        *groups, last = name.split(".")
        present: Any = before.recipe
        for group in groups:
            present = present[group]
        change: Any = {last: another(name, present[last], node)}
        for group in reversed(groups):
            change = {group: change}
        edit(project / MARA, recipe=yaml.merge({"data": {"default_caption": "a photo of {trigger}"}}, change))
        found = stage(before, load(project).characters["mara"])
        if not rows[name][3].startswith(found):
            wrong[name] = f"{found}, not {rows[name][3]}"
    assert wrong == {}
