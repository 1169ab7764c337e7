"""Folders of the user's pictures: which files there are, and what the workflow calls them. Opens no picture."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config import inventory, schema
from charloom.core import pictures

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot


REFERENCE = "reference"
AUTO = "auto"
"""Value of ``masks`` that names no folder."""


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
    made = {stem: stem for stem in stems if schema.is_name(stem)}
    times: Counter[str] = Counter()
    for stem in sorted(set(stems) - set(made)):
        like = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:34] or "image"
        like = re.sub(r"(.+?)\1{9,}$", r"\1", like)
        name = like
        while name in made or not schema.is_name(name):
            times[like] += 1
            name = f"{like}-{times[like] + 1}"
        made[name] = stem
    by_stem = {stem: name for name, stem in made.items()}
    return {by_stem[stem]: stems[stem] for stem in dict.fromkeys(path.stem for path in files)}


def with_a_use(written: Mapping[str, Any]) -> frozenset[Path]:
    """The folders that a character file names for masks and for extra data sets: theirs are not pictures of another."""
    images, sets = written.get("images", {}), written.get("datasets", ())
    named = [images.get("masks"), *(entry.get(key) for entry in sets for key in ("path", "masks"))]
    return frozenset(Path(inventory.placed(path)).resolve() for path in named if path not in (None, "", AUTO))


def every(folder: str | Path, without: Collection[Path] = ()) -> dict[str, Path]:
    """Every picture in ``folder`` and in the folders below it, by names that can stand in paths of the workflow.

    Folders ``without``, which are resolved, are not looked into.

    A name is made of the picture's own path and does not depend on the other pictures, unless two would get the same
    one: then they are told apart by a digest of their paths, as are those of other letters than Latin ones. Of files of
    a folder that differ in their endings alone, the one that :func:`find` takes.
    """
    best = {ending: rank for rank, ending in enumerate(pictures.endings())}
    chosen: dict[Path, Path] = {}
    for path in sorted(filter(inventory.is_picture, inventory.tree(folder, without)), key=lambda path: path.as_posix()):
        other = chosen.setdefault(path.with_suffix(""), path)
        if best[path.suffix.lower()] < best[other.suffix.lower()]:
            chosen[path.with_suffix("")] = path
    below = {path: path.relative_to(folder).with_suffix("").as_posix() for path in chosen.values()}
    return named(below)


def named(texts: Mapping[Path, str], otherwise: str = "picture") -> dict[str, Path]:
    """Paths by unique names made from their ``texts``, or from ``otherwise`` if no letter is left."""
    slugs = {path: slug(text) for path, text in texts.items()}
    times = Counter(slugs.values())
    found = {}
    for path, text in texts.items():
        short = slugs[path]
        # A name that has lost more than its marks would otherwise change as soon as there is a second one like it.
        lost = any(letter.isalnum() and not letter.isascii() for letter in _folded(text)) or _once(short) != short
        plain = not lost and schema.is_name(short) and (times[short] == 1 or short == text)
        digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:6]
        found[short if plain else f"{_once(short)[:33].rstrip('-_') or otherwise}-{digest}"] = path
    return found


def _folded(name: str) -> str:
    """Small letters, without accents."""
    return "".join(one for one in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(one))


def slug(name: str) -> str:
    """A name of small letters, digits, - and _, made of any."""
    return re.sub(r"[^a-z0-9_-]+", "-", _folded(name)).strip("-_")


def _once(slug: str) -> str:
    """Without what it repeats at its end."""
    return re.sub(r"(.+?)\1{9,}$", r"\1", slug)


def of_shot(character: Character, shot: Shot) -> Path | None:
    """The user's file of a shot."""
    folder = character.folder or ""
    if not shot.file:
        return find(folder, shot.name)
    found = inventory.same(Path(folder, shot.file))
    return found if found and found.is_file() else None


def caption_file(folder: str, shot: Shot) -> Path | None:
    """The caption beside the image of a shot, if there is one."""
    return inventory.text_of(Path(folder, Path(shot.file).with_suffix("") if shot.file else shot.name))


def unused(character: Character) -> list[inventory.Unused]:
    """Files in the folder of the images that nothing reads."""
    if character.source != "folder" or not character.folder:
        return []
    shots = [*character.shots, *character.excluded]
    used = [path for shot in shots if (path := of_shot(character, shot))]
    used += [path for shot in shots if (path := caption_file(character.folder, shot))]
    without = with_a_use(character.written)
    if character.whole:
        return inventory.of_tree(character.folder, used, without)
    # The text of the reference is often beside it, and does no harm.
    used += [path for path in (find(character.folder, REFERENCE), Path(character.folder, f"{REFERENCE}.txt")) if path]
    return inventory.of_pictures(character.folder, used, {path.stem: f"{path.stem}.txt" for path in used}, without)
