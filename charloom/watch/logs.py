"""Reads the end of the most recent log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BYTES = 16_384
LINES = 40


def newest(folder: Path) -> dict[str, Any]:
    """``name`` of the newest log below ``folder`` and its last ``lines``; both empty if there is none."""
    found: list[tuple[int, Path]] = []
    for path in folder.rglob("*.log"):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_size and not path.is_symlink():
            found.append((status.st_mtime_ns, path))
    if not found:
        return {"name": "", "lines": []}
    path = max(found)[1]
    return {"name": path.relative_to(folder).as_posix(), "lines": tail(path)}


def tail(path: Path) -> list[str]:
    """The last lines of a file; of a progress bar that rewrites its line, only the last state."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rsplit("\r", 1)[-1].rstrip() for line in text.rstrip().split("\n")][-LINES:]
