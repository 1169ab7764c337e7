"""Reads from the log of a job what the user should see. Only reads files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from charloom.core.errors import STOPPED

LAST = 10
"""Lines of a failed job's log that are shown."""
LARGEST = 2_000_000
"""Only the end of a longer log is read, in bytes."""

_TIME = re.compile(r"^ *\d+\.\d s  ")


def lines(paths: Iterable[str]) -> list[str]:
    """The lines of the first log that can be read and is not empty."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                size = Path(path).stat().st_size
                file.seek(max(0, size - LARGEST))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            continue
        # A progress bar overwrites its line.
        found = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
        if found := [line for line in found if line]:
            return found
    return []


def said(line: str) -> str:
    """A line without the leading seconds."""
    return _TIME.sub("", line)


def warnings(found: list[str]) -> list[str]:
    """Warnings and notes that the job has for the user."""
    return [said(line) for line in found if said(line).startswith(("warning: ", "note: "))]


def mistakes(found: list[str]) -> list[str]:
    """What the user has to fix, a line each; empty if the job failed for another reason."""
    return [line.removeprefix("error: ") for line in found if line.startswith("error: ")]


def stopped(found: list[str]) -> str | None:
    """How a job says that it was stopped on request."""
    return next((line.removeprefix(STOPPED) for line in found[-3:] if line.startswith(STOPPED)), None)
