"""What a run was started with, as recorded in its states, and the warning when it resumes with something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from charloom.engine.engine import FAILED
from charloom.engine.options import EngineOptions
from charloom.train.settings import Optimisation

SAMPLES = "samples"
"""A fact that is recorded only where samples of a batch are computed one by one, so that other states stay the same."""


def taken_over(options: EngineOptions, made: Mapping[str, Any]) -> EngineOptions:
    """``options`` without what did not work when the run was started: it continues as it began."""
    return replace(options, compile=options.compile and made.get("compile") != FAILED)


def one_by_one(settings: Optimisation, made: Mapping[str, Any], processes: int) -> bool:
    """Whether the samples of a batch are computed apart: by several processes, or because the run began that way.

    Grouping samples changes rounding; this way, a run that several GPUs began gives the same bytes on one.
    """
    return settings.batch_size > 1 and (processes > 1 or SAMPLES in made)


def facts(now: Mapping[str, Any], made: Mapping[str, Any], apart: bool = False) -> dict[str, Any]:
    """The facts to record: ``now``, but a part that failed when the run was started stays recorded as failed.

    ``apart`` is what :func:`one_by_one` says.
    """
    samples = {SAMPLES: "one by one"} if apart else {}
    return {**now, "compile": now["compile"] or (FAILED if made.get("compile") == FAILED else False), **samples}


def differences(made: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One line on what has changed; None if nothing has, or if the state is too old to say."""
    names = [name for name in sorted({*made, *now}) if made.get(name) != now.get(name)]
    if not made or not names:
        return None
    usual = {SAMPLES: "in batches"}
    changed = [f"{n} {made.get(n, usual.get(n))} (now {now.get(n, usual.get(n))})" for n in names]
    return f"this run was started with {', '.join(changed)}: results are as good, but not identical to the last bit"
