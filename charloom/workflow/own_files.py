"""Converts the user's own pictures and captions to the files that are trained on, once, one process per folder.

The results are kept in the store by the contents of the user's file, so that a job whose result is there needs no
Python: the rule's shell command fetches it (:data:`STORED`). A picture that needs no conversion is copied byte for
byte.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config import image_folder
from charloom.core import files, pictures
from charloom.core.canonical import canonical_json, digest, file_digest
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.versions import RECIPES
from charloom.dataset import captions, crop

if TYPE_CHECKING:
    from charloom.config.character import Character

STORED = (
    "stored() { type find ln touch cat sync mv rm > /dev/null || return 1; "
    'rm -f "$2.tmp"; [ -f "$1" ] && [ -f "$1.sha256" ] && '
    'if [ -n "$(find "$1" -size +8191)" ] && ln "$1" "$2.tmp"; then touch "$2.tmp"; '
    'else cat "$1" > "$2.tmp" && sync "$2.tmp"; fi && '
    'has="$({ sha256sum || shasum -a 256; } < "$2.tmp")" && [ "${has%% *}" = "$(cat "$1.sha256")" ] && '
    'mv -f "$2.tmp" "$2" || { rm -f "$2.tmp"; return 1; }; } 2>/dev/null; '
)
"""Bash: ``stored ENTRY OUTPUT`` puts an entry of the store at OUTPUT as :meth:`Store.fetch` does, without starting
Python. It fails if there is no such entry, if it is damaged or has no digest, or if a tool is missing; then the rule's
script is called."""

NONE = "none"
"""In place of the digest of a caption that is not there."""


@dataclass(frozen=True)
class Kind:
    """A kind of stored file: its name in the store, and its ending."""

    name: str
    suffix: str

    def key(self, content: str, settings: Mapping[str, Any]) -> str:
        """Store key of what is made of a file with the digest ``content``."""
        return digest({"content": content or NONE, **settings})

    def key_of(self, path: Path | None, settings: Mapping[str, Any]) -> str:
        """The same for a file of the user, or for none."""
        return self.key(file_digest(path) if path else NONE, settings)

    def entry(self, store: Store, content: str, settings: Mapping[str, Any]) -> Path:
        """Where the store has it, or is going to."""
        return store.path(self.name, self.key(content, settings), self.suffix)


PICTURE = Kind("own-picture", ".png")
CAPTION = Kind("caption", ".txt")


def picture_settings(character: Character, name: str) -> str:
    """The slice for a picture: the crop of its folder."""
    part, _ = character.part_of(name)
    cut = dict(part.crop) if part else character.crop
    return canonical_json({"crop": cut, "recipe": [RECIPES["folder"], RECIPES["crop"]]})


def pictures_of(character: Character, part: str) -> list[str]:
    """The user's pictures that are converted in one go: those of an extra set, or of the folder (an empty name)."""
    files = [path for one in character.datasets if one.name == part for path in one.files.values()]
    found = files if part else [path for shot in character.shots if (path := image_folder.of_shot(character, shot))]
    return [str(path) for path in found]


def captions_of(character: Character, part: str) -> list[str]:
    """The captions of these pictures, as far as they have one."""
    texts = [one.caption_file(image) for one in character.datasets if one.name == part for image in one.files]
    return [str(path) for path in (texts if part else map(character.caption_file, character.shots)) if path]


def make_picture(path: Path, settings: Mapping[str, Any], store: Store) -> str:
    """Convert one of the user's files into the store unless it is there; returns its key.

    ``settings`` has ``crop`` (``right``, ``bottom``, ``minimum``).

    Raises:
        UserError: it cannot be read, is not a picture, or is too small for the crop.
    """
    try:
        key = PICTURE.key_of(path, settings)
    except OSError:
        pictures.read(path)  # says what is wrong
        raise
    if not store.has(PICTURE.name, key, PICTURE.suffix):
        cut = settings["crop"]
        picture = crop.cropped(pictures.read(path), path, **cut)
        with store.put(PICTURE.name, key, PICTURE.suffix) as target:
            if not cut["right"] and not cut["bottom"] and pictures.is_plain(path):
                shutil.copyfile(path, target)
            else:
                picture.image.info.clear()  # its colours are sRGB now, whatever profile it came with
                pictures.save_png(picture, target)
    return key


def make_caption(path: Path | None, settings: Mapping[str, Any], store: Store) -> str:
    """Put one of the user's captions into the store as it is trained on, unless it is there; returns its key.

    ``settings`` has ``trigger``, with which the caption is completed, or ``default``, that of a picture without any.

    Raises:
        UserError: the file cannot be read, or is not UTF-8 text.
    """
    key = CAPTION.key_of(path, settings)
    if not store.has(CAPTION.name, key, CAPTION.suffix):
        text = captions.read(path) if path else ""
        text = captions.completed(text, settings["trigger"]) if "trigger" in settings else text
        text = text or settings.get("default", "")
        if not text:
            raise UserError(f"{path}: is empty; write a caption, or delete the file")
        with store.put(CAPTION.name, key, CAPTION.suffix) as target:
            files.write_text(target, text + "\n")
    return key


def make_pictures(paths: Iterable[Path], settings: Mapping[str, Any], store: Store, threads: int) -> None:
    """The same for many pictures; a problem with one is reported by its own job."""
    from concurrent.futures import ThreadPoolExecutor

    def one(path: Path) -> None:
        with contextlib.suppress(UserError, OSError):
            make_picture(path, settings, store)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for _ in pool.map(one, paths):
            pass


def make_captions(paths: Iterable[Path], settings: Mapping[str, Any], store: Store) -> None:
    """The same for many captions."""
    for path in paths:
        with contextlib.suppress(UserError, OSError):
            make_caption(path, settings, store)
