"""Images and captions for the checks of :mod:`charloom.dataset.lint`, read from the user's own files.

No rule has to run first, so a caption that was just edited is checked as it is now. Images that the workflow draws are
checked once they exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from charloom.config import image_folder
from charloom.config.character import Character
from charloom.config.datasets import DataSet
from charloom.core import layout, pictures
from charloom.core.canonical import digest, file_digest
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.versions import RECIPES
from charloom.dataset import captions, crop, lint
from charloom.dataset.lint import Finding, Item
from charloom.workflow import slices

KIND = "image-facts"


def items(character: Character, root: Path, store: Store) -> tuple[list[Item], list[Finding], int]:
    """Every image of the character with its caption, findings about unreadable files, and the number of images that
    are not drawn yet."""
    named = slices.user_files(character)
    made, found, missing, wanted = [], [], 0, {}
    for name in character.image_names:
        part, image = character.part_of(name)
        path, cut = _picture(character, part, image, root)
        picture, text = named.get(name, (str(path), f"{name}.txt"))
        if path.is_file():
            wanted[name] = path, cut
        else:
            missing += 1
        caption = None
        try:
            caption = _caption(character, part, image, root)
        except UserError as error:
            found.append(_finding(text, error))
        made.append(Item(name, caption, None, text, picture))
    facts = gathered({name: lambda pair=pair: kept_facts(pair[0], store, pair[1]) for name, pair in wanted.items()})
    out = []
    for item in made:
        fact = facts.get(item.name)
        if isinstance(fact, UserError):
            found.append(_finding(item.picture, fact))
            fact = None
        out.append(Item(item.name, item.caption, fact, item.text, item.picture))
    return out, found, missing


def _picture(
    character: Character, part: DataSet | None, image: str, root: Path
) -> tuple[Path, Mapping[str, int] | None]:
    """The file of an image, and the crop that has not been applied to it yet."""
    if part:
        return part.files[image], part.crop
    if character.source == "folder":
        return image_folder.of_shot(character, character.shot(image)) or Path(
            character.folder or "", image
        ), character.crop
    return root / layout.results(character.id).image(image), None


def _caption(character: Character, part: DataSet | None, image: str, root: Path) -> str:
    shot = None if part else character.shot(image)
    path = part.caption_file(image) if part else character.caption_file(shot, root)
    text = captions.read(path) if path else ""
    if text:
        return captions.completed(text, character.trigger) if character.whole and not part else text
    if part:
        return part.default_caption
    return character.default_caption if path or character.whole else captions.caption(character, shot)


def kept_facts(path: Path, store: Store, cut: Mapping[str, int] | None = None) -> dict[str, Any]:
    """:func:`charloom.dataset.lint.facts` of an image, after the crop ``cut`` if given; cached in the store.

    Raises:
        UserError: the image cannot be read, or is too small for the crop.
    """
    from charloom.core import files

    if not path.is_file():
        pictures.read(path)
    key = digest({"image": file_digest(path), "recipe": RECIPES["lint"], **({"crop": dict(cut)} if cut else {})})
    if not store.has(KIND, key, ".json"):
        picture = pictures.read(path)
        if cut:
            picture = crop.cropped(picture, path, **cut)
        with store.put(KIND, key, ".json") as entry:
            files.write_json(entry, lint.facts_of(picture))
    return files.read_json(store.path(KIND, key, ".json"))


def gathered(work: Mapping[str, Callable[[], Any]], threads: int = 0) -> dict[str, Any]:
    """Results by name, computed in parallel; a :class:`UserError` takes the place of its result."""

    def one(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except UserError as error:
            return error

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        results: Iterable[Any] = pool.map(one, work.values())
        return dict(zip(work, results, strict=True))


def _finding(where: str, error: UserError) -> Finding:
    """An error as a finding about the file it names."""
    return Finding("error", where, str(error).removeprefix(f"{where}: "))
