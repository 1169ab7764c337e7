"""Plans many thousand jobs in half the time: what Snakemake computes anew for every job and file is computed once.

Some costs of a plan grow with the number of jobs and have nothing to do with the jobs themselves. Python's garbage
collector walks through all of them again and again although none is garbage. ``inspect.signature`` is called several
times per file for the same few functions. Each message and command is formatted with several copies of all names of the
workflow, whether anybody reads it or not. :mod:`charloom.planning.graph` does the same for files and lists,
:mod:`charloom.planning.memory` for memory. Plans stay the same, line by line (``tests/workflow/test_lean.py``). A
release of Snakemake outside the supported range, or any with ``CHARLOOM_PLAN=plain``, is left as it is.
``benchmarks/planning.py`` measures the gain.
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
"""The releases of Snakemake that this is for; some functions of earlier ones take other arguments."""

COLLECT_AFTER = 500_000
"""The collector runs after this many new objects; Python's default is 700."""

LONGEST_MEMORY = 10_000
"""Most functions whose parameters are remembered: input functions that create functions must not fill the memory."""

TAKES_JOB = "takes_job"
"""Method of a log handler that wants the jobs of a dry run as they are, instead of records with all their texts."""


def plan_lean() -> None:
    """Apply all of it to this process; may be called again."""
    if os.environ.get("CHARLOOM_PLAN") == "plain" or not OLDEST <= _release() < BELOW:
        return
    from charloom.planning import graph, memory, running

    gc.set_threshold(COLLECT_AFTER, 50, 1000)
    gc.freeze()  # modules and rules: never garbage
    # Nor is the plan, which Python would search once more at exit.
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
    """Remember the parameters of functions; a workflow has a few dozen."""
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
    """Look names up in place, and format a command once although Snakemake asks for it three times in a row."""
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
                # Anything unusual; and mistakes are worded by Snakemake.
                return str(original(self, string, **variables))
            if dry:
                last = (self, string, text)
            return str(text)

        return format_wildcards

    swaps.method(jobs.Job, "format_wildcards", made)


class _Names(dict[str, Any]):
    """The names that messages and commands may use, looked up in the job when they are used."""

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
    """In a dry run, format a job only if a log handler wants the text; one that reads jobs gets the job itself."""
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
                # A mistake in the texts of a rule ends a dry run, whether they are shown or not.
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
    """Free the resources of one job per rule, and do not check again the paths of logs and benchmarks."""
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
