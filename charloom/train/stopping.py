"""Ending a training on request: after the current step, with everything saved.

The request is a file in the run's ``training`` folder (``charloom stop``), or a signal (Ctrl-C, a cluster's SIGTERM).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

NAME = "stop"
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


def request(folder: Path) -> None:
    """Ask the trainer whose ``training`` folder this is to stop."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).touch()


class Stop:
    """Whether training should end. From construction to :meth:`close`, signals ask for it instead of killing.

    A request that was there before is an old one and is dropped. A second Ctrl-C ends the process at once.
    """

    def __init__(self, folder: Path) -> None:
        self._file = Path(folder) / NAME
        self._asked = False
        self._before: dict[int, Any] = {}
        self._forget()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # Whoever started us with a signal ignored (nohup) means it.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Snakemake sends SIGTERM after the terminal's Ctrl-C: only a second Ctrl-C means "at once".
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self) -> bool:
        """Whether somebody has asked; cheap enough for every step."""
        return self._asked or self._file.exists()

    def close(self) -> None:
        """The request has been answered: forget it, and leave signals to others again."""
        self._forget()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
