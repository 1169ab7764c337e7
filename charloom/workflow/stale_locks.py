"""Removes the locks that a killed Snakemake leaves behind, once it is certain that nobody holds them.

Snakemake locks a folder by files in ``.snakemake/locks``, and asks for ``--unlock`` if a kill or a power cut has left
them there. Every run of this workflow therefore records its process in ``.snakemake/charloom-runs.json``. If all
recorded runs were on this machine and none is alive, nobody holds the locks. In every other case they stay.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import UserError

FOLDER = Path(".snakemake")
"""What Snakemake keeps in a workflow folder."""
RUNS = "charloom-runs.json"
_RESULT = re.compile("results/[^/]+/.")
SLACK = 2.0
"""Seconds by which two clock readings of the same moment may differ."""


def enter(folder: Path, *, dry: bool = False) -> bool:
    """Record this process as a run in ``folder`` (``.snakemake``); True if stale locks were removed.

    A ``dry`` run holds no lock and is not recorded. Two simultaneous starts wait for each other. A folder that cannot
    be written to is left as it is.
    """
    from filelock import FileLock, Timeout

    locks = folder / "locks"
    if dry and not any(locks.glob("*.lock")):
        return False
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / f"{RUNS}.lock", timeout=10):
            known = _runs(folder / RUNS)
            living = [run for run in known if _lives(run)]
            stale = []
            if known and not living:
                # Older locks belong to a run that was not recorded and may still be alive.
                begun = min(run["started"] for run in known) - SLACK
                stale = [path for path in sorted(locks.glob("*.lock")) if path.stat().st_mtime >= begun]
            for path in stale:
                path.unlink()
            files.write_json(folder / RUNS, living if dry else [*living, _this()])
    except (OSError, Timeout, NotImplementedError, UserError):
        return False
    return bool(stale)


def holders(folder: Path) -> list[str]:
    """The characters whose files are locked in ``folder`` (``.snakemake``), by name."""
    found = set()
    for lock in folder.glob("locks/*.output.lock"):
        with contextlib.suppress(OSError):
            # Snakemake writes it in the encoding of the system. Names of characters are ASCII in any.
            paths = lock.read_text("utf-8", errors="replace").split("\n")
            found.update(path.split("/")[1] for path in paths if _RESULT.match(path))
    return sorted(found)


def at_work(folder: Path) -> set[str]:
    """The characters whose files a run in ``folder`` (``.snakemake``) is making: locked, by a run that may be alive."""
    return set(holders(folder)) if any(map(_lives, _runs(folder / RUNS))) else set()


def _host() -> str:
    """This machine, or this container in it, whose processes have numbers of their own."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _this() -> dict[str, Any]:
    import psutil

    return {"host": _host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _runs(path: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        found = files.read_json(path)
        if isinstance(found, list) and all(
            isinstance(one, dict) and {*one} >= {"host", "pid", "started"} for one in found
        ):
            return found
    return []


def _lives(run: dict[str, Any]) -> bool:
    """Whether a run may still be alive; on other machines that is unknown."""
    import psutil

    if run["host"] != _host():
        return True
    try:
        process = psutil.Process(run["pid"])
        # The clock may have been changed since: then its command line decides.
        if abs(process.create_time() - run["started"]) < SLACK:
            return True
        return any("snakemake" in word for word in process.cmdline())
    except (psutil.NoSuchProcess, TypeError, ValueError):
        return False
    except psutil.Error:
        return True
