"""Leaves pictures out of a character: ``images.exclude`` of its file. The pictures' files stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.config import plans
from charloom.config.character import Character, Shot
from charloom.config.datasets import DataSet

KEY = "exclude"


def apart(
    images: dict[str, Any], shots: Sequence[Shot], sets: Sequence[DataSet], *, takes_all: bool
) -> tuple[tuple[Shot, ...], tuple[Shot, ...], tuple[DataSet, ...], list[str]]:
    """The shots that stay, those that do not, the extra sets without theirs, and ``key: what is wrong; what to do``.

    With ``takes_all`` the shots are the pictures of a folder: a name without one is of a picture that is gone
    (:func:`gone`).
    """
    names = dict.fromkeys(images.get(KEY, ()))
    kept = tuple(shot for shot in shots if shot.name not in names)
    excluded = tuple(shot for shot in shots if shot.name in names)
    parts = []
    for part in sets:
        out = {image: path for image, path in part.files.items() if f"{part.name}/{image}" in names}
        left = {image: path for image, path in part.files.items() if image not in out}
        parts.append(replace(part, files=left, excluded=out) if out else part)
    problems = _problems(names, None if takes_all else shots, sets)
    if shots and not kept:
        problems.append(f"images.{KEY}: leaves no picture to train on; take one back")
    return kept, excluded, tuple(parts), problems


def gone(character: Character) -> list[str]:
    """Names in ``images.exclude`` that no file has any more; a missing folder is another mistake."""
    there = {*character.planned}
    for part in character.datasets:
        there |= {f"{part.name}/{image}" for image in (*part.files, *part.excluded)}
    names = dict.fromkeys(character.written.get("images", {}).get(KEY, ()))
    folders = {part.name: part.folder for part in character.datasets} | {"": character.folder or ""}
    return [name for name in names if name not in there and Path(folders[name.rpartition("/")[0]]).is_dir()]


def _problems(names: dict[str, None], shots: Sequence[Shot] | None, sets: Sequence[DataSet]) -> list[str]:
    """``shots`` are those of a plan, if there is one."""
    found = []
    known = {part.name for part in sets}
    for name in names:
        where = name.rpartition("/")[0]
        if where and where not in known:
            found.append(f"images.{KEY}: {name}: there is no extra data set called {where}; correct it, or remove it")
        elif not where and shots is not None and name not in (planned := [shot.name for shot in shots]):
            found.append(f"images.{KEY}: {plans.no_shot(name, planned)}")
    return found
