"""Windows paths in WSL, where drive ``C:`` is the folder ``/mnt/c``."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/mnt")


def mounted(path: str) -> str:
    r"""``/mnt/c/Users/me`` for ``C:\Users\me`` if the drive is mounted there; any other path unchanged."""
    found = re.fullmatch(r"([A-Za-z]):[\\/](.*)", path)
    if not found or not (drive := MOUNTS / found[1].lower()).is_dir():
        return path
    return (drive / found[2].replace("\\", "/").lstrip("/")).as_posix()
