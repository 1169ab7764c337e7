"""Pictures that are left out: ``images.exclude`` of a character file. The files stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.config import plans
from charloom.config.character import Shot
from charloom.config.datasets import DataSet
from charloom.core.files import expanded

KEY = "exclude"


def apart(
    images: dict[str, Any], shots: Sequence[Shot], sets: Sequence[DataSet]
) -> tuple[tuple[Shot, ...], tuple[Shot, ...], tuple[DataSet, ...], list[str]]:
    """The shots that stay, those that do not, the extra sets without theirs, and ``key: what is wrong; what to do``."""
    names = dict.fromkeys(images.get(KEY, ()))
    kept = tuple(shot for shot in shots if shot.name not in names)
    excluded = tuple(shot for shot in shots if shot.name in names)
    parts = []
    for part in sets:
        out = {image: path for image, path in part.files.items() if f"{part.name}/{image}" in names}
        left = {image: path for image, path in part.files.items() if image not in out}
        parts.append(replace(part, files=left, excluded=out) if out else part)
    return kept, excluded, tuple(parts), _problems(images, names, shots, sets, kept)


def _problems(
    images: dict[str, Any], names: dict[str, None], shots: Sequence[Shot], sets: Sequence[DataSet], kept: Sequence[Shot]
) -> list[str]:
    found = []
    known = {shot.name: shot for shot in shots}
    by_set = {part.name: part for part in sets}
    for name in names:
        where, _, image = name.rpartition("/")
        if where and where not in by_set:
            found.append(f"images.{KEY}: {name}: there is no extra data set called {where}; correct it, or take it out")
        elif where:
            # A folder that is not there is a mistake of its own.
            if image not in by_set[where].files and Path(by_set[where].folder).is_dir():
                found.append(f"images.{KEY}: {name}: the set has no such picture; correct it, or take it out")
        elif name not in known and (shots or expanded(images.get("path", "")).is_dir()):
            found.append(f"images.{KEY}: {plans.no_shot(name, list(known))}")
    if shots and not kept:
        found.append(f"images.{KEY}: leaves no picture to train on; take one back")
    return found
