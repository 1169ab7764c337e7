"""Who describes the pictures that have no caption of the user's, and what becomes of the texts: ``captions:`` of a
character file. Plain values, opens nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.config import addresses
from charloom.config.character import Character
from charloom.config.datasets import is_blank

REVIEW, AUTO = "review", "auto"
KEY = "OPENAI_API_KEY"
LONGEST = 160
"""Tokens of a captioner's answer."""
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")

PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""Files of a model: no pickles, and no code from its repository."""


def model_files(folder: Path) -> list[Path]:
    """The files of a model in a folder."""
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))


_PEOPLE = (
    "Write one caption of at most sixty words for this picture of a {noun}. Name, as far as they can be seen: how near "
    "the picture is taken and from which side, pose, expression, clothes, accessories, light and surroundings. Leave "
    "out what does not change from picture to picture, such as age, skin, shape of the face, and colour of hair and "
    "eyes. Say only what is there, and nothing about the picture's quality."
)
_THINGS = (
    "Write one caption of at most sixty words for this picture of a {noun}. Name, as far as they can be seen: how near "
    "the picture is taken and from which side, what it does or how it lies, what is worn or added, light and "
    "surroundings. Leave out its own colours and shape. Say only what is there, and nothing about its quality."
)
_STYLE = (
    "Write one caption of at most sixty words that says what this picture shows: who or what, where, doing what, from "
    "which side. Leave out how it is drawn or photographed. Say only what is there."
)


@dataclass(frozen=True)
class Captioner:
    """A model that describes pictures: here, in a folder or from the Hub, or behind an API (``base_url``)."""

    model: str
    prompt: str
    revision: str = "main"
    base_url: str = ""
    key: str = KEY
    longest: int = LONGEST
    price: float | None = None

    @property
    def local(self) -> bool:
        """Whether it runs on this machine."""
        return not self.base_url

    @property
    def folder(self) -> Path | None:
        """The folder of the model, if it is one on this disk."""
        path = Path(os.path.expanduser(self.model))
        return None if not self.local or (_REPO.fullmatch(self.model) and not path.is_dir()) else path

    @property
    def files(self) -> list[Path]:
        """The files in its folder that decide what it says."""
        return model_files(self.folder) if self.folder else []

    def values(self) -> dict[str, Any]:
        """What its answers depend on, for settings. No key, only the name of its variable."""
        found = {"model": self.model, "prompt": self.prompt, "longest": self.longest}
        if self.local:
            return {**found, "revision": self.revision}
        return {**found, "base_url": self.base_url, "key": self.key}


@dataclass(frozen=True)
class Captioning:
    """``captions:`` of a character file."""

    captioner: Captioner | None = None
    accept: str = REVIEW
    identity_words: tuple[str, ...] = ()
    keep_words: tuple[str, ...] = ()
    most_tokens: int | None = None

    @property
    def auto(self) -> bool:
        """Whether texts are used without review."""
        return self.captioner is not None and self.accept == AUTO


def of(character: Character) -> Captioning:
    """How a character's pictures are captioned."""
    given = character.written.get("captions") or {}
    entry = given.get("captioner")
    entry = {"model": entry} if isinstance(entry, str) else entry
    captioner = Captioner(**{"prompt": prompt(character), **entry}) if entry else None
    return Captioning(
        captioner,
        given.get("accept", REVIEW),
        tuple(given.get("identity_words", ())),
        tuple(given.get("keep_words", ())),
        given.get("most_tokens"),
    )


def mistakes(character: Character) -> list[str]:
    """What a schema cannot check, each as ``key: what is wrong; what to do``. Never repeats what might be a secret."""
    found = of(character).captioner
    if found is None or found.local:
        return []
    wrong = {"base_url": addresses.mistake(found.base_url), "key": addresses.variable_mistake(found.key)}
    return [f"captions.captioner.{key}: {what}" for key, what in wrong.items() if what]


def kind(character: Character) -> str:
    """What the character is, for the words of captions: woman, man, person, creature, object, or style."""
    return "style" if character.is_style else character.kind


def prompt(character: Character) -> str:
    """What a captioner is asked for by default, by the class of the character."""
    if (what := kind(character)) == "style":
        return _STYLE
    noun = character.noun or what
    return (_THINGS if what in ("creature", "object") else _PEOPLE).format(noun=noun)


def described(character: Character, root: Path = Path(".")) -> list[str]:
    """The pictures that a captioner describes: those without a caption of the user's. None without a captioner."""
    if of(character).captioner is None:
        return []
    return [name for name in character.image_names if hand_written(character, name, root) is None]


def hand_written(character: Character, name: str, root: Path = Path(".")) -> Path | None:
    """The user's own caption of a picture, unless it is empty."""
    part, image = character.part_of(name)
    path = part.caption_file(image) if part else character.caption_file(character.shot(image), root)
    return path if path is not None and path.is_file() and not is_blank(path) else None
