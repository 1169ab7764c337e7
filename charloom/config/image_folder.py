"""Folders of the user's pictures: which files there are, and what the workflow calls them. Opens no picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charloom.config import inventory, schema
from charloom.core import pictures

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot


REFERENCE = "reference"


# Snakemake takes a name that ends in twenty times the same for a rule that feeds on itself.
_NAME = re.compile(schema.load_schema("name")["pattern"])


def images(folder: str | Path) -> list[Path]:
    """The images in ``folder`` by name, whatever the case of their endings; none where there is no folder."""
    found = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return sorted(path for path in found if inventory.is_picture(path) and path.is_file())


def find(folder: str, stem: str) -> Path | None:
    """The image called ``stem`` in ``folder``, in whatever supported format."""
    known = (path for suffix in pictures.endings() if (path := Path(folder, stem + suffix)).is_file())
    return next(known, None) or next((path for path in images(folder) if path.stem == stem), None)


def names(files: Sequence[Path]) -> dict[str, Path]:
    """The images by names that can stand in paths of the workflow: their stems where these can, else made of them.

    Of files that differ in their endings alone, the one that :func:`find` takes.
    """
    best = pictures.endings()
    ranked = sorted(files, key=lambda path: best.index(path.suffix.lower()), reverse=True)
    stems = {path.stem: path for path in ranked}
    made = {stem: stem for stem in stems if _NAME.fullmatch(stem)}
    times: Counter[str] = Counter()
    for stem in sorted(set(stems) - set(made)):
        like = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:34] or "image"
        like = re.sub(r"(.+?)\1{9,}$", r"\1", like)
        name = like
        while name in made:
            times[like] += 1
            name = f"{like}-{times[like] + 1}"
        made[name] = stem
    by_stem = {stem: name for name, stem in made.items()}
    return {by_stem[stem]: stems[stem] for stem in dict.fromkeys(path.stem for path in files)}


def of_shot(character: Character, shot: Shot) -> Path | None:
    """The user's file of a shot."""
    folder = character.folder or ""
    if not shot.file:
        return find(folder, shot.name)
    return path if (path := Path(folder, shot.file)).is_file() else None


def caption_file(folder: str, shot: Shot) -> Path | None:
    """The caption beside the image of a shot, if there is one."""
    return inventory.text_of(Path(folder, Path(shot.file).stem if shot.file else shot.name))


def unused(character: Character) -> list[inventory.Unused]:
    """Files in the folder of the images that nothing reads."""
    if character.source != "folder" or not character.folder:
        return []
    used = [path for shot in character.shots if (path := of_shot(character, shot))]
    used += [path for shot in character.shots if (path := caption_file(character.folder, shot))]
    # The text of the reference is often beside it, and does no harm.
    used += [path for path in (find(character.folder, REFERENCE), Path(character.folder, f"{REFERENCE}.txt")) if path]
    return inventory.of_pictures(character.folder, used, {path.stem: f"{path.stem}.txt" for path in used})
