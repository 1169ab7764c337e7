"""Reads the trainer's loss by step while it is being written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from charloom.core import records


class Metrics:
    """One ``metrics.jsonl``; each call of :meth:`read` reads what was written since the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._rest = b""
        self._file: tuple[int, int] | None = None
        self.loss: dict[int, float] = {}
        self.smoothed: dict[int, float] = {}
        self.last: dict[str, Any] = {}

    def read(self) -> None:
        """Read new lines; a file that was replaced or truncated is read from its start."""
        try:
            with open(self.path, "rb") as file:
                status = self.path.stat()
                if status.st_size < self._read or (self._file and self._file != (status.st_dev, status.st_ino)):
                    self._read, self._rest = 0, b""
                    self.loss, self.smoothed, self.last = {}, {}, {}
                self._file = (status.st_dev, status.st_ino)
                file.seek(self._read)
                new = file.read()
        except OSError:
            return
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for record in records.steps(lines):
            self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        try:
            step, loss = record["step"], float(record["loss"])
        except (ValueError, KeyError, TypeError):
            return  # another kind of record
        if not math.isfinite(loss):
            return
        if self.last and step <= self.last["step"]:  # a run that resumed from an earlier checkpoint
            for curve in (self.loss, self.smoothed):
                for later in [known for known in curve if known > step]:
                    del curve[later]
        self.loss[step] = loss
        smoothed = record.get("smoothed")
        if isinstance(smoothed, int | float) and math.isfinite(smoothed):
            self.smoothed[step] = smoothed
        self.last = record

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """``loss`` and ``smoothed`` as points (step, value), thinned by averaging neighbours."""
        return {"loss": records.thin(self.loss), "smoothed": records.thin(self.smoothed)}
