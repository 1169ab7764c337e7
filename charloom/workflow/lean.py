"""Plans of many thousand jobs in a third less time: what Snakemake computes anew for every job and file, computed once.

Three costs of a dry run grow with the number of jobs and have nothing to do with the jobs themselves. Python's garbage
collector walks through all of them again and again though none is garbage; ``inspect.signature`` is asked several times
per file for the same few functions; and each message and command is formatted with several copies of all the names of
the workflow. Plans stay the same, line by line (``tests/workflow/test_lean.py``). A version of Snakemake that lacks one
of these functions just keeps its own speed. ``benchmarks/planning.py`` measures what it gives.
"""

from __future__ import annotations

import gc
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

COLLECT_AFTER = 500_000
"""New objects after which the collector looks for garbage; 700 by Python's default."""

LONGEST_MEMORY = 10_000
"""Functions whose parameters are remembered; input functions that make functions could otherwise fill the memory."""


def plan_lean() -> None:
    """Apply all three to this process; may be called again."""
    gc.set_threshold(COLLECT_AFTER, 50, 1000)
    gc.freeze()  # modules and rules: never garbage
    _know_signatures()
    _format_without_copies()


def _know_signatures() -> None:
    """Remember the parameters of functions, of which a workflow has some dozens."""
    from snakemake import common

    original = getattr(common, "get_function_params", None)
    if original is None or hasattr(original, "original"):
        return
    known: dict[Any, Mapping[str, Any]] = {}

    def get_function_params(func: Callable[..., Any]) -> Mapping[str, Any]:
        # A bound method is a new object at each access, its function is not.
        key = (getattr(func, "__func__", func), hasattr(func, "__self__"))
        try:
            return known[key]
        except KeyError:
            found = original(func)
            if len(known) < LONGEST_MEMORY:
                known[key] = found
            return found
        except TypeError:  # cannot be hashed
            return original(func)

    get_function_params.original = original  # type: ignore[attr-defined]
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "snakemake"]:
        if getattr(module, "get_function_params", None) is original:
            module.get_function_params = get_function_params  # type: ignore[attr-defined]


def _format_without_copies() -> None:
    """Look names up where they are, and format a command once when it is asked for three times in a row."""
    from snakemake import jobs, utils

    original = getattr(jobs.Job, "format_wildcards", None)
    parts = [getattr(utils, name, None) for name in ("SequenceFormatter", "QuotedFormatter")]
    if original is None or None in parts or hasattr(original, "original"):
        return
    sequences, quoted = parts
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

    format_wildcards.original = original  # type: ignore[attr-defined]
    jobs.Job.format_wildcards = format_wildcards


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
