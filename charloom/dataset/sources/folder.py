"""The user's own images, copied as PNG: one file per shot (named like it or by its key ``file``), or a whole folder."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config import inventory
from charloom.config.image_folder import REFERENCE, find, images, of_shot
from charloom.core import pictures
from charloom.core.errors import UserError
from charloom.core.versions import RECIPES

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot


def problems(character: Character) -> list[str]:
    """A missing folder, missing images, and images that two shots claim."""
    if not character.folder:
        return ["images.path: is missing; name the folder with your images"]
    if not Path(character.folder).is_dir():
        remedy = inventory.meant(character.folder, _remedy(character))
        return [f"images.path: there is no folder {character.folder}; {remedy}"]
    if character.takes_all:
        return _empty(character) if not character.shots else []
    lines, owners, missing = [], {}, []
    for shot in character.shots:
        if found := of_shot(character, shot):
            owner = owners.setdefault(found.resolve(), shot.name)
            if owner != shot.name:
                lines.append(
                    f"shots.{shot.name}{'.file' * bool(shot.file)}: {found.name} is already the image of {owner}; "
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
        missing.append(shot.name)
    if missing:
        lines.append(f"images.path: {_lacks(character, missing, owners)}")
    return lines


def _lacks(character: Character, missing: list[str], used: Collection[Path]) -> str:
    """One line for all shots without a picture; proposes to rename files that can only be meant for one of them."""
    there = [path for path in images(character.folder or "") if path.stem != REFERENCE]
    plain = {_plain(name): name for name in missing}
    renamed = {}
    for stem in (path.stem for path in there if path.resolve() not in used):
        fits = [plain[_plain(stem)]] if _plain(stem) in plain else difflib.get_close_matches(stem, missing, n=2)
        if len(fits) == 1:
            renamed.setdefault(fits[0], stem)
    if renamed:
        rename = _shortened([f"{stem} to {name}" for name, stem in renamed.items()])
        remedy = f"rename {rename}{', and add the others' if len(renamed) < len(missing) else ''}"
    else:
        remedy = "add " + ("it" if len(missing) == 1 else "them")
        remedy += ", or take the pictures that are there as they are: remove shots:" if there else ""
    number = f"{len(missing)} of {len(character.shots)} pictures"
    return f"{character.folder} lacks {number} ({_shortened(missing)}); {remedy}"


def _shortened(names: list[str]) -> str:
    return ", ".join(names if len(names) < 5 else [*names[:2], "…", names[-1]])


def _plain(name: str) -> str:
    """Normalise a name by removing case, punctuation and leading zeros: closeup-01 and Closeup 1 become the same."""
    return re.sub(r"[^a-z0-9]|(?<!\d)0+(?=\d)", "", name.lower())


def _remedy(character: Character) -> str:
    if character.whole:
        return "correct it, or make it and put your pictures in it"
    return f"make it and put {character.count} images in it"


def _empty(character: Character) -> list[str]:
    there = "; ".join(f"{entry.where}: {entry.what}" for entry in character.unused_files()[:3])
    found = f" that is read, but {there}" if there else ""
    return [f"images.path: {character.folder} has no picture (such as .png, .jpg or .webp){found}; put some there"]


def _unread(path: Path) -> str:
    return f"{path} is in an unsupported format; save it as PNG or JPEG"


def inputs(character: Character, shot: Shot | None) -> list[str]:
    """The user's file. The first close-up stands in for a missing reference, which is only shown on pages."""
    if shot:
        found = of_shot(character, shot)
    else:
        first = min(character.shots, key=lambda other: other.tier != "close-up", default=None)
        found = find(character.folder or "", REFERENCE) or (of_shot(character, first) if first else None)
    return [str(found)] if found else []


def settings(character: Character, shot: Shot | None) -> dict[str, Any]:
    """None: only the file itself matters."""
    return {"recipe": RECIPES["folder"]}


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Copy a PNG byte for byte; convert any other format losslessly to PNG, upright and on white."""
    if not inputs:
        raise UserError(f"{output}: its image is no longer in the folder; put it back")
    picture = pictures.read(inputs[0])
    if is_png(inputs[0]):
        shutil.copyfile(inputs[0], output)
    else:
        pictures.save_png(picture, output)


def is_png(path: str | Path) -> bool:
    """Whether the file is a PNG, whatever its name."""
    with open(path, "rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"
