"""The user's picture files, for the pages: where each belongs, and how to put a new one there.

A replaced picture moves to the trash, a folder ``.trash`` beside the pictures, which nothing else reads.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from charloom.config import image_folder, inventory
from charloom.config.character import Character, Shot
from charloom.core import files, pictures
from charloom.core.contents import signature
from charloom.core.errors import UserError

TRASH = ".trash"


class Changed(UserError):
    """Somebody else has replaced the picture in the meantime."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(f"{path}: has changed since you saw it; look at it again, then replace it")


@dataclass(frozen=True)
class Place:
    """Where the picture of a shot belongs: ``folder`` (of all pictures), ``stem`` in ``home``, and its present file."""

    folder: Path
    home: Path
    stem: str
    there: Path | None
    name: str = ""
    """The only file name that is read, if the character file gives one."""


def reason(character: Character, name: str) -> str:
    """Why this picture cannot be replaced by hand; empty if it can."""
    if character.part_of(name)[0] or character.source == "folder":
        return "" if character.part_of(name)[0] or character.folder else "images.path is missing"
    how = "are drawn" if character.source == "paperdoll" else f"come from {character.source}"
    return f"the pictures {how}; to use your own, set images: {{source: folder, path: ...}}"


def place(character: Character, name: str) -> Place:
    """Where the picture ``name`` belongs: a shot, ``<set>/<image>`` (excluded ones too), or the reference.

    Raises:
        UserError: there is no such picture, or its file is not the user's own.
    """
    if why := reason(character, name):
        raise UserError(f"{name}: {why}")
    part, image = character.part_of(name)
    if part:
        there = part.files.get(image) or part.excluded.get(image)
        if there is None:
            raise UserError(f"there is no picture {name}; load the page again")
        return Place(Path(part.folder), there.parent, there.stem, there if there.is_file() else None)
    folder = Path(character.folder or "")
    shot = _shot(character, name)
    there = image_folder.of_shot(character, shot)
    if not shot.file:
        return Place(folder, folder, shot.name, there)
    own = folder / shot.file
    # If every picture is used, shots are named after files, not the other way round.
    return Place(folder, own.parent, own.stem, there, "" if character.takes_all else own.name)


def _shot(character: Character, name: str) -> Shot:
    shots = {shot.name: shot for shot in (*character.shots, *character.excluded)}
    if name in shots:
        return shots[name]
    if name == image_folder.REFERENCE and not character.whole:
        return Shot(name)
    raise UserError(f"there is no picture {name}; load the page again")


def version(path: Path | None) -> str:
    """A tag that changes with the file of a picture, found without reading it; empty if there is no file."""
    try:
        return "-".join(f"{value:x}" for value in signature(path)) if path else ""
    except OSError:
        return ""


def put(character: Character, name: str, source: Path, *, expected: str | None = None) -> tuple[Path, Path | None]:
    """Copy ``source`` to where the picture ``name`` is read from; returns the new file and where the old one went.

    With ``expected``, the :func:`version` that the user saw, a newer file is not replaced.

    Raises:
        Changed: the file has changed since then.
        UserError: ``source`` is not a picture, or nothing can be put there.
    """
    with _told(character.folder or name):
        where = place(character, name)
    if expected is not None and version(where.there) != expected:
        raise Changed(where.there or where.home / where.stem)
    usual = checked(source)
    target = where.home / (where.name or f"{where.stem}{usual}")
    if where.name and Path(where.name).suffix.lower() not in _same(usual):
        raise UserError(
            f"{name}: the character file reads {where.name}, and this picture is {usual[1:].upper()}; "
            "save it in that format, or correct the shot's file"
        )
    return _land(source, target, where)


def add(character: Character, file: str, source: Path) -> Path:
    """Copy the picture ``source`` into a folder that is used as a whole, under a name like ``file``.

    Raises:
        UserError: it is not a picture, or the character does not use a whole folder.
    """
    if not adds(character):
        raise UserError("pictures can only be added to a folder that is used as a whole; drop this one onto a shot")
    usual, folder = checked(source), Path(character.folder or "")
    plain = re.sub(r"[^\w()\- ]+", "-", Path(file.replace("\\", "/")).stem).strip("-. ~#")[:80].rstrip() or "picture"
    with _told(folder):
        taken = {path.stem.lower() for path in folder.iterdir()} if folder.is_dir() else set()
    stem, number = plain, 1
    while stem.lower() in taken or stem.lower() == image_folder.REFERENCE or not files.on_any_system(stem):
        number += 1
        stem = f"{plain}-{number}"
    return _land(source, folder / f"{stem}{usual}", Place(folder, folder, stem, None))[0]


def adds(character: Character) -> bool:
    """Whether the character uses a whole folder, so that pictures can be added."""
    return character.source == "folder" and bool(character.folder) and character.takes_all


def checked(source: Path) -> str:
    """Decode a file completely, and return the extension of its format.

    Raises:
        UserError: it is not a picture, or one that cannot be trained on.
    """
    try:
        usual = pictures.ending(source)
        pictures.read(source)
    except UserError as error:
        raise UserError(str(error).replace(f"{source}: ", "the file ", 1)) from None
    return usual


def _same(usual: str) -> tuple[str, ...]:
    alike = ((".jpg", ".jpeg", ".jfif"), (".tif", ".tiff"), (".heic", ".heif", ".hif"))
    return next((group for group in alike if usual in group), (usual,))


@contextlib.contextmanager
def _told(path: Path | str) -> Iterator[None]:
    """Turn an error of the operating system into one line for the user."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); look at the folder's permissions") from None


def _land(source: Path, target: Path, where: Place) -> tuple[Path, Path | None]:
    former = None
    with _told(target):
        if not where.folder.is_dir() and where.home == where.folder:
            where.folder.mkdir(parents=True)
        if not target.parent.resolve().is_relative_to(where.folder.resolve()):
            raise UserError(f"{target}: lies outside of {where.folder}; correct the shot's file")
        with files.whole(target) as temporary:
            shutil.copyfile(source, temporary)
            # All pictures of this name: one with a preferred extension would be read instead of the new one.
            for path in _of_stem(where, target):
                if os.path.lexists(path):  # not if it was another spelling of one that is gone
                    gone = files.aside(path, path.parent / TRASH)
                    former = former or gone
    return target, former


def _of_stem(where: Place, target: Path) -> list[Path]:
    """The files that the new picture replaces, starting with the one that is read at present.

    Some file systems ignore case (``IMG.png`` is ``img.png``), so the file system is asked; if it tells the two apart,
    the other is a different picture.
    """
    same = [path for path in where.home.iterdir() if inventory.is_picture(path) and _called(path, where.stem)]
    return list(dict.fromkeys([*([where.there] if where.there else []), *same, target]))


def _called(path: Path, stem: str) -> bool:
    if path.stem == stem:
        return True
    with contextlib.suppress(OSError):
        return path.with_name(stem + path.suffix).samefile(path)
    return False
