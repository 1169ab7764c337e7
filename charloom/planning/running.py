"""The part of :mod:`charloom.planning.lean` that is for the run itself: which ready jobs start, and what is hashed.

Unlike its siblings this module knows some rules of the workflow by name. Four things it mends:

* ``--scheduler-subsample`` considers ready jobs at random, whatever their priority: a base that everything waits for
  was prepared half a minute late because a hundred pictures and captions were ready too.
* After each job Snakemake records the digest of every file that the job has read. The checkpoints of a character,
  hundreds of megabytes each, are read by every preview and every picture of the strength sweep.
* Previews that the trainer draws on its way may be ready before the training is. Then a process started for ten
  previews of the base alone held the only GPU for 40 seconds.
* Where one process makes the files of all its sibling jobs, these only link them. But each claimed the GPU, and seventy
  of them took ten seconds, one after the other.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from itertools import filterfalse
from typing import Any

from charloom.core.contents import signature
from charloom.planning import swaps

MADE_TOGETHER = (
    "encode_latents",
    "encode_caption",
    "encode_class_caption",
    "encode_text",
    "sample_strength",
    "sample_drift",
)
"""Rules whose first job for a character makes the files of all others, which then link them from the store."""


def _state(file: str) -> tuple[int, ...] | None:
    try:
        return tuple(signature(file))
    except OSError:
        return None


def hash_once() -> None:
    """Remember digests by path, as long as size, dates and inode stay the same."""
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


def choose_well() -> None:
    """Consider jobs of every rule, start a training before the previews that it draws, link files side by side."""
    from snakemake.scheduling import job_scheduler

    def starting(original: Any) -> Any:
        def __init__(self: Any, *arguments: Any, **named: Any) -> None:
            original(self, *arguments, **named)
            self.subsample = None  # it is done below
            self.trainings = None
            self.makers = {}

        return __init__

    def choosing(original: Any) -> Any:
        def job_selector(self: Any, jobs: Collection[Any]) -> Any:
            most = self.workflow.scheduling_settings.subsample
            jobs = without_base_previews(self, jobs)
            if not jobs:
                return []
            considered = some_of_each_rule(jobs, most) if most and len(jobs) > most else jobs
            let_links_run(self, considered)
            selected = original(self, considered)
            note_makers(self, selected, jobs)
            return selected

        return job_selector

    swaps.method(job_scheduler.JobScheduler, "job_selector", choosing)
    swaps.method(job_scheduler.JobScheduler, "__init__", starting)


def without_base_previews(scheduler: Any, jobs: Collection[Any]) -> Collection[Any]:
    """``jobs`` without previews of the base alone whose training is still to come, unless nothing else can run.

    The trainer usually draws them; where it cannot, one process draws them afterwards with all others.
    """
    if not scheduler.workflow.local_exec or not any(map(_of_base_alone, jobs)):
        return jobs
    dag = scheduler.workflow.dag
    if scheduler.trainings is None:
        scheduler.trainings = [job for job in dag.needrun_jobs() if _named(job) == "train_segment"]
    coming = {job.wildcards.character for job in filterfalse(dag.finished, scheduler.trainings)}
    others = {job for job in jobs if not (_of_base_alone(job) and job.wildcards.character in coming)}
    return others if others or scheduler.running else jobs


def let_links_run(scheduler: Any, jobs: Collection[Any]) -> None:
    """Let those of ``jobs`` whose files an earlier job has made claim one core and no GPU.

    One may have something to make after all, because the earlier job found its own file in the store. Where GPUs are
    leased, its process then waits for a free one by itself, and its siblings wait for it.
    """
    if not scheduler.workflow.local_exec:
        return
    for job in filter(_with_siblings, jobs):
        if scheduler.workflow.dag.finished(scheduler.makers.get(job)):
            job.scheduler_resources.update(gpu=0, _cores=1)


def note_makers(scheduler: Any, selected: Collection[Any], ready: Collection[Any]) -> None:
    """Remember which of the ``selected`` jobs makes the files of its siblings.

    Only of siblings that are ``ready`` too: one whose caption, picture or checkpoint comes later has something to make.
    """
    without = {None, *scheduler.failed}
    new: dict[Any, Any] = {}
    for job in filter(_with_siblings, selected):
        if scheduler.makers.get(job) in without:
            new.setdefault(_family(job), job)
    for job in filter(_with_siblings, ready) if new else ():
        if _family(job) in new and scheduler.makers.get(job) in without:
            scheduler.makers[job] = new[_family(job)]


def _with_siblings(job: Any) -> bool:
    return _named(job) in MADE_TOGETHER


def _family(job: Any) -> tuple[str, str, str]:
    """Jobs that one process serves: images are encoded folder by folder, and each extra data set has its own."""
    return job.rule.name, job.wildcards.character, getattr(job.wildcards, "shot", "").rpartition("/")[0]


def _named(job: Any) -> str:
    return "" if job.is_group() else job.rule.name


def _of_base_alone(job: Any) -> bool:
    return _named(job) == "sample_checkpoint" and int(job.wildcards.step) == 0


def some_of_each_rule(jobs: Collection[Any], most: int) -> set[Any]:
    """``most`` of ``jobs`` at random, evenly over the rules; one of each rule if there are more rules than that."""
    by_rule: dict[str, list[Any]] = {}
    for job in jobs:
        by_rule.setdefault(_named(job), []).append(job)
    chosen: set[Any] = set()
    # Rules with few jobs first: what they leave of their share goes to the others.
    for done, members in enumerate(sorted(by_rule.values(), key=len)):
        share = max(1, (most - len(chosen)) // (len(by_rule) - done))
        chosen.update(random.sample(members, min(share, len(members))))
    return chosen


ALL = (hash_once, choose_well)
