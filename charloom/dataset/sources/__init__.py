"""Where the images of a data set come from.

A source is a module with four functions; ``shot`` is None for the neutral reference:

* ``problems(character)``: lines ``key: what is wrong; what to do``, found without opening an image. They count only
  when images are really needed: the prompt sheet is made before there are any.
* ``inputs(character, shot)``: paths of the files that the image is made from
* ``settings(character, shot)``: plain values that decide how the image looks
* ``make(settings, inputs, output)``: write the image as a PNG
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from charloom.config import datasets

if TYPE_CHECKING:
    from charloom.config.character import Character

NAMES = ("paperdoll", "folder")


def get(name: str) -> ModuleType:
    """The source called ``name``."""
    if name not in NAMES:
        raise ValueError(f"no image source {name!r}")
    return import_module(f"charloom.dataset.sources.{name}")


def problems(character: Character) -> list[str]:
    """What stands in the way of a character's images: those of its source, and its extra data sets.

    It counts once the images are needed: the prompt sheet is made before there are any.
    """
    lines = (
        get(character.source).problems(character) + character.without_words() + datasets.problems(character.datasets)
    )
    return [f"{character.label}: {line}" for line in lines]
