"""What a run was started with, as recorded in its states, and the warning when it resumes with something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from charloom.engine.engine import FAILED
from charloom.engine.options import EngineOptions


def taken_over(options: EngineOptions, made: Mapping[str, Any]) -> EngineOptions:
    """``options`` without what did not work when the run was started: it continues as it began."""
    return replace(options, compile=options.compile and made.get("compile") != FAILED)


def facts(now: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """The facts to record: ``now``, but a part that failed when the run was started stays recorded as failed."""
    return {**now, "compile": now["compile"] or (FAILED if made.get("compile") == FAILED else False)}


def differences(made: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One line on what has changed; None if nothing has, or if the state is too old to say."""
    names = [name for name in sorted({*made, *now}) if made.get(name) != now.get(name)]
    if not made or not names:
        return None
    changed = [f"{name} {made.get(name)} (now {now.get(name)})" for name in names]
    return f"this run was started with {', '.join(changed)}: results are as good, but not identical to the last bit"
