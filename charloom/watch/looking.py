"""Runs the check of a data set in the background of its page, one at a time."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core.errors import Stopped, UserError
from charloom.core.store import Store
from charloom.workflow import inspection, proposing
from charloom.workflow.proposing import Review


@dataclass
class Look:
    """What the last check of a data set has found, and whether another one is running."""

    seen: str = ""
    """The data set at that time (:attr:`charloom.watch.board.Board.fingerprint`)."""
    running: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    """:meth:`charloom.workflow.inspection.Inspection.record`; empty until the first check has ended."""
    review: Review | None = None
    problem: str = ""
    seconds: float = 0.0
    outdated: bool = False
    """Whether another check was requested while one was running."""


class Looks:
    """The checks, by character."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stop = threading.Event()
        """Set when the program ends, which waits for threads that are working on a picture."""
        self._found: dict[str, Look] = {}
        self._one = threading.Lock()

    def of(self, character: Character, base: Base | None, store: Store, seen: str) -> Look:
        """The last check; a new one starts if the data set has changed since then and none is running."""
        look = self._found.setdefault(character.id, Look())
        if look.seen != seen and not look.running and base is not None:
            look.running, look.outdated = True, False
            # A daemon thread, so that the program can end: the store is consistent whenever it stops.
            work = threading.Thread(target=self._look, args=(look, character, base, store, seen), daemon=True)
            work.start()
        return look

    def known(self, character: str) -> Look | None:
        """The last check, if there was one."""
        return self._found.get(character)

    def again(self, character: str) -> None:
        """Check again, although the user's files have not changed: a captioner may have run."""
        if character in self._found:
            self._found[character].seen, self._found[character].outdated = "", True

    def _look(self, look: Look, character: Character, base: Base, store: Store, seen: str) -> None:
        began = time.monotonic()
        if sys.platform == "linux":  # threads have their own priority there; the page and a training come first
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        problem, record, review = "", look.record, look.review
        try:
            with self._one:  # one at a time is fast enough and does not slow a training down
                record = inspection.inspect(character, base, self.root, store, stop=self.stop).record()
                review = proposing.review(character, self.root, store)
        except Stopped:
            return
        except UserError as error:
            problem = str(error).splitlines()[0]
        except Exception as error:  # the page remains usable, whatever makes the check fail
            problem = f"the check has failed ({type(error).__name__}: {error}); charloom lint {character.id} says more"
        look.record, look.review, look.problem = record, review, problem
        look.seconds = round(time.monotonic() - began, 1)
        look.seen, look.outdated = "" if look.outdated else seen, False
        look.running = False
