"""The identity check of generated pictures: how similar the person in each is to the reference.

A single reference does not give a scale for this character, so only instruments with a usual limit between same and
different (``cut``) are used: faces for photographs, CCIP for drawings, the probe for paper dolls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.judge.memory import Look, Memory

FACES = ("dlib", "ccip")
"""Instruments of the judge ``auto`` that have a limit, in the order in which they are tried."""


@dataclass(frozen=True)
class Likeness:
    """How similar a picture is to the reference, in the instrument's own unit; None if it finds nobody."""

    instrument: str
    similarity: float | None
    limit: float

    @property
    def far(self) -> bool:
        """Whether the picture shows somebody else."""
        return self.similarity is not None and self.similarity < self.limit

    def record(self) -> dict[str, Any]:
        """As plain values, rounded."""
        rounded = None if self.similarity is None else round(self.similarity, 4)
        return {**asdict(self), "similarity": rounded, "far": self.far}


class Checker(Protocol):
    """Compares pictures with one reference."""

    def measure(self, pictures: Sequence[Path]) -> list[Likeness | None]:
        """One likeness per picture; None where nothing can be said."""
        ...


class Nobody:
    """A checker without an instrument, which says nothing about any picture. ``why`` is a line for the user."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def measure(self, pictures: Sequence[Path]) -> list[Likeness | None]:
        return [None] * len(pictures)


class Instrument:
    """An instrument that found somebody in the reference; what it sees is remembered by content."""

    why = ""

    def __init__(self, name: str, cls: Any, looks: Any, reference: Look, limit: float | str) -> None:
        self.name, self.cls, self.looks = name, cls, looks
        self.reference = reference["vector"]
        self.limit = float(cls.cut) if limit == "auto" else float(limit)

    def measure(self, pictures: Sequence[Path]) -> list[Likeness | None]:
        found: list[Likeness | None] = []
        for look in self.looks([_picture(path) for path in pictures]):
            similarity = None
            if look:
                similarity = float(self.cls.similarity(look["vector"][None], self.reference[None])[0, 0])
            found.append(None if look is None else Likeness(self.name, similarity, self.limit))
        return found


def open_checker(
    reference: Path, limit: float | str, judge: dict[str, Any] | None, store: Store, device: Any = "cpu"
) -> Checker:
    """The check against ``reference``; ``judge`` is None, or has ``lock`` (a file) and ``identity``, or ``probe``."""
    if judge is None or limit == "none":
        return Nobody()
    memory = Memory(store)
    picture = _picture(reference)
    if probe := judge.get("probe"):
        from charloom.judge.paperdoll import Paperdoll

        doll = Paperdoll(Path(probe), memory=memory)
        (look,) = doll.vectors([picture])
        return Instrument("paperdoll", doll, doll.vectors, look, limit) if look else Nobody(_none(memory))
    from charloom.judge.panel import Panel

    panel = Panel(files.read_json(judge["lock"]), memory, device)
    wanted = FACES if judge["identity"] == "auto" else (judge["identity"],)
    tried = [name for name in wanted if name in FACES and panel.has(name)]
    # CCIP knows only drawings, so it is asked only if the detector of photographed faces has found none.
    if judge["identity"] == "auto" and "dlib" not in tried:
        tried = []
    for name in tried:
        (look,) = panel.looks(name, [picture])
        if look:
            return Instrument(name, panel.cls(name), lambda seen, n=name: panel.looks(n, seen), look, limit)
    if tried:
        return Nobody(f"faces are not compared: {' and '.join(tried)} find nobody on the reference")
    return Nobody(_none(memory))


def _none(memory: Memory) -> str:
    told = f" ({memory.notes[0]})" if memory.notes else ""
    why = f"no instrument is installed{told}"
    return f"faces are not compared with the reference, because {why}: pip install 'charloom[photo]'"


def _picture(path: Path) -> Any:
    from charloom.judge import backend

    return backend.later(path, "", file_digest(path))


def records(results: Results, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The records of generated pictures, by name, if the pictures have not changed since."""
    found = {}
    for name in names:
        try:
            record = files.read_json(results.source_record(name))
            if isinstance(record, dict) and record.get("sha256") == file_digest(results.source(name)):
                found[name] = record
        except (OSError, ValueError):
            continue
    return found
