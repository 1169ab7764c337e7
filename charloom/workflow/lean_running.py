"""The part of :mod:`charloom.workflow.lean` for the run itself: which jobs are considered, and what is hashed.

Where many jobs are ready, ``--scheduler-subsample`` considers some of them, chosen at random and whatever their
priority: a base that everything waits for was prepared half a minute late, because a hundred pictures and captions were
ready too. And after each job Snakemake records the digest of every file the job has read; the checkpoints of a
character, hundreds of megabytes each, are read by every preview and every picture of the strength sweep.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from charloom.core.contents import signature
from charloom.workflow import swaps


def _state(file: str) -> tuple[int, ...] | None:
    try:
        return tuple(signature(file))
    except OSError:
        return None


def hash_once() -> None:
    """Remember digests by path, as long as size, dates and inode stay."""
    from snakemake import io

    def made(original: Any) -> Any:
        known: dict[tuple[Any, ...], str] = {}

        async def checksum(self: Any, threshold: int | None = None, force: bool = False, algorithm: Any = None) -> Any:
            usual = not self.is_storage and threshold is not None and algorithm is None
            state = _state(self.file) if usual else None
            if state and state[0] <= threshold and (self.file, state) in known:
                return known[self.file, state]
            found = await original(self, threshold, force, algorithm)
            if state and found and state == _state(self.file):
                known[self.file, state] = found
            return found

        return checksum

    swaps.method(io._IOFile, "checksum", made)


def consider_every_rule() -> None:
    """Let the jobs that are considered be of all rules."""
    from snakemake.scheduling import job_scheduler

    def starting(original: Any) -> Any:
        def __init__(self: Any, *arguments: Any, **named: Any) -> None:
            original(self, *arguments, **named)
            self.subsample = None  # it is done below

        return __init__

    def choosing(original: Any) -> Any:
        def job_selector(self: Any, jobs: Collection[Any]) -> Any:
            most = self.workflow.scheduling_settings.subsample
            return original(self, some_of_each_rule(jobs, most) if most and len(jobs) > most else jobs)

        return job_selector

    swaps.method(job_scheduler.JobScheduler, "job_selector", choosing)
    swaps.method(job_scheduler.JobScheduler, "__init__", starting)


def some_of_each_rule(jobs: Collection[Any], most: int) -> set[Any]:
    """``most`` of ``jobs``, or one of each rule if that is more: as many of one rule as of another, at random."""
    by_rule: dict[str, list[Any]] = {}
    for job in jobs:
        by_rule.setdefault("" if job.is_group() else job.rule.name, []).append(job)
    chosen: set[Any] = set()
    # The rules with few jobs first, which leave their share to the others.
    for done, members in enumerate(sorted(by_rule.values(), key=len)):
        share = max(1, (most - len(chosen)) // (len(by_rule) - done))
        chosen.update(random.sample(members, min(share, len(members))))
    return chosen


ALL = (hash_once, consider_every_rule)
