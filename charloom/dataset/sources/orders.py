"""What a generator is asked for, and how it answers.

A generator is a module of this package with, besides the four functions of every source,

* ``picture(character)``: the settings that decide how its pictures look, without the prompt
* ``open(how, session)``: an :class:`Artist`; ``how`` are settings that do not matter for the result

:class:`charloom.dataset.sources.session.Session` does the rest: it keeps, counts, waits and asks again.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from charloom.core.canonical import canonical_json, digest

KIND = "picture"
"""Of store entries: generated pictures, as PNG. What was paid for cannot be made again."""


@dataclass(frozen=True)
class Order:
    """One picture that is wanted; ``name`` is its shot, ``settings`` what decides how it looks (with ``prompt``)."""

    name: str
    settings: dict[str, Any]
    attempt: int = 0
    reference: Path | None = None
    reference_sha256: str | None = None

    @property
    def prompt(self) -> str:
        """What is asked for, in words."""
        return str(self.settings["prompt"])

    @property
    def key(self) -> str:
        """Store key. Not of the shot's name: a shot that is renamed keeps its picture."""
        tried = {"attempt": self.attempt} if self.attempt else {}
        return digest({**self.settings, **tried, "reference": self.reference_sha256})

    @property
    def seed(self) -> int:
        """A seed (32 bits) of its own for each prompt and attempt, from the seed of the set."""
        twin = {key: self.settings[key] for key in ("prompt", "twin") if key in self.settings}
        return (int(self.settings["seed"]) + zlib.crc32(canonical_json([twin, self.attempt]).encode())) % 2**32


class Artist(Protocol):
    """Draws pictures, one at a time."""

    def draw(self, order: Order) -> bytes:
        """The file of one picture, in whatever format it came.

        Raises:
            Refused, Again, Wrong: see there.
            UserError: no further picture will come either, until somebody does something.
        """
        ...

    def fresh(self) -> None:
        """Forget what was said so far, because a picture was refused."""
        ...


class Refused(Exception):
    """The picture is refused, with words. A fresh chat may see it differently."""


class Again(Exception):
    """No answer, or that of a server under load: the same may succeed later.

    ``wait`` is what the server asks for, in seconds; ``charged``: the picture may have been drawn and charged for.
    """

    def __init__(self, why: str, wait: float | None = None, charged: bool = False) -> None:
        super().__init__(why)
        self.wait, self.charged = wait, charged


class Wrong(Exception):
    """An answer without a picture that can be used."""
