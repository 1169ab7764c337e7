"""Shots of a character file: written out, or a plan of ``config/plans/`` with what differs by class and character."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.config import image_folder, inventory, kinds, schema, yaml
from charloom.config.character import Shot
from charloom.core import words

_SHOWN = 40
"""Names that one line lists."""


def every_picture(folder: str | None, without: Collection[Path]) -> list[Shot]:
    """A shot for every picture of the folder and of those below it but ``without``; what it shows is not asked."""
    if not folder or not Path(folder).is_dir():
        return []
    found = image_folder.every(folder, without)
    return [Shot(name, file=path.relative_to(folder).as_posix()) for name, path in found.items()]


def read(
    data: Any, kind: str, spoken: kinds.Words, document: yaml.Document, label: str, root: Path
) -> tuple[list[Shot], dict[str, int], list[str]]:
    """The shots that ``shots`` of a character file stands for.

    Args:
        data: a list of shots, the name of a plan, or ``{plan, replace}``.
        kind: class of the character.
        spoken: its words, which take the places of ``{their}``, ``{noun}``, ...
        document: the character file, called ``label``.
        root: the folder of the project, whose ``config/plans`` are read.

    Returns:
        the shots; their intended number by tier, if the plan says so; a line per mistake.
    """
    changes: dict[str, Any] = {}
    balance: dict[str, int] = {}
    problems: list[str] = []
    if not isinstance(data, list):
        plan = data if isinstance(data, str) else data["plan"]
        changes = {} if isinstance(data, str) else data.get("replace", {})
        file = f"config/plans/{plan}.yaml"
        if not (root / file).is_file():
            return [], {}, [f"{label}: shots: there is no {file}; {_known(plan, (root / file).parent)}"]
        source = yaml.read_yaml(root / file, file)
        loaded, problems = schema.check(source, "plan", file)
        if problems:
            return [], {}, problems
        data, balance = loaded["shots"], loaded.get("balance", {})
        own = loaded.get("by_class", {}).get(kind, {})
        data, problems = _changed(data, own, f"{file}: by_class.{kind}", (source, ("by_class", kind)))
    data, wrong = _changed(data, changes, f"{label}: shots.replace", (document, ("shots", "replace")))
    problems += wrong
    names = [shot["name"] for shot in data]
    problems += [f"{label}: shots: {name} appears twice; every shot needs its own name" for name in _twice(names)]
    if problems:
        return [], {}, problems
    shots = [Shot(**{**shot, "accessories": tuple(shot.get("accessories", ()))}) for shot in data]
    texts: Iterator[dict[str, Any]] = (
        {k: spoken.fill(words.tidy(v)) for k, v in vars(s).items() if isinstance(v, str) and k != "file"} for s in shots
    )
    told = [replace(shot, **text) for shot, text in zip(shots, texts, strict=True)]
    return [replace(shot, accessories=tuple(map(spoken.fill, shot.accessories))) for shot in told], balance, []


def no_shot(name: str, names: Sequence[str]) -> str:
    """That no shot is called ``name``, and which may be meant."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"there is no shot called {name}" + (
        f"; did you mean {close[0]}?" if close else f"; shots are {words.listed(names, _SHOWN)}"
    )


def _changed(
    shots: list[dict[str, Any]], changes: dict[str, Any], where: str, part_of: tuple[yaml.Document, Sequence[str]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Shots with some keys changed, by the shots' names; a key that is null is taken out."""
    by_name = {shot["name"]: shot for shot in shots}
    made: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    document, path = part_of
    for name, change in changes.items():
        if name not in by_name:
            problems.append(f"{where}.{name}: {no_shot(name, list(by_name))}")
            continue
        merged = {key: value for key, value in {**by_name[name], **change}.items() if value is not None}
        made[name], wrong = schema.check(merged, "shot", f"{where}.{name}", (document, (*path, name)))
        problems += wrong
    return [made.get(shot["name"], shot) for shot in shots], problems


def _twice(names: list[str]) -> list[str]:
    return sorted(name for name, times in Counter(names).items() if times > 1)


def _known(name: str, folder: Path) -> str:
    return schema.meant(name, [path.stem for path in inventory.yaml_files(folder)])
