"""Folders named as for kohya's sd-scripts: ``10_m4ra woman`` is repeats, identifier and class; ``1_woman``, without an
identifier, holds regularisation images. Lists folders; opens no picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from charloom.config import guesses, image_folder, kinds, triggers
from charloom.core import words

_NAME = re.compile(r"([1-9]\d{0,2})_(\S.*)")
"""A year such as 2024_summer is no number of repeats."""


@dataclass(frozen=True)
class Part:
    """One folder, with the class word as it is written."""

    path: Path
    repeats: int
    identifier: str
    word: str
    class_: str
    """Of the character file, and ``noun`` with it; empty where the folder does not say."""
    noun: str = ""

    @property
    def trigger(self) -> str:
        """The identifier if it can be a trigger, else empty."""
        return self.identifier if self.class_ and triggers.FORM.fullmatch(self.identifier) else ""


@dataclass(frozen=True)
class Layout:
    """The folders of a character: the one with most pictures, others of it, and those of other people."""

    main: Part
    more: tuple[Part, ...] = ()
    regularization: tuple[Part, ...] = ()
    outside: int = 0
    """Pictures in none of them."""


def part(folder: Path) -> Part | None:
    """A folder by its name; None if it has no number of repeats."""
    found = _NAME.fullmatch(folder.name)
    if not found:
        return None
    *before, last = found[2].split()
    class_, noun = (last, "") if last in kinds.CLASSES else guesses.class_and_noun([last]) or ("", "")
    identifier = " ".join(before) if class_ else found[2]
    return Part(folder, int(found[1]), identifier, last if class_ else "", class_, noun)


def parts(folder: Path) -> list[Part]:
    """The folders in ``folder`` that have a number of repeats and pictures, by name."""
    found = (part(path) for path in sorted(folder.iterdir()) if path.is_dir())
    return [one for one in found if one and image_folder.images(one.path)]


def layout(folder: Path) -> Layout | None:
    """The folders for kohya in ``folder``, or itself; None where no name has a class, as in ``1_beach``."""
    alone = part(folder)
    if alone and alone.class_:
        return Layout(alone)
    there = parts(folder)
    if not any(one.class_ for one in there):
        return None
    named = [one for one in there if one.identifier]
    # The main one says the class of the character.
    main = max(
        [one for one in named if one.class_] or [one for one in there if one.class_],
        key=lambda one: len(image_folder.images(one.path)),
    )
    own = named if main in named else there
    inside = sum(len(image_folder.every(one.path)) for one in there)
    others = tuple(one for one in there if one not in own)
    return Layout(main, tuple(one for one in own if one is not main), others, len(image_folder.every(folder)) - inside)


def entries(found: Layout, written: Callable[[Path], str]) -> list[dict[str, object]]:
    """What ``datasets:`` of the character file says of the further folders; ``written`` gives a folder's path."""
    line = "{trigger} style" if found.main.class_ == "style" else f"{{trigger}}, {kinds.with_article(found.main.word)}"
    sets: list[dict[str, object]] = []
    further = (*found.more, *found.regularization)
    texts = {one.path: one.path.name.partition("_")[2] for one in further}
    if len(set(texts.values())) < len(texts):  # they differ in their repeats alone
        texts = {path: path.name for path in texts}
    names = {path: name for name, path in image_folder.named(texts, "set").items()}
    for one in further:
        sets.append({"name": names[one.path], "path": written(one.path)})
        # One number for all pictures of other people changes nothing.
        if one in found.more or len(found.regularization) > 1:
            sets[-1]["repeats"] = one.repeats
        if one in found.regularization:
            sets[-1]["regularization"] = True
        sets[-1]["default_caption"] = line if one in found.more else kinds.with_article(one.word)
    return sets


def notes(found: Layout) -> list[str]:
    """What was made of the folders."""
    lines = []
    if not found.more:
        lines.append(f"{found.main.path.name}: its repeats count for nothing here; recipe.train.steps says how long")
    for one in found.more:
        lines.append(f"{one.path.name}: under datasets, with repeats: {one.repeats}")
    for one in found.regularization:
        lines.append(f"{one.path.name}: pictures of others, under datasets with regularization: true")
    if found.outside:
        lines.append(f"{words.several(found.outside, 'picture')} outside of these folders: left out, as by kohya")
    return lines


def unread(there: Sequence[Part]) -> list[str]:
    """A line about numbers that look like repeats in names without a class, which nothing is made of."""
    if not there:
        return []
    one = there[0]
    entry = f"datasets: [{{name: …, path: …/{one.path.name}, repeats: {one.repeats}}}]"
    return [f"{one.path.name}: numbers in names are not read; if this one is kohya's repeats, write {entry}"]
