"""Whatever a project is about and wherever its pictures come from, all its captions are planned and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_project
from small_project import CHARACTER, edit, picture, snakemake, write_yaml

from charloom.config.project import load

FOLDER = {"source": "folder", "path": "pics"}
PROMPTS = ["a house, {trigger}"]
STYLE = {"kind": "style", "name": "Wash", "sample_prompts": PROMPTS}
CUP = {"name": "cup", "tier": "medium", "subject": "a cup", "background": "kitchen"}
PLANNED = {"appearance": "wet washes", "shots": [CUP, {**CUP, "name": "hill"}]}
OWN = {"recipe": {"data": {"default_caption": "something, {trigger}"}}}
SET = {"name": "beach", "path": "pics", "default_caption": "a beach, {trigger}"}

KINDS: dict[str, dict[str, Any]] = {
    "composed": CHARACTER,
    "in-sets": {**CHARACTER, "datasets": [SET]},
    "whole-folder": {"images": FOLDER, "class": "creature", "noun": "fox"},
    # As charloom import-ai-toolkit writes it: shots without a word, and captions of the user's.
    "imported": {**CHARACTER, "images": {**FOLDER, "count": 1}, "shots": [{"name": "hill"}]},
    "drawn-style": {**STYLE, "images": {"source": "paperdoll", "look": "ink", "count": 2}},
    "folder-style": {**STYLE, **OWN, "images": FOLDER, "datasets": [SET]},
    "planned-style": {**STYLE, **PLANNED, "images": {**FOLDER, "count": 2}},
}
"""Files by name; ``hill`` is the picture with a caption of its own."""


def test_all_captions_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder := small_project.make(tmp_path))
    edit(folder / "config/config.yaml", base="mini")
    (folder / "pics").mkdir()
    for seed, name in enumerate(("cup", "hill")):
        picture(folder / f"pics/{name}.png", (96, 80), seed)
    (folder / "pics/hill.txt").write_text("a hill at dawn, w0rd")
    (folder / "config/characters/mara.yaml").unlink()
    for number, (name, data) in enumerate(KINDS.items()):
        place = "styles" if "style" in name else "characters"
        write_yaml(folder / f"config/{place}/{name}.yaml", {**data, "trigger": f"w0rd{number}"})
    workflow = load()
    wanted = [f"results/{name}/dataset/{image}.txt" for name in KINDS for image in workflow.character(name).image_names]
    made = snakemake(folder, "--keep-going", "--cores", "2", *wanted, code=small_project.ROOT)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    said = {name: (folder / name).read_text().strip() for name in wanted}
    assert all(said.values()) and len(said) == 3 + 5 + 2 + 1 + 2 + 4 + 2
    hills = {name: text for name, text in said.items() if name.endswith("hill.txt")}
    assert all("a hill at dawn" in text for text in hills.values()), hills
