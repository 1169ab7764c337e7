"""Digests of the user's own files, so that changes are detected by content, not by date.

Digests are cached by path with size, times and inode, in a small file that may be deleted: only files that may have
changed are read. Large files (weights) are not read at first: size and date stand in for the digest until a job that
reads the file anyway has stored it. Must not import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.canonical import digest, file_digest
from charloom.core.errors import UserError
from charloom.core.store import Store

KIND = "file-digest"
LARGE = 2**28
"""Files of this many bytes or more are not read just for their digest."""

SETTLED = 2.0
"""Seconds within which two changes may get the same date; digests of files younger than that are not cached."""

Signature = list[int]
"""Size, time of change, time of the last change of anything about the file (ns), inode."""


def signature(path: str | Path) -> Signature:
    """Values that change whenever the file may have changed; found without reading it."""
    state = os.stat(path)
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


class Contents:
    """Tokens of files, the same as long as the contents are; cached in ``file`` between calls.

    A cache that cannot be read or written, or that two processes write at once, only costs time.
    """

    def __init__(self, store: Store, file: Path = Path("work/contents.json")) -> None:
        self.store = store
        self.file = file
        self._known = _read(file)
        self._new: dict[str, Any] = {}

    def of(self, path: str | Path | None) -> str:
        """The token of one file; empty if there is none."""
        if path is None:
            return ""
        try:
            now = signature(path)
        except OSError:
            return ""
        name = str(path)
        *before, token = self._known.get(name, [None])
        if before == now:
            return str(token)
        if now[0] >= LARGE:
            token = self._of_large(Path(path), before, now, token)
        else:
            try:
                token = file_digest(path)
            except OSError:
                return ""  # the job that needs the file reports why
            if time.time() - max(now[1], now[2]) / 1e9 < SETTLED:
                return token
        self._known[name] = self._new[name] = [*now, token]
        return token

    def of_all(self, paths: Iterable[str | Path]) -> str:
        """One token for several files and their names."""
        return digest({str(path): self.of(path) for path in paths})

    def save(self) -> None:
        """Store new digests, merged with those that other processes have stored in the meantime."""
        if not self._new:
            return
        kept = {name: facts for name, facts in _read(self.file).items() if os.path.exists(name)} | self._new
        with contextlib.suppress(OSError, UserError):
            files.write_text(self.file, json.dumps(kept))
            self._new = {}

    def _of_large(self, path: Path, before: Signature, now: Signature, token: str | None) -> str:
        unread = f"{now[0]}-{now[1]}"
        if not before or before[0] != now[0]:
            return unread
        old = self.store.path(KIND, _key(path, before))
        if not old.is_file():
            return unread
        if not self.store.has(KIND, _key(path, now)):
            print(f"reading {path} ({now[0] / 1e9:.1f} GB), which may have changed", file=sys.stderr)
        found = remembered(path, self.store)
        return token if token and found == old.read_text() else found


def remembered(
    path: Path, store: Store, algorithm: str = "sha256", tell: Callable[[str], None] = lambda line: None
) -> str:
    """A digest of a file, computed when it may have changed."""
    now = signature(path)
    key = _key(path, now, algorithm)
    if store.has(KIND, key):
        return store.path(KIND, key).read_text()
    if now[0] >= LARGE:
        tell(f"{algorithm} of {path.name}, {now[0] / 1e9:.1f} GB")
    found = file_digest(path) if algorithm == "sha256" else _md5(path)
    with store.put(KIND, key) as entry:
        entry.write_text(found)
    return found


def _key(path: Path, state: Signature, algorithm: str = "sha256") -> str:
    return digest({"path": str(path.resolve()), "state": state, "algorithm": algorithm})


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read(file: Path) -> dict[str, Any]:
    """The cached entries that are well-formed."""
    try:
        kept = json.loads(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(kept, dict)
    return {name: f for name, f in kept.items() if isinstance(f, list) and len(f) == 5} if whole else {}
