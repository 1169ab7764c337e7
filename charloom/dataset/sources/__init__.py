"""Where the images of a data set come from.

A source is a module with four functions; ``shot`` is None for the neutral reference:

* ``problems(character)``: lines ``key: what is wrong; what to do``, found without opening an image
* ``inputs(character, shot)``: paths of the files that the image is made from
* ``settings(character, shot)``: plain values that decide how the image looks
* ``make(settings, inputs, output)``: write the image as a PNG

A source that makes each picture from a prompt and the reference is a *generator*: it has two more functions
(:mod:`charloom.dataset.sources.orders`); all generators share these four (:mod:`charloom.dataset.sources.generated`).

To add a source, write such a module and add its name to :data:`NAMES` and to ``images.source`` in the character schema.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from charloom.config import datasets, masking
from charloom.config.generation import GENERATORS

if TYPE_CHECKING:
    from charloom.config.character import Character

NAMES = ("paperdoll", "folder", *GENERATORS)


def get(name: str) -> ModuleType:
    """The source called ``name``."""
    if name not in NAMES:
        raise ValueError(f"no image source {name!r}")
    return import_module(f"charloom.dataset.sources.{name}")


def problems(character: Character) -> list[str]:
    """What prevents a character's images, extra data sets included, from being made.

    Called only when images are needed: the prompt sheet is written before there are any.
    """
    lines = (
        get(character.source).problems(character) + character.without_words() + datasets.problems(character.datasets)
    ) + masking.problems(character)
    return [f"{character.label}: {line}" for line in lines]
