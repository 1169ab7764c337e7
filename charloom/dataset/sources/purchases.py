"""The record of what was asked of generators for one character and what it cost: one line of JSON per answer.

The file lies outside the store and the results, so that deleting either does not forget what was spent.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.core.errors import UserError, disk_problem

BOUGHT, LOST, REFUSED, FAILED, STOPPED = "bought", "lost", "refused", "failed", "stopped"
"""A picture arrived; an answer was lost that may have been charged for; the generator refused; this picture was given
up; all further ones were."""
CHARGED = (BOUGHT, LOST)
RUN = "CHARLOOM_RUN"
"""Environment variable with the run of snakemake that a job belongs to."""


@dataclass(frozen=True)
class Budget:
    """What may be spent; None means no limit. ``price`` is that of one picture, None if unknown."""

    pictures: int | None = None
    money: float | None = None
    price: float | None = None


class Purchases:
    """The lines of ``path``; only one process may write at a time."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines = _read(path) if path else []

    @property
    def pictures(self) -> int:
        """Pictures that were charged for, or may have been."""
        return sum(line["what"] in CHARGED for line in self.lines)

    @property
    def money(self) -> float:
        """What they cost, at the prices in the character file at the time."""
        return sum(float(line.get("price") or 0.0) for line in self.lines if line["what"] in CHARGED)

    def affordable(self, budget: Budget) -> int | None:
        """How many more pictures the budget allows; None if there is no limit."""
        left = []
        if budget.pictures is not None:
            left.append(budget.pictures - self.pictures)
        if budget.money is not None and budget.price:
            # The last digits of a float sum of prices may exceed the budget.
            left.append(int((budget.money - self.money) / budget.price + 1e-9))
        return max(0, min(left)) if left else None

    def note(self, what: str, name: str, key: str, price: float | None = None, why: str = "") -> None:
        """Add a line, which is on the disk when this returns.

        Raises:
            UserError: it cannot be written; nothing may be bought that is not counted.
        """
        line: dict[str, Any] = {"what": what, "picture": name, "key": key, "time": round(time.time(), 1)}
        line |= {"price": price} if what in CHARGED else {}
        line |= {"why": why} if why else {}
        if run := os.environ.get(RUN):
            line["run"] = run
        self.lines.append(line)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                # In one write; and on a line of its own, even after one that a crash has left unfinished.
                torn = file.tell() and not _ends_a_line(self.path)
                file.write((b"\n" if torn else b"") + json.dumps(line, sort_keys=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(disk_problem(error, self.path) or f"{self.path}: cannot be written ({error})") from None

    def given_up(self, key: str) -> str | None:
        """Why a picture was given up earlier in this run; None if it was not."""
        return next((str(one.get("why")) for one in self._of_run(FAILED) if one["key"] == key), None)

    def stopped(self) -> str | None:
        """Why all further pictures were given up earlier in this run; None if they were not."""
        return next((str(one.get("why")) for one in self._of_run(STOPPED)), None)

    def _of_run(self, what: str) -> list[dict[str, Any]]:
        run = os.environ.get(RUN)
        return [line for line in self.lines if run and line.get("run") == run and line["what"] == what]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), and says what was spent; restore it") from None
    lines = []
    for text_line in text.splitlines():
        try:
            line = json.loads(text_line)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("what"), str) and isinstance(line.get("key"), str):
            price = line.get("price")
            valid = isinstance(price, int | float) and not isinstance(price, bool)
            lines.append({**line, "price": float(price) if valid else None})
    return lines


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
