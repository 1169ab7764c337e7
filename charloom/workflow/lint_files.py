"""Reads images and captions for the checks of :mod:`charloom.dataset.lint` from the user's own files.

No rule has to run first, so that a caption that was just edited is checked as it is. Images that the workflow draws are
checked once they exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from types import MappingProxyType

from charloom.config import image_folder
from charloom.config.character import Character
from charloom.core import layout
from charloom.core.contents import LARGE, Contents
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset import captions, lint, proposals
from charloom.dataset.lint import Finding, Item
from charloom.workflow import caption_slices, looking, slices


def items(
    character: Character,
    root: Path,
    store: Store,
    detectors: Sequence[str] = (),
    raw: Mapping[str, str] = MappingProxyType({}),
    stop: Event | None = None,
) -> tuple[list[Item], list[Finding], int]:
    """Every image of the character with its caption, findings about unreadable files, and the number of images that
    are not drawn yet. ``detectors`` are those of :data:`charloom.workflow.looking.DETECTORS` to use; ``raw`` is what
    the captioner has said, by picture; ``stop`` as for :func:`charloom.workflow.looking.gathered`.
    """
    named = slices.user_files(character)
    made, found, missing, wanted = [], [], 0, {}
    for name in character.image_names:
        part, image = character.part_of(name)
        path, cut = picture(character, name, root)
        shown, text = named.get(name, (str(path), f"{name}.txt"))
        if path.is_file():
            wanted[name] = path, cut
        else:
            missing += 1
        said = None
        try:
            said = caption(character, name, root, raw)
        except UserError as error:
            found.append(lint.unread(text, error, name))
        made.append(Item(name, said, None, text, shown))
    contents = Contents(store, root / "work" / "contents.json")
    # Digests are looked up in one thread, because their cache is not thread-safe.
    tokens = {name: contents.of(path) if path.stat().st_size < LARGE else "" for name, (path, _) in wanted.items()}
    contents.save()
    facts = looking.gathered(
        {
            name: lambda name=name, path=path, cut=cut: looking.kept_facts(path, store, cut, detectors, tokens[name])
            for name, (path, cut) in wanted.items()
        },
        stop=stop,
    )
    out = []
    for item in made:
        fact = facts.get(item.name)
        if isinstance(fact, UserError):
            found.append(lint.unread(item.picture, fact, item.name))
            fact = None
        out.append(Item(item.name, item.caption, fact, item.text, item.picture))
    return out, found, missing


def picture(character: Character, name: str, root: Path) -> tuple[Path, Mapping[str, int] | None]:
    """The file of an image, whether it exists or not, and the crop that has not been applied to it yet."""
    part, image = character.part_of(name)
    if part:
        return part.files[image], part.crop
    if character.source == "folder":
        found = image_folder.of_shot(character, character.shot(image))
        return found or Path(character.folder or "", image), character.crop
    return root / layout.results(character.id).image(image), None


def caption(character: Character, name: str, root: Path, raw: Mapping[str, str] = MappingProxyType({})) -> str:
    """The present caption of a picture: the user's; else the one made from the captioner's text (in ``raw``), if that
    is used without asking and passes the check; else the composed or the default one.

    Raises:
        UserError: its file is not UTF-8 text.
    """
    part, image = character.part_of(name)
    shot = None if part else character.shot(image)
    path = part.caption_file(image) if part else character.caption_file(shot, root)
    text = captions.read(path) if path else ""
    if text:
        return captions.completed(text, character.trigger) if character.whole and not part else text
    plain = path or character.whole or name in character.blank
    usual = part.default_caption if part else character.default_caption if plain else captions.caption(character, shot)
    automatic = caption_slices.automatic(character, name) if name in raw else {}
    made = proposals.propose(name, raw[name], usual, automatic["captioner"]) if automatic else None
    return made.text if made and made.good else usual
