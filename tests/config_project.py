"""A project to make mistakes in: the files of tests/small_project.py, and ways to change them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_project
import yaml
from small_project import edit

from charloom.config.project import load
from charloom.config.yaml import merge
from charloom.core.errors import UserError
from charloom.dataset import sources

MARA = "config/characters/mara.yaml"
CONFIG = "config/config.yaml"
BASE = "config/bases/mini.yaml"


def problems(folder: Path, **arguments: Any) -> list[str]:
    """What stands in the way of Mara's images, or else of anybody."""
    with pytest.raises(UserError) as caught:
        load(folder, ready="mara", image_problems=sources.problems, **arguments)
        load(folder, **arguments)
    return str(caught.value).splitlines()


def recipe(**changes: Any) -> Callable[[Path], None]:
    return lambda p: edit(p / CONFIG, recipe=merge(small_project.CONFIG["recipe"], changes))


def text(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1))

    return change


def stray_caption(folder: Path) -> None:
    path = folder / "config/captions/mara/closup-01.txt"
    path.parent.mkdir(parents=True)
    path.write_text("m4ra")


def further_set(folder: Path, **changes: Any) -> None:
    """Add a data set of two images, one of them with an empty text."""
    (folder / "more").mkdir(exist_ok=True)
    for name in ("a.png", "b.jpg", "b.txt"):
        (folder / "more" / name).touch()
    others = yaml.safe_load((folder / MARA).read_text()).get("datasets", [])
    edit(folder / MARA, datasets=[*others, {"name": "more", "path": "more", **changes}])
