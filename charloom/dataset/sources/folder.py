"""The user's own images: one file for each shot, named like it or by its key ``file``; taken over as PNG."""

from __future__ import annotations

import difflib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config import inventory
from charloom.core import pictures
from charloom.core.errors import UserError
from charloom.core.versions import RECIPES

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot

REFERENCE = "reference"


# Snakemake takes a name that ends in twenty times the same for a rule that feeds on itself.
_NAME = re.compile(r"(?!.*?(.+?)\1{19}$)[a-z0-9][a-z0-9_-]{0,39}")


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


def problems(character: Character) -> list[str]:
    """Missing folder, missing images, and images that two shots want."""
    if not character.folder:
        return ["images.path: is missing; name the folder with your images"]
    if not Path(character.folder).is_dir():
        return [f"images.path: there is no folder {character.folder}; make it and put {character.count} images in it"]
    there = [path.stem for path in images(character.folder)]
    lines, owners = [], {}
    for shot in character.shots:
        if found := of_shot(character, shot):
            owner = owners.setdefault(found.resolve(), shot.name)
            if owner != shot.name:
                lines.append(
                    f"shots.{shot.name}{'.file' * bool(shot.file)}: {found.name} is the image of {owner} already; "
                    "give each shot an image of its own"
                )
            elif not inventory.is_picture(found):
                lines.append(f"shots.{shot.name}.file: {_unread(found)}")
            continue
        if other := inventory.unread_format(character.folder, shot.name):
            lines.append(f"images.path: {_unread(other)}")
            continue
        if shot.file:
            lines.append(f"shots.{shot.name}.file: {character.folder} has no {shot.file}; correct it, or add the image")
            continue
        spare = difflib.get_close_matches(shot.name, [s for s in there if s not in character.shot_names], n=1)
        hint = f"; rename {spare[0]}?" if spare else "; add the image or change the plan"
        lines.append(f"images.path: {character.folder} has no {shot.name}.png (nor .jpg, .webp){hint}")
    return lines


def _unread(path: Path) -> str:
    return f"{path} is of a format that is not read here; save it as PNG or JPEG"


def inputs(character: Character, shot: Shot | None) -> list[str]:
    """The user's file. Only pages show the reference, so that the first close-up stands in where there is none."""
    if shot:
        found = of_shot(character, shot)
    else:
        first = min(character.shots, key=lambda other: other.tier != "close-up")
        found = find(character.folder or "", REFERENCE) or of_shot(character, first)
    return [str(found)] if found else []


def settings(character: Character, shot: Shot | None) -> dict[str, Any]:
    """Nothing decides but the file itself."""
    return {"recipe": RECIPES["folder"]}


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Copy a PNG byte for byte; write any other format as a lossless PNG, upright and on white."""
    if not inputs:
        raise UserError(f"{output}: its image is gone from the folder; put it back")
    picture = pictures.read(inputs[0])
    if is_png(inputs[0]):
        shutil.copyfile(inputs[0], output)
    else:
        pictures.save_png(picture, output)


def is_png(path: str | Path) -> bool:
    """Whether the file is a PNG, whatever it is called."""
    with open(path, "rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"
