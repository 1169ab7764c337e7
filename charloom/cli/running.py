"""Runs Snakemake as a child process that shares the terminal and handles Ctrl-C itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from charloom.core import missing_package


def snakemake(arguments: Sequence[str], root: Path, variables: Mapping[str, str]) -> int:
    """Run snakemake in ``root`` with more environment ``variables`` and wait for it; returns its exit status.

    A Ctrl-C goes to both processes. ``subprocess.run`` would kill Snakemake a quarter of a second later, in the middle
    of saving, with the folder locked and the cursor hidden.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; Snakemake has ended and has said where.
    """
    missing_package.need("snakemake")
    command = [sys.executable, "-m", "snakemake", *arguments]
    with _waits_for_child() as pressed:
        code = subprocess.Popen(command, cwd=root, env={**os.environ, **variables}).wait()
    if pressed and code:
        raise KeyboardInterrupt
    return code


@contextmanager
def _waits_for_child() -> Iterator[list[int]]:
    """Keep Ctrl-C from ending this process; the list collects the signals that came."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = signal.getsignal(signal.SIGINT)
    # A handler rather than SIG_IGN, which the child would inherit. If it is ignored already (nohup), that is intended.
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)
