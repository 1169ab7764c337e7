"""Reduces what a dry run keeps of its jobs to what it still reads; the third part of :mod:`charloom.planning.lean`.

A job of a plan is never run, but Snakemake keeps for each of them what running it would take: parameters, the name of
its log, wildcards as a list and as a dictionary, sets and tables of files that are the same for many jobs. Here they
are shared, made again on demand, or dropped once the graph is built. Things are dropped in dry runs only, and only if
the graph cannot grow any more (Snakemake's checkpoints; charloom has none).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from types import SimpleNamespace, coroutine
from typing import Any

from charloom.planning import swaps

_NOTHING: frozenset[Any] = frozenset()
_NO_JOBS: dict[Any, Any] = {}


def _final(dag: Any) -> bool:
    """Whether this is a dry run whose graph nothing changes once it is built."""
    return bool(dag.workflow.dryrun) and not any(rule.is_checkpoint for rule in dag.workflow.rules)


def _make_small_jobs() -> None:
    """Share what is equal in many jobs: empty sets (five in each), and the places of names in their lists."""
    from snakemake.jobs import Job

    names = ("temp_output", "protected_output", "touch_output", "pipe_or_service_output", "_queue_input")

    def made(original: Any) -> Any:
        places: dict[Any, Any] = {}

        def __init__(self: Any, rule: Any, dag: Any, *arguments: Any, **options: Any) -> None:
            original(self, rule, dag, *arguments, **options)
            if not dag.workflow.dryrun:
                return
            for name in names:
                if getattr(self, name, None) == _NOTHING:
                    setattr(self, name, _NOTHING)
            if not self.dependencies:
                self.dependencies = _NO_JOBS
            for listed in (self._input, self._output):
                listed._names = places.setdefault(tuple(listed._names.items()), listed._names)
            if self._format_wildcards is self._wildcards:
                self._wildcards = self._format_wildcards = None

        return __init__

    def wildcards(original: Any) -> Any:
        from snakemake.iocontainers import Wildcards

        return lambda self: found if (found := original(self)) is not None else Wildcards(fromdict=self.wildcards_dict)

    def by_path(original: Any) -> Any:
        return lambda self: {str(f): f for f in self._output} if self.dag.workflow.dryrun else original(self)

    swaps.method(Job, "__init__", made)
    swaps.getter(Job, "wildcards", wildcards)
    swaps.getter(Job, "_format_wildcards", wildcards)
    swaps.getter(Job, "output_by_path", by_path)


def _write_wildcards_once() -> None:
    """Keep one string per value of a wildcard, instead of a copy per job."""
    from snakemake.rules import Rule

    def made(original: Any) -> Any:
        def get_wildcards(self: Any, *arguments: Any, **options: Any) -> Any:
            return {name: sys.intern(value) for name, value in original(self, *arguments, **options).items()}

        return get_wildcards

    swaps.method(Rule, "get_wildcards", made)


def share_files(dag: Any, job: Any) -> None:
    """Keep one set of files for all jobs that read the same files of another job."""
    for other, files in dag._dependencies[job].items():
        if type(files) is set:
            readers = dag.depending[other]
            known = next(iter(readers.values()))
            shared = known if type(known) is frozenset and known == files else frozenset(files)
            dag._dependencies[job][other] = readers[job] = shared


def _forget_what_building_took() -> None:
    """Drop the tables of jobs and producers, and parameters and logs, which only had to be valid."""
    from snakemake.jobs import Job
    from snakemake.workflow import DAG

    def caching(original: Any) -> Any:
        def cache_job(self: Any, job: Any) -> None:
            original(self, job)
            if self.workflow.dryrun:
                job._log = None

        return cache_job

    def cleaning(original: Any) -> Any:
        def cleanup(self: Any) -> None:
            original(self)
            if _final(self):
                self.job_factory.cache.clear()
                self.output_index.__dict__.pop("known_producers", None)
                for rule in self.rules:
                    rule.__dict__.pop("known_inputs", None)

        return cleanup

    def environment(original: Any) -> Any:
        def conda_env_spec(self: Any) -> Any:
            try:
                return original(self)
            finally:
                if self.dag.workflow.dryrun:
                    self._params = self._non_derived_params = None

        return conda_env_spec

    def reasoning(original: Any) -> Any:
        async def update_needrun(self: Any, *arguments: Any, **options: Any) -> None:
            await original(self, *arguments, **options)
            if not _final(self):
                return
            for job, reason in self._reason.items():
                job._benchmark = None
                # Snakemake makes these again when it asks.
                for name in ("_updated_input", "_updated_input_run", "_incomplete_output"):
                    if getattr(reason, name, None) == _NOTHING:
                        setattr(reason, name, None)
                read = next(iter(self.depending[job].values()), None)
                if reason._missing_output == read:
                    reason._missing_output = read

        return update_needrun

    swaps.method(DAG, "cache_job", caching)
    swaps.method(DAG, "cleanup", cleaning)
    swaps.method(DAG, "update_needrun", reasoning)
    swaps.getter(Job, "conda_env_spec", environment)


def _look_at_once() -> None:
    """Look at a local file at once, where Snakemake first creates a task for every job."""
    from snakemake import dag, jobs

    for module in (dag, jobs):
        if module.asyncio is asyncio:
            swaps.put(module, "asyncio", SimpleNamespace(**{**vars(asyncio), "TaskGroup": Eager}))


class Eager(asyncio.TaskGroup):
    """A group whose tasks start at once; one that never waits is done immediately and does not become a task."""

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
        """Start ``coro``; what is left of it, if anything, becomes a task of the group."""
        try:
            waiting = coro.send(None)
        except StopIteration as end:
            return _Done(end.value)
        except BaseException as error:
            return super().create_task(_failed(error), **options)
        return super().create_task(_rest(coro, waiting), **options)


class _Done:
    """A task that is done."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        """Its result."""
        return self._value


async def _failed(error: BaseException) -> None:
    raise error


@coroutine
def _rest(coro: Coroutine[Any, Any, Any], waiting: Any) -> Any:
    while True:
        try:
            answer = yield waiting
        except BaseException as error:
            step = coro.throw, error
        else:
            step = coro.send, answer
        try:
            waiting = step[0](step[1])
        except StopIteration as end:
            return end.value


ALL = (
    _make_small_jobs,
    _write_wildcards_once,
    _forget_what_building_took,
    _look_at_once,
)
"""In the order in which they are applied."""
