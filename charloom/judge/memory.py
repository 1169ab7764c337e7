"""Caches what an instrument saw in a picture, by the picture's content.

The expensive part of judging is looking: finding a face, running a network. The result (a :data:`Look`) depends only
on the picture and the instrument, so it is kept in the store: the character's own pictures are looked at once, not for
every checkpoint, and a different judge looks only at what is new to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from charloom.core.canonical import digest
from charloom.core.errors import UserError
from charloom.core.store import Store

if TYPE_CHECKING:
    from charloom.judge.backend import Picture

KIND = "looks"
BATCH = 16
"""Pictures per call of an instrument."""
READERS = 8
"""Threads that read pictures."""

Look = dict[str, np.ndarray]
"""Named arrays; empty if the instrument found nothing to measure."""


class Memory:
    """Looks in ``store``; without one nothing is kept. ``notes`` has a line for each picture that cannot be read."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store
        self.notes: list[str] = []

    def looks(
        self,
        instrument: str,
        pictures: Sequence[Picture],
        look: Callable[[Sequence[Picture]], list[Look]],
        asked: Callable[[Picture], object] = lambda picture: None,
    ) -> list[Look | None]:
        """What ``instrument`` (name, version and weights) sees in each picture; None if the picture cannot be read.

        ``look`` is called with the pictures that are not cached. ``asked`` is what else a look depends on: the
        questions about the picture.
        """
        keys = [_key(instrument, picture, asked(picture)) for picture in pictures]
        found = [self._recall(key) for key in keys]
        missing = [i for i, one in enumerate(found) if one is None]
        with ThreadPoolExecutor(READERS) as pool:  # reading a large picture often takes longer than looking at it
            readable = pool.map(lambda i: self._readable(pictures[i]), missing)
            new = [i for i, yes in zip(missing, readable, strict=True) if yes]
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            for i, one in zip(batch, look([pictures[i] for i in batch]), strict=True):
                found[i] = one
                self._keep(keys[i], one)
        return found

    def note(self, line: str) -> None:
        """Keep a line for the user, once."""
        if line not in self.notes:
            self.notes.append(line)

    def _readable(self, picture: Picture) -> bool:
        try:
            return picture.pixels is not None
        except UserError as error:
            self.note(str(error))
            return False

    def _recall(self, key: str) -> Look | None:
        if not key or self.store is None or not self.store.has(KIND, key, ".safetensors"):
            return None
        try:
            return load_file(self.store.path(KIND, key, ".safetensors"))
        except Exception:  # safetensors has no common exception; a damaged entry is replaced
            return None

    def _keep(self, key: str, look: Look) -> None:
        if not key or self.store is None or self.store.has(KIND, key, ".safetensors"):
            return
        with self.store.put(KIND, key, ".safetensors") as path:
            save_file({name: np.ascontiguousarray(values) for name, values in look.items()}, path)


def _key(instrument: str, picture: Picture, asked: object) -> str:
    return digest({"instrument": instrument, "content": picture.content, "asked": asked}) if picture.content else ""
