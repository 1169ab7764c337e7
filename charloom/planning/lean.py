"""Plans of many thousand jobs in half the time: what Snakemake computes anew for every job and file, computed once.

Some costs of a plan grow with the number of jobs and have nothing to do with the jobs themselves. Python's garbage
collector walks through all of them again and again though none is garbage; ``inspect.signature`` is asked several times
per file for the same few functions; each message and command is formatted with several copies of all the names of the
workflow, whether somebody reads it or not; and what :mod:`charloom.planning.graph` says of files and lists, and
:mod:`charloom.planning.memory` of memory. Plans stay the same, line by line (``tests/workflow/test_lean.py``). A
version of Snakemake that lacks one of these functions just keeps its own speed, and so does one that was not tried, or
any with ``CHARLOOM_PLAN=plain``. ``benchmarks/planning.py`` measures what it gives.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from charloom.planning import swaps

OLDEST, BELOW = (9, 27), (10, 0)
"""The releases of Snakemake that this is for; those before have other arguments in some places."""

COLLECT_AFTER = 500_000
"""New objects after which the collector looks for garbage; 700 by Python's default."""

LONGEST_MEMORY = 10_000
"""Functions whose parameters are remembered; input functions that make functions could otherwise fill the memory."""

TAKES_JOB = "takes_job"
"""Name of the method by which a log handler takes a job of a dry run itself, instead of a record with all its texts."""


def plan_lean() -> None:
    """Apply all of it to this process; may be called again."""
    if os.environ.get("CHARLOOM_PLAN") == "plain" or not OLDEST <= _release() < BELOW:
        return
    from charloom.planning import graph, memory, running

    gc.set_threshold(COLLECT_AFTER, 50, 1000)
    gc.freeze()  # modules and rules: never garbage
    # Nor is a plan, in which the exit would look for it.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    swaps.each(
        _know_signatures,
        _format_without_copies,
        _tell_only_who_listens,
        _skip_what_a_dry_run_does_not_use,
        *graph.ALL,
        *memory.ALL,
        *running.ALL,
    )


def _release() -> tuple[int, ...]:
    import snakemake

    return tuple(int(part) for part in snakemake.__version__.split(".")[:2] if part.isdigit())


def _know_signatures() -> None:
    """Remember the parameters of functions, of which a workflow has some dozens."""
    from snakemake import common

    def made(original: Any) -> Any:
        known: dict[Any, Mapping[str, Any]] = {}

        def get_function_params(func: Callable[..., Any]) -> Mapping[str, Any]:
            # A bound method is a new object at each access, its function is not.
            key = (getattr(func, "__func__", func), hasattr(func, "__self__"))
            try:
                return known[key]
            except KeyError:
                found: Mapping[str, Any] = original(func)
                if len(known) < LONGEST_MEMORY:
                    known[key] = found
                return found
            except TypeError:  # cannot be hashed
                return original(func)  # type: ignore[no-any-return]

        return get_function_params

    swaps.function(common, "get_function_params", made)


def _format_without_copies() -> None:
    """Look names up where they are, and format a command once when it is asked for three times in a row."""
    from snakemake import jobs, utils

    parts = [getattr(utils, name, None) for name in ("SequenceFormatter", "QuotedFormatter")]
    if None in parts:
        return
    sequences, quoted = parts

    def made(original: Any) -> Any:
        last: tuple[Any, ...] = (None, None, None)

        def format_wildcards(self: Any, string: str, **variables: Any) -> str:
            nonlocal last
            dry = self.dag.workflow.dryrun and not variables
            if dry and last[0] is self and last[1] is string:
                return str(last[2])
            formatter = sequences(separator=" ")
            formatter.element_formatter = quoted(None)
            try:
                names = _Names(self)
                text = formatter.vformat(string, (), ChainMap(variables, names, self.rule.workflow.globals))
            except Exception:
                # Anything unusual, and the words for a mistake.
                return str(original(self, string, **variables))
            if dry:
                last = (self, string, text)
            return str(text)

        return format_wildcards

    swaps.method(jobs.Job, "format_wildcards", made)


class _Names(dict[str, Any]):
    """What messages and commands may name of their job, looked up when it is named."""

    def __init__(self, job: Any) -> None:
        super().__init__(name=job.name, rule=job.rule.name, rulename=job.rule.name, bench_iteration=None)
        self.job = job

    def __missing__(self, name: str) -> Any:
        if name == "wildcards":
            return self.job._format_wildcards
        if name in ("input", "output", "params", "threads", "resources", "log", "jobid"):
            return getattr(self.job, name)
        raise KeyError(name)


def _tell_only_who_listens() -> None:
    """In a dry run, word a job for the log only if a handler takes it; one that reads jobs is given the job itself."""
    from snakemake import jobs
    from snakemake.logging import logger

    def made(original: Any) -> Any:
        worded: set[Any] = set()
        known: tuple[list[Any], list[Any]] = ([], [])

        def log_info(self: Any, *arguments: Any, **options: Any) -> None:
            nonlocal known
            if not self.dag.workflow.dryrun or self.rule.is_checkpoint or self.rule.is_handover:
                original(self, *arguments, **options)
                return
            if known[0] != logger.handlers:
                known = (list(logger.handlers), list(filter(_takes_jobs, logger.handlers)))
            if not all(hasattr(handler, TAKES_JOB) for handler in known[1]):
                original(self, *arguments, **options)
                return
            if self.rule not in worded:
                # A mistake in the texts of a rule ends a dry run, read or not.
                worded.add(self.rule)
                _ = self.message, self.shellcmd
            for handler in known[1]:
                getattr(handler, TAKES_JOB)(self)

        return log_info

    swaps.method(jobs.Job, "log_info", made)


def _takes_jobs(handler: logging.Handler) -> bool:
    """Whether a log handler lets records about jobs through."""
    from snakemake_interface_logger_plugins.common import LogEvent

    for event in (LogEvent.JOB_INFO, LogEvent.SHELLCMD):
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, "", None, None)
        record.event = event
        if handler.level <= logging.INFO and handler.filter(record):
            return True
    return False


def _skip_what_a_dry_run_does_not_use() -> None:
    """Work out once per rule what its jobs take of the machine; check the paths of log and benchmark by making them."""
    from snakemake import jobs
    from snakemake.scheduling import job_scheduler

    def freeing(original: Any) -> Any:
        seen: set[Any] = set()

        def _free_resources(self: Any, job: Any) -> None:
            if not self.dryrun or job.is_group():
                original(self, job)
            elif job.rule not in seen:
                seen.add(job.rule)
                original(self, job)

        return _free_resources

    def checking(original: Any) -> Any:
        def is_valid(self: Any) -> None:
            if not self.dag.workflow.dryrun:  # for which they were made when the job was found
                _ = self.benchmark, self.log

        return is_valid

    swaps.method(job_scheduler.JobScheduler, "_free_resources", freeing)
    swaps.method(jobs.Job, "is_valid", checking)
