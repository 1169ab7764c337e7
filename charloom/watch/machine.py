"""Asks the machine for GPU memory, main memory, and whether a process is alive."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

PAUSE = 3.0
"""Seconds between two queries of the driver."""


class Machine:
    """Memory in use; the driver is queried at most every few seconds."""

    def __init__(self) -> None:
        self._asked = -PAUSE
        self._gpus: list[dict[str, Any]] = []

    def now(self) -> dict[str, Any]:
        """``gpus`` (``name``, ``used`` and ``total`` bytes, ``busy`` percent) and ``memory`` (``used``, ``total``)."""
        import psutil

        if time.monotonic() - self._asked > PAUSE:
            self._asked, self._gpus = time.monotonic(), gpus()
        memory = psutil.virtual_memory()
        return {"gpus": self._gpus, "memory": {"used": memory.total - memory.available, "total": memory.total}}


def gpus() -> list[dict[str, Any]]:
    """The NVIDIA GPUs as ``nvidia-smi`` lists them; none without it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = ["--query-gpu=name,memory.used,memory.total,utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run([command, *query], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(answer)


def parse(answer: str) -> list[dict[str, Any]]:
    """Parse the GPUs in an answer of ``nvidia-smi``; lines with "[N/A]" are left out."""
    found = []
    for line in answer.splitlines():
        *name, used, total, busy = [part.strip() for part in line.split(",")] if line.count(",") >= 3 else [""] * 4
        try:
            found.append(
                {
                    "name": ", ".join(name),
                    "used": int(used) * 2**20,
                    "total": int(total) * 2**20,
                    "busy": int(busy) if busy.isdigit() else None,
                }
            )
        except ValueError:
            continue
    return found


def lives(process: int) -> bool:
    """Whether a process is running on this machine."""
    import psutil

    return process > 0 and psutil.pid_exists(process)
