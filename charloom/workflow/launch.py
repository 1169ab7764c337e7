"""Starts the processes (ranks) that compute one run on several GPUs, and ends them together.

Every rank runs the same command again and learns from its environment which one it is (:mod:`charloom.train.meeting`).
The first rank writes results and talks to the user; the output of the others is kept in case they fail. Must not import
torch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from filelock import FileLock, Timeout

from charloom.core.errors import Killed, UserError
from charloom.train.meeting import LOST, MEETING, PARENT, PAUSE, RANK, WHY
from charloom.train.stopping import SIGNALS

GRACE = 3.0
"""Seconds for ranks to notice that another one is gone, before they are killed."""
KEPT = 40
"""Last lines of a silent rank that go to the log if it fails."""
FOLDERS = "charloom-ranks-"
HELD = "held"
"""Lock in such a folder, which the system releases when the run that holds it ends."""


class Rank:
    """A process of the run; ``place`` is its GPU (an entry of CUDA_VISIBLE_DEVICES), None on a CPU."""

    def __init__(self, command: Sequence[str], number: int, count: int, meeting: Path, place: str | None) -> None:
        self.number = number
        own = {RANK: f"{number}/{count}", MEETING: str(meeting), PARENT: str(os.getpid())}
        if place is not None:
            own["CUDA_VISIBLE_DEVICES"] = place
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} if number else {}
        self.process = subprocess.Popen(
            command, env={**os.environ, **own}, stdin=subprocess.DEVNULL, text=True, errors="replace", **silent
        )
        self.lines: deque[str] = deque(maxlen=KEPT)
        self._reader: threading.Thread | None = None
        if self.process.stderr:
            self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
            self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line.rstrip())

    def said(self) -> list[str]:
        """Its last lines, once it has ended."""
        if self._reader:
            self._reader.join(timeout=1.0)
        return list(self.lines)


def run(command: Sequence[str], count: int, places: Sequence[str], quietly: Callable[[str], None]) -> None:
    """Run ``command`` in ``count`` ranks until all have ended well; ``places`` are their GPUs, none on a CPU.

    If one fails, the others are ended within seconds. A SIGTERM or Ctrl-C is passed on to the first rank, which saves
    and lets all stop; a second Ctrl-C ends them at once. ``quietly`` takes lines for the log file.

    Raises:
        Killed: a rank was killed outright (SIGKILL).
        UserError: a rank ended by another signal, or said in one line why it failed.
        SystemExit: with the status of the first rank, which has said why itself.
    """
    _forget_killed()
    with tempfile.TemporaryDirectory(prefix=FOLDERS) as folder, FileLock(Path(folder, HELD)):
        meeting = Path(folder, "meeting")
        ranks = [Rank(command, i, count, meeting, places[i] if places else None) for i in range(count)]
        try:
            with _passing_on(ranks):
                failed = _wait(ranks)
        finally:
            _kill(ranks)
        if failed is None:
            return
        status = failed.process.returncode
        for line in failed.said():
            quietly(f"rank {failed.number}: {line}")
        if failed.number == 0 and status > 0 and status != LOST:
            raise SystemExit(status)
        raise (Killed if status == -signal.SIGKILL else UserError)(_reason(failed, count, meeting))


def _forget_killed() -> None:
    """Remove the folders of killed runs whose parent, which would have removed them, was killed too."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        with contextlib.suppress(OSError, Timeout), FileLock(folder / HELD, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


def _wait(ranks: Sequence[Rank]) -> Rank | None:
    """Wait until all have ended; the rank that failed first, if one did."""
    while True:
        states = [rank.process.poll() for rank in ranks]
        if any(states):  # neither running (None) nor well (0)
            break
        if all(state == 0 for state in states):
            return None
        time.sleep(PAUSE / 3)
    # One that merely lost another ends at once, sometimes before the culprit is seen; one that stopped on request
    # leaves the others a moment to do so too.
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(rank.process.poll() is None for rank in ranks):
        if any(rank.process.poll() not in (None, 0, LOST) for rank in ranks):
            deadline = min(deadline, time.monotonic() + GRACE / 3)
        time.sleep(PAUSE / 3)
    ended = [rank for rank in ranks if rank.process.poll()]
    guilty = [rank for rank in ended if rank.process.returncode != LOST]
    # Several may end with the same error; the first rank has told the user.
    return min(guilty or ended, key=lambda rank: (rank.process.returncode > 0, rank.number))


def _reason(rank: Rank, count: int, meeting: Path) -> str:
    status = rank.process.returncode
    who = f"process {rank.number + 1} of {count} of this training"
    again = "the others were stopped; run again to go on from the last checkpoint"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"{who} was killed ({signal.Signals(-status).name}); {again}"
    if status == LOST:
        with contextlib.suppress(OSError):
            lines = meeting.with_name(WHY.format(rank=rank.number)).read_text(encoding="utf-8").splitlines()
            if why := next(filter(None, map(str.strip, lines)), ""):
                return f"{who} cannot talk to the others ({why}); correct that, or set gpus: 1, and run again"
        return f"{who} lost its connection to the others; {again}"
    said = [line for line in rank.said() if line]
    line = next((line.removeprefix("error: ") for line in reversed(said) if line.startswith("error: ")), None)
    return f"{who}: {line or (said or [f'exit status {status}'])[-1]}; {again}"


def _kill(ranks: Sequence[Rank]) -> None:
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.kill()
    for rank in ranks:
        rank.process.wait()


@contextlib.contextmanager
def _passing_on(ranks: Sequence[Rank]) -> Iterator[None]:
    """Pass requests to stop on to the first rank, which tells the others."""
    asked = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        # As SIGTERM: a terminal's Ctrl-C has reached the rank already, and a second one would end it at once.
        with contextlib.suppress(OSError):
            ranks[0].process.send_signal(signal.SIGTERM)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def again() -> list[str]:
    """The command of this process."""
    return [sys.executable, *sys.argv]
