"""The content-addressed store behind the file targets.

An entry is a file named by the digest of everything it depends on: ``<root>/<kind>/<key[:2]>/<key><suffix>``.
It is published atomically (temporary file, then ``os.replace``), read-only, and never changed afterwards, so
a process may be killed at any moment and two processes may race for the same entry. The SHA-256 of its bytes lies
beside it (``….sha256``): an entry that a disk has damaged is renamed to ``*.damaged`` when it is requested, and so
made again. Deleting the store only costs time. Independent of what the entries mean.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from charloom.core import files
from charloom.core.canonical import file_digest

LINK_FROM_BYTES = 4 * 2**20
"""Entries from this size on are hard-linked into place; smaller ones are copied, so that editing them is harmless."""

DAMAGED = ".damaged"
"""Added to the name of an entry that is no longer what was stored, before it is made again."""

SUM = ".sha256"
"""Added to the name of an entry for the file with its digest. Entries of older versions have none and are trusted."""

STORE = "CHARLOOM_STORE"
"""Environment variable: the folder of the store. The user may set it, and the workflow sets it for jobs."""

log = logging.getLogger(__name__)
LOCKS, USES = "locks", "uses"
"""Folders that hold no entries: locks, and for each character a list of what was fetched for it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Store:
    """Entries by kind and key in one folder, which the first write creates."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, kind: str, key: str, suffix: str = "") -> Path:
        """The path of the entry, whether it exists or not."""
        for name in (kind, key):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a store entry")
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def has(self, kind: str, key: str, suffix: str = "") -> bool:
        """Whether the entry exists; entries are whole or absent, never partial.

        Small entries are also read and checked; those that are linked are checked by :meth:`fetch`.
        """
        entry = self.path(kind, key, suffix)
        try:
            return entry.stat().st_size >= LINK_FROM_BYTES or _intact(entry)
        except OSError:
            return False

    def fetch(self, kind: str, key: str, suffix: str, output: str | Path) -> bool:
        """Put the entry at ``output``, replacing it atomically; False if there is no such entry, or it is damaged.

        The output gets the current time, because a build system treats an older file as outdated.
        """
        entry = self.path(kind, key, suffix)
        output = Path(output)
        if not entry.is_file():
            return False
        try:
            if not _intact(entry):
                return False
            self._note(entry, output)
            with files.whole(output, sync=False) as temporary:
                if entry.stat().st_size < LINK_FROM_BYTES or not _link(entry, temporary):
                    shutil.copyfile(entry, temporary)
                    # Nothing would notice a copy that a power cut has truncated under its name. A link is read-only,
                    # and its bytes are on the disk since they were stored.
                    files.flush(temporary)
                os.utime(temporary)
        except FileNotFoundError:
            return False  # the store was emptied by another process: a miss
        return True

    def _note(self, entry: Path, output: Path) -> None:
        """Record for whom and to which path an entry is fetched, and that it was used; only hints, so never fails."""
        with contextlib.suppress(OSError):
            os.utime(entry)
            parts = output.parts
            who = parts[parts.index("results") + 1] if "results" in parts[:-2] else ""
            if _NAME.fullmatch(who):
                (self.root / USES).mkdir(parents=True, exist_ok=True)
                with open(self.root / USES / f"{who}.txt", "a", encoding="utf-8") as file:
                    # One write: lines of two processes stay whole.
                    file.write(f"{entry.parts[-3]}/{entry.name}\t{self._place(output)}\n")

    def _place(self, output: Path) -> str:
        """A path relative to the store, so that a folder that contains both may be moved."""
        try:
            return os.path.relpath(output, self.root)
        except ValueError:  # another drive of Windows
            return str(output.absolute())

    def fetched(self, who: str) -> dict[Path, str]:
        """The SHA-256 of what was last fetched for a character, by its absolute path, as far as it is known."""
        found = {}
        for entry, place in self.uses(who):
            with contextlib.suppress(OSError, ValueError):
                found[Path(os.path.normpath(self.root.absolute() / place))] = _sum(entry).read_text(encoding="ascii")
        return found

    def uses(self, who: str) -> list[tuple[Path, str]]:
        """What was fetched for a character, oldest first: (entry, which may be gone; path relative to the store)."""
        try:
            lines = (self.root / USES / f"{who}.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        found = []
        for line in lines:
            name, _, place = line.partition("\t")
            kind, _, name = name.partition("/")
            found.append((self.root / kind / name[:2] / name, place))
        return found

    @contextlib.contextmanager
    def put(self, kind: str, key: str, suffix: str = "", *, sync: bool = True) -> Iterator[Path]:
        """Yield a temporary path to write to; it becomes the entry when the block ends without an error.

        Without ``sync`` a power failure may leave a damaged entry; for thousands of small ones that are made again on
        demand.
        """
        entry = self.path(kind, key, suffix)
        with files.whole(entry, mode=0o444, sync=sync) as temporary:
            yield temporary
            found = file_digest(temporary)
            # Before the entry: a kill in between leaves a digest without an entry, which nobody reads.
            files.write_text(_sum(entry), found, sync=sync)

    def differs(self, kind: str, key: str, suffix: str, sha256: str) -> bool:
        """Whether a copy with this SHA-256 is not what was stored; False where the store knows nothing of it."""
        try:
            return _sum(self.path(kind, key, suffix)).read_text(encoding="ascii") != sha256
        except (OSError, ValueError):
            return False

    def remove(self, entry: Path) -> None:
        """Delete an entry by its path, if it is there."""
        for path in (entry, _sum(entry)):
            if os.name == "nt":  # where a read-only file cannot be deleted
                with contextlib.suppress(OSError):
                    path.chmod(0o600)
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[None]:
        """Hold the lock ``name`` among all processes that use this store; released if the holder dies.

        Raises:
            TimeoutError: somebody else holds it, and ``wait`` is False.
        """
        from filelock import FileLock  # imported late: cache hits never need it

        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a lock")
        folder = self.root / LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock", timeout=-1 if wait else 0):
            yield


def job_store() -> Store:
    """The store for jobs: the folder in :data:`STORE`, or the default one."""
    return Store(os.environ.get(STORE) or "work/store")


def _sum(entry: Path) -> Path:
    return entry.with_name(entry.name + SUM)


def _intact(entry: Path) -> bool:
    """Whether an entry has the bytes that were stored; one that has not is renamed to ``*.damaged``.

    Raises:
        FileNotFoundError: there is no such entry.
    """
    try:
        known = _sum(entry).read_text(encoding="ascii")
    except (OSError, ValueError):
        known = ""
    if len(known) != 64 or file_digest(entry) == known:
        return True
    with contextlib.suppress(OSError):
        entry.replace(entry.with_name(entry.name + DAMAGED))
        _sum(entry).unlink(missing_ok=True)
    log.warning("%s: the stored result is damaged (its SHA-256 is another); made again", entry)
    return False


def _link(entry: Path, target: Path) -> bool:
    try:
        os.link(entry, target)
    except FileNotFoundError:
        raise
    except OSError:
        return False  # another file system, or one without hard links
    return True
