"""What is in the store, whose it is and how old; and what of it can be removed. Must not import torch.

Everything in a store can be made again. Kept for a finished character is what would be expensive to make again: the
checkpoint that it ships, the newest state of its training with the checkpoint and the curve of the same step (to train
more steps from), and its record with pictures. Results are files of their own: removing an entry never changes them.

A run in training holds its lock (:func:`charloom.workflow.jobs.serve`), and nothing of it is removed. Entries that
other jobs are reading stay readable, and a missing one is made again by the job that needs it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from charloom.core import files
from charloom.core.store import DAMAGED, LOCKS, SUM, USES, Store
from charloom.dataset.sources import orders
from charloom.train.keys import CHECKPOINT, METRICS, checkpoint_key
from charloom.workflow import describing, history, training

STATE = "state"
TRAINED = (CHECKPOINT, METRICS, STATE)
"""Kinds whose entries are named by the key of a run and a step."""
BOUGHT = (orders.KIND, describing.KIND)
"""Kinds that are never removed: they were paid for, or a model took long to make them, and would differ next time."""
KEPT = (history.KIND, history.PICTURE)
"""Kinds that ``keep_final`` always keeps: small, and what they describe may be gone."""
LEFT_BEHIND = 24 * 3600.0
"""Seconds after which a temporary file counts as left by a killed process."""
NOBODY = "shared"

_TRAINED = re.compile(r"(?P<run>[A-Za-z0-9]+)-(?P<step>\d{6})(?:\.\w+)*")
_RUN_LINE = re.compile(r"\brun ([0-9a-f]{64})\b")


@dataclass(frozen=True)
class Entry:
    """A file in the store: ``used`` is when it was last made or fetched (seconds since 1970), ``links`` the number of
    other hard links to it, ``who`` the character it was made for."""

    kind: str
    path: Path
    size: int
    used: float
    links: int
    who: str = NOBODY
    run: str | None = None
    step: int = 0


def entries(store: Store) -> list[Entry]:
    """All entries of a store, with their characters as far as these are known."""
    owners = _owners(store)
    found = []
    for path in sorted(store.root.glob("*/*/*")):
        kind = path.relative_to(store.root).parts[0]
        if kind in (LOCKS, USES) or path.name.endswith((SUM, DAMAGED)) or not path.is_file():
            continue
        with contextlib.suppress(OSError):  # removed meanwhile
            facts = path.stat()
            match = _TRAINED.fullmatch(path.name) if kind in TRAINED else None
            run, step = (match["run"], int(match["step"])) if match else (None, 0)
            who = owners.get(path) or NOBODY
            found.append(Entry(kind, path, facts.st_size, facts.st_mtime, facts.st_nlink - 1, who, run, step))
    return _of_runs(found, {one.run: str(one.facts["character"]) for one in history.records(store) if one.run})


def _owners(store: Store) -> dict[Path, str]:
    """Characters by the entries that were fetched for them; the last one counts."""
    return {entry: who for who in _listed(store) for entry, _ in store.uses(who)}


def _listed(store: Store) -> list[str]:
    """Characters for whom something was fetched."""
    return sorted(path.stem for path in (store.root / USES).glob("*.txt"))


def _of_runs(found: list[Entry], known: Mapping[str, str]) -> list[Entry]:
    """Entries of one run are of one character: that of its record, of any entry fetched, or of a checkpoint's title."""
    owners = {one.run: one.who for one in found if one.run and one.who != NOBODY} | dict(known)
    for one in found:
        if one.run and one.run not in owners and one.kind == CHECKPOINT and (title := _title(one.path)):
            owners[one.run] = title
    return [one if one.run not in owners else _owned(one, owners[one.run]) for one in found]


def _owned(one: Entry, who: str) -> Entry:
    return Entry(one.kind, one.path, one.size, one.used, one.links, who, one.run, one.step)


def _title(path: Path) -> str | None:
    """The character that a checkpoint names in its header."""
    from safetensors import safe_open

    with contextlib.suppress(Exception), safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("modelspec.title")
    return None


def runs_here(root: Path) -> set[str]:
    """Keys of the runs that the results below ``root`` were last trained with, finished or not."""
    found = set()
    for path in root.glob("results/*/logs/train_segment/*.log"):
        with contextlib.suppress(OSError, UnicodeError):
            found |= set(_RUN_LINE.findall(path.read_text(encoding="utf-8")))
    return found


def needed(found: Iterable[Entry], store: Store, runs: Iterable[str]) -> set[Path]:
    """Entries from which finished characters, linked results, and the given ``runs`` can continue."""
    records = list(history.records(store))
    newest: dict[tuple[str, str], history.Finished] = {}
    for one in sorted(records, key=lambda one: one.when):
        newest[str(one.facts["character"]), str(one.facts.get("trigger"))] = one
    by_run: dict[str, list[Entry]] = defaultdict(list)
    for entry in (kept := list(found)):
        if entry.run:
            by_run[entry.run].append(entry)
    going = {one.run for one in newest.values() if one.run} | set(runs)
    # A checkpoint with a second name is linked by results, here or in another folder that shares the store.
    going |= {entry.run for entry in kept if entry.kind == CHECKPOINT and entry.links and entry.run}
    keep = {entry.path for entry in kept if entry.kind in KEPT or (entry.links and entry.run)}
    for one in records:
        if one.run:
            names = {checkpoint_key(one.run, int(one.facts["step"]))}
            keep |= {e.path for e in by_run[one.run] if e.kind != STATE and _stem(e.path) in names}
    for run in going:
        members = by_run[run]
        states = [entry.step for entry in members if entry.kind == STATE]
        last = max(states or [entry.step for entry in members], default=0)
        curve = max((entry.step for entry in members if entry.kind == METRICS), default=0)
        keep |= {e.path for e in members if e.step == last or (e.kind == METRICS and e.step == curve)}
    return keep


def _stem(path: Path) -> str:
    return path.name.split(".", 1)[0]


def removable(found: Iterable[Entry], keep: set[Path], older: float, now: float | None = None) -> list[Entry]:
    """Entries that are not to be kept, were not used for ``older`` seconds, and have no other hard link."""
    now = time.time() if now is None else now
    free = (one for one in found if one.path not in keep and not one.links and one.kind not in BOUGHT)
    return [one for one in free if now - one.used > older]


def remove(store: Store, gone: Iterable[Entry], log: Callable[[str], None]) -> tuple[int, int]:
    """Remove entries; returns how many and their bytes. Runs in training, and entries used in the meantime, stay."""
    by_run: dict[str | None, list[Entry]] = defaultdict(list)
    for entry in gone:
        by_run[entry.run].append(entry)
    count = freed = 0
    for run, members in by_run.items():
        with _held(store, run) as free:
            if not free:
                log(f"kept: run {str(run)[:12]} of {members[0].who} is being trained")
                continue
            for entry in members:
                with contextlib.suppress(OSError):
                    facts = entry.path.stat()
                    if facts.st_mtime > entry.used or facts.st_nlink > 1:
                        continue
                    store.remove(entry.path)
                    count, freed = count + 1, freed + entry.size
    return count, freed


@contextlib.contextmanager
def _held(store: Store, run: str | None) -> Iterator[bool]:
    """Hold the lock of a run, if nobody else does; True without a run."""
    with contextlib.ExitStack() as held:
        free = True
        if run is not None:
            try:
                held.enter_context(store.lock(training.lock(run), wait=False))
            except TimeoutError:
                free = False
        yield free


def left_behind(store: Store, now: float | None = None) -> list[Path]:
    """Temporary files of processes that were killed, damaged entries, digests of entries that are gone."""
    now = time.time() if now is None else now
    found = []
    for path in (*store.root.glob("*/*/.*.tmp"), *store.root.glob(f"*/*/*{DAMAGED}"), *store.root.glob(f"*/*/*{SUM}")):
        if path.name.endswith(SUM) and path.with_name(path.name.removesuffix(SUM)).exists():
            continue
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime > LEFT_BEHIND:
                found.append(path)
    return found


def forget(store: Store) -> None:
    """Remove from the lists of what was fetched for whom all lines about entries that are gone, and all but the last
    about each path. A line that is added at the same time may get lost: they are only hints."""
    for who in _listed(store):
        lines = {
            place: f"{entry.parts[-3]}/{entry.name}\t{place}\n" for entry, place in store.uses(who) if entry.is_file()
        }
        path = store.root / USES / f"{who}.txt"
        with contextlib.suppress(OSError):
            if lines:
                files.write_text(path, "".join(lines.values()))
            else:
                path.unlink()
