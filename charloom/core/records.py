"""Reads what a run records: the trainer's lines, and Snakemake's measurement of each job.

Whatever is missing, half written or malformed is left out, because a run may be writing it.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from charloom.core.layout import Results

POINTS = 300
"""Most points of a curve that is drawn, so that the drawing of a long run stays small."""


def steps(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The records in lines of ``metrics.jsonl``; each has a ``step``."""
    for line in lines:
        try:
            record = json.loads(line)
            if isinstance(record["step"], int):
                yield record
        except (ValueError, KeyError, TypeError):
            continue


def of_training(made: Results) -> list[dict[str, Any]]:
    """What the trainer has recorded of a character."""
    try:
        return list(steps(made.metrics.read_bytes().splitlines()))
    except OSError:
        return []


def thin(curve: Mapping[int, float], most: int = POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points of a curve, each the mean of its neighbours, rounded to what a drawing shows."""
    points = sorted(curve.items())
    size = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), round(sum(y for _, y in g) / len(g), 5)) for g in groups]


@dataclass(frozen=True)
class Job:
    """What Snakemake measured of a job of ``rule``: seconds, and its largest main memory in MiB.

    ``item`` tells the jobs of a rule apart, as in :meth:`charloom.core.layout.Results.benchmark`. A job that was too
    short to be measured has zeros.
    """

    rule: str
    item: str
    seconds: float
    memory: float


def of_jobs(made: Results) -> list[Job]:
    """The measured jobs of a character, in the order in which they finished."""
    found = []
    for path in made.benchmarks.rglob("*.tsv"):
        rule, *item = path.relative_to(made.benchmarks).with_suffix("").parts
        try:
            when = path.stat().st_mtime
            with open(path, encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file, delimiter="\t") if "s" in row and None not in row]
        except (OSError, ValueError, csv.Error):
            continue
        found += [
            (when, path.name, Job(rule, "/".join(item), _number(row["s"]), _number(row.get("max_rss")))) for row in rows
        ]
    return [job for *_, job in sorted(found, key=lambda one: one[:2])]


def _number(text: str | None) -> float:
    try:
        number = float(text or 0)
    except ValueError:  # NA, or -
        return 0.0
    return max(0.0, number) if math.isfinite(number) else 0.0
