"""The trainer's loss by step, read as it grows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

POINTS = 300
"""A curve has at most this many points."""


class Metrics:
    """One ``metrics.jsonl``; every call of :meth:`read` takes in what was written since the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._rest = b""
        self._file: tuple[int, int] | None = None
        self.loss: dict[int, float] = {}
        self.smoothed: dict[int, float] = {}
        self.last: dict[str, Any] = {}

    def read(self) -> None:
        """Take in new lines; a file that was replaced or cut is read from its start."""
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
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            step, loss = int(record["step"]), float(record["loss"])
        except (ValueError, KeyError, TypeError):
            return  # half written, or of another kind
        if not math.isfinite(loss):
            return
        if self.last and step <= self.last["step"]:  # a run that went on from an earlier checkpoint
            for curve in (self.loss, self.smoothed):
                for later in [known for known in curve if known > step]:
                    del curve[later]
        self.loss[step] = loss
        smoothed = record.get("smoothed")
        if isinstance(smoothed, int | float) and math.isfinite(smoothed):
            self.smoothed[step] = smoothed
        self.last = record

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """``loss`` and ``smoothed`` as points (step, value), thinned by taking means of neighbours."""
        return {"loss": thin(self.loss), "smoothed": thin(self.smoothed)}


def thin(curve: dict[int, float], most: int = POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points of a curve, each the mean of its neighbours."""
    points = sorted(curve.items())
    size = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), round(sum(y for _, y in g) / len(g), 5)) for g in groups]
