"""Progress of a training run, in a small file that the terminal and pages read: ``training/progress.json``.

The file is replaced as a whole, at most twice a second, from numbers that the trainer has already fetched: writing it
never makes the GPU wait, and a full or read-only disk never ends training. No torch, so that readers start at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import Killed, Stopped

NAME = "progress.json"
PAUSE = 0.5
"""Seconds between two writes, at least; a change of state is written at once."""
WINDOW = 50
"""Steps over which the speed is averaged, so that the slow first ones are soon forgotten."""

DRAWING = "drawing previews"
RUNNING, WAITING, STOPPED, FINISHED, FAILED = "running", "waiting", "stopped", "finished", "failed"
"""States. Waiting: this process is done, the next checkpoint is another job's."""


@dataclass
class Progress:
    """The contents of the file. Times in seconds (``started``, ``updated``: since the epoch), ``memory`` in bytes.

    ``steps`` is the last step of the run, ``trial`` the step at which ``charloom try`` ends it (0 without that),
    ``first`` the step from which this process resumed, ``saved`` the newest checkpoint. ``seconds_per_step`` and
    ``eta`` (of the steps alone) are None until two steps have been timed. ``previews`` are those of the newest
    checkpoint; ``previews_done`` (and the seconds they took) counts all that this process has drawn. ``doing`` is
    :data:`DRAWING` or empty. ``problem`` is one line.
    """

    state: str
    step: int
    steps: int
    first: int
    saved: int = 0
    loss: float | None = None
    smoothed: float | None = None
    seconds_per_step: float | None = None
    eta: float | None = None
    memory: int = 0
    previews: list[str] = field(default_factory=list)
    previews_done: int = 0
    preview_seconds: float = 0.0
    doing: str = ""
    pid: int = 0
    started: float = 0.0
    updated: float = 0.0
    problem: str = ""
    trial: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether the run is not over: it trains, waits, was stopped, or has failed."""
        return self.state != FINISHED

    def is_new(self, path: Path) -> bool:
        """Whether a file is newer than this process: older ones may belong to a run with other settings or data."""
        return files.changed(path) >= self.started

    @property
    def end(self) -> int:
        """The step to which this process and those after it train."""
        return max(self.step, min(self.steps, self.trial or self.steps))


def read(folder: str | Path) -> Progress | None:
    """The progress in a ``training`` folder; None if there is none that can be read."""
    try:
        values = json.loads((Path(folder) / NAME).read_text(encoding="utf-8"))
        known = {one.name for one in fields(Progress)}
        return Progress(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def failed(folder: Path, problem: str) -> None:
    """Record that a run has failed whose own process can no longer do so. ``problem`` is one line."""
    if (found := read(folder)) and found.state == RUNNING:
        found.state, found.problem, found.eta = FAILED, problem, None
        with contextlib.suppress(OSError):
            files.write_json(Path(folder) / NAME, asdict(found))


UNFINISHED = "unfinished"


@contextlib.contextmanager
def noticed(folder: Path) -> Iterator[bool]:
    """Mark a start of the trainer; yields whether the one before ended without a message, as when memory ran out.

    Only a process that is killed, this one or one that works for it, leaves the mark behind.
    """
    mark = Path(folder) / UNFINISHED
    before = killed(folder)
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(os.getpid()), encoding="ascii")
    outright = False
    try:
        yield before
    except Killed:
        outright = True
        raise
    finally:
        if not outright:
            with contextlib.suppress(OSError):
                mark.unlink()


def started(folder: Path) -> bool:
    """Whether a trainer is starting or running, as far as this machine knows; true until it has ended."""
    import psutil

    mark = Path(folder) / UNFINISHED
    try:
        process = psutil.Process(int(mark.read_text(encoding="ascii")))
        # Not another process that got the same id later.
        return bool(process.create_time() <= mark.stat().st_mtime + 1)
    except (OSError, ValueError, OverflowError, psutil.Error):
        return False


def killed(folder: Path) -> bool:
    """Whether a start of the trainer ended without a message since this machine booted."""
    import psutil

    try:
        return bool((Path(folder) / UNFINISHED).stat().st_mtime > psutil.boot_time())
    except (OSError, psutil.Error):
        return False


class Writer:
    """Keeps the file of one run. Every method may be called at any time; none raises if the disk fails.

    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: int,
        steps: int,
        saved: int = 0,
        trial: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._clock = Path(folder), clock
        now = clock()
        self.now = Progress(RUNNING, first, steps, first, saved=saved, pid=os.getpid(), started=now, trial=trial)
        self._times: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)
        self._written, self._drew = -1.0, now
        self._write(force=True)

    def step(self, step: int, loss: float, smoothed: float | None = None, memory: int = 0) -> None:
        """A step whose loss has arrived. ``memory`` is the peak so far."""
        self._times.append((step, self._clock()))
        (earlier, began), (later, ended) = self._times[0], self._times[-1]
        now = self.now
        now.step, now.loss, now.smoothed, now.memory = step, loss, smoothed, max(memory, now.memory)
        if later > earlier:
            now.seconds_per_step = (ended - began) / (later - earlier)
            now.eta = now.seconds_per_step * (now.end - step)
        self._write()

    def paused(self) -> None:
        """Something other than steps took time (a save, previews): it must not count as slow steps."""
        self._times.clear()

    def checkpoint(self, step: int) -> None:
        """A checkpoint is in the store."""
        self.now.saved = step
        self.paused()
        self._write(force=True)

    def drawing(self) -> None:
        """Previews are being drawn."""
        self.now.doing, self._drew = DRAWING, self._clock()
        self._write(force=True)

    def drawn(self, folder: Path) -> None:
        """Drawing is over: count the previews that are new in ``folder``, if any."""
        found = []
        with contextlib.suppress(OSError):
            found = sorted(path for path in folder.glob("*.png") if path.stat().st_mtime >= self._drew - 1)
        if found:
            self.now.previews = [path.as_posix() for path in found]
            self.now.previews_done += len(found)
            self.now.preview_seconds += self._clock() - self._drew
        self.now.doing = ""
        self.paused()
        self._write(force=True)

    def finished(self) -> None:
        """This process has done its part: the run is finished, or waits for the next job."""
        self._end(FINISHED if self.now.step >= self.now.steps else WAITING)

    def ended(self, error: BaseException) -> None:
        """An exception has ended the run: a request to stop, or a failure."""
        lines = str(error).splitlines()
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        self._end(STOPPED if stopped else FAILED, lines[0] if lines else type(error).__name__)

    def _end(self, state: str, problem: str = "") -> None:
        self.now.state, self.now.problem = state, problem
        if state != WAITING:
            self.now.eta = 0.0 if state == FINISHED else None
        self._write(force=True)

    def _write(self, *, force: bool = False) -> None:
        now = self._clock()
        if not force and now - self._written < PAUSE:
            return
        self._written = self.now.updated = now
        values: dict[str, Any] = asdict(self.now)
        part = self._folder / f".{NAME}.{os.getpid()}"
        # On Windows a file that is being read cannot be replaced either; the next write will do it.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(values), encoding="utf-8")
            part.replace(self._folder / NAME)
