"""The interface of generators: orders, and the ways in which they can fail.

A generator is a module of this package with, besides the four functions of every source,

* ``picture(character)``: the settings that decide how its pictures look, without the prompt
* ``open(how)``: an :class:`Artist`; ``how`` are settings that do not affect the result

:class:`charloom.dataset.sources.session.Session` does the rest: it stores, counts, waits and retries.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from charloom.core.canonical import canonical_json, digest

KIND = "picture"
"""Kind of the store entries: generated pictures, as PNG. They were paid for, and cannot be made again."""


@dataclass(frozen=True)
class Order:
    """One picture to be made; ``name`` is its shot, ``settings`` (with ``prompt``) decide how it looks."""

    name: str
    settings: dict[str, Any]
    attempt: int = 0
    reference: Path | None = None
    reference_sha256: str | None = None

    @property
    def prompt(self) -> str:
        """The prompt."""
        return str(self.settings["prompt"])

    @property
    def key(self) -> str:
        """Key in the store. It does not depend on the shot's name, so that a renamed shot keeps its picture."""
        tried = {"attempt": self.attempt} if self.attempt else {}
        return digest({**self.settings, **tried, "reference": self.reference_sha256})

    @property
    def seed(self) -> int:
        """A different 32-bit seed for each prompt and attempt, derived from the seed of the set."""
        twin = {key: self.settings[key] for key in ("prompt", "twin") if key in self.settings}
        return (int(self.settings["seed"]) + zlib.crc32(canonical_json([twin, self.attempt]).encode())) % 2**32


class Artist(Protocol):
    """Draws pictures, one at a time."""

    def draw(self, order: Order) -> bytes:
        """Draw one picture; returns the bytes of its file, in any format.

        Raises:
            Refused, Again, Wrong: see there.
            UserError: no further picture can be had until the user does something.
        """
        ...

    def fresh(self) -> None:
        """Start a fresh chat, because a picture was refused."""
        ...


class Refused(Exception):
    """The generator refuses the picture, and says why. A fresh chat may not."""


class Again(Exception):
    """No answer, or that of an overloaded server: the same request may succeed later.

    ``wait`` is the pause that the server asks for, in seconds; ``charged``: the picture may have been charged for.
    """

    def __init__(self, why: str, wait: float | None = None, charged: bool = False) -> None:
        super().__init__(why)
        self.wait, self.charged = wait, charged


class Wrong(Exception):
    """An answer without a usable picture."""
