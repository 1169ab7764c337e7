"""The rank of a process among several that compute one run, and how it ends when another is gone. No torch."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from charloom.core.errors import cli

RANK, MEETING, PARENT = "CHARLOOM_RANK", "CHARLOOM_MEETING", "CHARLOOM_RANKS_PARENT"
"""Environment variables of a rank: ``<rank>/<number of ranks>``, the path of the file where they find each other, and
the process that started them."""
LOST = 76
"""Exit status of a rank that ended because another one was gone."""
PAUSE = 0.3
"""Seconds between two checks that the others are still running."""
WHY = "lost-{rank}"
"""File beside the meeting file with the error that the libraries reported to a rank that ended as lost."""


class Lost(Exception):
    """Another rank is gone."""


def told() -> tuple[int, int] | None:
    """(rank, number of ranks) of this process; None if it is not one of several."""
    rank, _, count = os.environ.get(RANK, "").partition("/")
    return (int(rank), int(count)) if count else None


def unread_folder() -> Path:
    """A temporary folder for a rank's records, which nobody reads; deleted when the run ends."""
    return Path(tempfile.mkdtemp(dir=Path(os.environ[MEETING]).parent))


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even while it waits for another rank."""
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(LOST)

    threading.Thread(target=watch, daemon=True).start()


def run(main: Callable[[], None]) -> NoReturn:
    """Run a script as :func:`charloom.core.errors.cli` does; a rank then ends without waiting for the others.

    Libraries that talk to the other ranks may wait for them at the interpreter's end, and one of them may be gone.
    """
    rank = told()
    if rank is None:
        cli(main)
    end_with_parent()
    status = 1
    try:
        cli(main)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except Lost as lost:
        status = LOST
        with contextlib.suppress(OSError):
            Path(os.environ[MEETING]).with_name(WHY.format(rank=rank[0])).write_text(str(lost), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
