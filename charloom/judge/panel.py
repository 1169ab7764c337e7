"""The locked instruments of a judge, each opened on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from charloom.core.canonical import digest
from charloom.core.errors import reason
from charloom.judge import locking
from charloom.judge.instruments import KINDS, open_instrument
from charloom.judge.memory import Look, Memory

if TYPE_CHECKING:
    from charloom.judge.backend import Picture


class Panel:
    """The instruments of ``lock`` (:func:`charloom.judge.locking.lock`).

    One that cannot be opened is left out, with a line in the memory's notes; what only it can measure is not scored.
    """

    def __init__(self, lock: dict[str, Any], memory: Memory, device: Any = "cpu") -> None:
        self.lock = lock
        self.memory = memory
        self.device = device
        self._open: dict[str, Any] = {}
        self._lost: set[str] = set()
        for name, why in locking.changed(lock).items():
            self.fail(name, why)
        self._gone = frozenset(self._lost)

    def has(self, name: str) -> bool:
        """Whether an instrument is locked and has not failed."""
        return name in self.lock["instruments"] and name not in self._lost

    def first(self, names: Iterable[str]) -> str | None:
        """The first of ``names`` that is available."""
        return next((name for name in names if self.has(name)), None)

    def weights(self, name: str) -> str:
        """SHA-256 over the files of an instrument."""
        return str(self.lock["instruments"][name]["sha256"])

    def by(self, name: str) -> tuple[str, str]:
        """Name and weights, to be recorded with a value."""
        return name, self.weights(name)

    def cls(self, name: str) -> Any:
        """The class of an instrument, for what needs no weights: its scale and its comparison."""
        module, _, cls = KINDS[name].cls.partition(":")
        return getattr(import_module(module), cls)

    def opened(self, name: str) -> Any:
        """The instrument itself.

        Raises:
            UserError: it cannot be opened.
        """
        if name not in self._open:
            files = locking.files_of(self.lock, name, self.memory.store)
            self._open[name] = open_instrument(name, files, self.weights(name), self.device)
        return self._open[name]

    def looks(
        self,
        name: str,
        pictures: Sequence[Picture],
        look: Callable[[Any, Sequence[Picture]], list[Look]] = lambda instrument, new: instrument.look(new),
        asked: Callable[[Picture], object] = lambda picture: None,
    ) -> list[Look | None]:
        """What an instrument sees in pictures, cached or new; all None if it cannot be opened."""
        # Versions count too: the code of its packages is part of an instrument.
        packages = digest(self.lock["instruments"][name]["versions"])
        key = f"{name} {self.cls(name).version} {self.weights(name)} {packages}"
        try:
            return self.memory.looks(key, pictures, lambda new: look(self.opened(name), new), asked)
        except Exception as error:  # whatever a package or a GPU raises
            self.failed_with(name, error)
        return [None] * len(pictures)

    def failed_with(self, name: str, error: Exception) -> None:
        """Leave an instrument out from now on, because of ``error``."""
        self.fail(name, reason(error))

    @property
    def failed(self) -> set[str]:
        """Instruments that failed at runtime, for lack of memory, say. They may work next time."""
        return self._lost - self._gone

    def fail(self, name: str, why: str) -> None:
        """Leave an instrument out from now on."""
        self._lost.add(name)
        self._open.pop(name, None)
        self.memory.note(f"{name}: {why}; what it measures is not scored")
