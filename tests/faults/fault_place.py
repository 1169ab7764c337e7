"""The folder of a run: no process, mount or file of it outlives the run, however that is ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder that is cleared at the end, also at that by SIGTERM."""
    before = signal.signal(signal.SIGTERM, _end)
    folder = Path(tempfile.mkdtemp(prefix="faults-")).resolve()
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        clear(folder)
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _: Any) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise SystemExit(128 + number)


def clear(folder: Path) -> None:
    """Kill what runs below a folder, take away what is mounted there, and the folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(folder) and process.name != str(os.getpid()):
                os.kill(int(process.name), signal.SIGKILL)
    points = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    for point in reversed([point for point in points if point.is_relative_to(folder)]):
        subprocess.run(["umount", "--lazy", point], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
