"""The small project with pictures from a generator: its character, its orders and their keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_project
from small_project import edit

from charloom.config.character import Character
from charloom.config.project import load
from charloom.core.store import Store
from charloom.workflow import generating, likeness, picture_slices

MARA = "config/characters/mara.yaml"


def generated(folder: Path, source: str = "gemini", **images: Any) -> Character:
    """Mara with generated pictures."""
    edit(folder / MARA, images={"source": source, "count": 3, **images})
    return load(folder).characters["mara"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_project.make(tmp_path)


def by_shot(character: Character) -> dict[str, dict[str, Any]]:
    return dict(json.loads(picture_slices.shots(character)))


def keys(character: Character, reference: Path) -> dict[str, str]:
    batch = generating.Batch(by_shot(character), reference, Store("work/store"), likeness.Nobody)
    return {name: batch.orders(name)[0].key for name in character.shot_names}
