"""Ends training on request: after the current step, with everything saved.

The request is a file in the run's ``training`` folder (``charloom stop``), or a signal: Ctrl-C, a cluster's SIGTERM, or
the SIGHUP of a terminal that closes. The file stays after training has stopped, so that a retry of the job does not
continue; the next run removes it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from charloom.core.errors import Stopped

NAME = "stop"
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


def request(folder: Path) -> None:
    """Ask the trainer whose ``training`` folder this is to stop."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).touch()


def begin(folder: Path, attempt: int) -> None:
    """At the start of a job: drop a request to an earlier run, but heed one that stopped an earlier attempt at it.

    Later requests count, even while torch and the base are still loading.

    Raises:
        Stopped: this run was asked to stop.
    """
    if attempt == 1:
        _forget(folder)
    elif (folder / NAME).exists():
        raise Stopped("on request, not tried again; all is saved: run snakemake again to go on")


def _forget(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)


class Stop:
    """Whether training should end. From construction to :meth:`close`, signals ask for it instead of killing.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._asked = self._answered = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A signal that was ignored at the start (nohup) stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Snakemake sends SIGTERM after the terminal's Ctrl-C: only a second Ctrl-C means "at once".
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self) -> bool:
        """Whether a stop was requested; cheap enough for every step."""
        self._answered = self._answered or (self._folder / NAME).exists()
        return self._asked or self._answered

    def close(self) -> None:
        """Restore the signal handlers, and drop a request that came too late."""
        if not self._answered:
            _forget(self._folder)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
