"""The locks that a killed Snakemake leaves behind: taken away when it is certain that nobody holds them.

Snakemake locks a folder by files in ``.snakemake/locks``, and asks for ``--unlock`` when a kill or a power cut has left
them there. Every run of this workflow therefore notes its process in ``.snakemake/charloom-runs.json``. If all noted
runs were of this machine and none of them lives, the locks are nobody's. In every other case they stay.
"""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import UserError

RUNS = "charloom-runs.json"


def enter(folder: Path) -> bool:
    """Note this process as a run in ``folder`` (``.snakemake``); True if stale locks were removed on the way.

    Two starts at once wait for each other. A folder that cannot be written to is left as it is.
    """
    from filelock import FileLock, Timeout

    locks = folder / "locks"
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / f"{RUNS}.lock", timeout=10):
            known = _runs(folder / RUNS)
            living = [run for run in known if _lives(run)]
            stale = sorted(locks.glob("*.lock")) if known and not living else []
            for path in stale:
                path.unlink()
            files.write_json(folder / RUNS, [*living, _this()])
    except (OSError, Timeout, NotImplementedError, UserError):
        return False
    return bool(stale)


def _this() -> dict[str, Any]:
    import psutil

    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _runs(path: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        found = files.read_json(path)
        if isinstance(found, list) and all(
            isinstance(one, dict) and {*one} >= {"host", "pid", "started"} for one in found
        ):
            return found
    return []


def _lives(run: dict[str, Any]) -> bool:
    """Whether a run may still be there: of other machines nothing is known."""
    import psutil

    if run["host"] != platform.node():
        return True
    try:
        return abs(psutil.Process(run["pid"]).create_time() - run["started"]) < 2
    except (psutil.NoSuchProcess, TypeError, ValueError):
        return False
    except psutil.Error:
        return True
