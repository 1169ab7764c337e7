"""What a run was made with, as its states record it, and what is said when it goes on with something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from charloom.engine.engine import FAILED
from charloom.engine.options import EngineOptions


def taken_over(options: EngineOptions, made: Mapping[str, Any]) -> EngineOptions:
    """``options`` without what did not work when the run was made: it goes on as it began, even if it works now."""
    return replace(options, compile=options.compile and made.get("compile") != FAILED)


def facts(now: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded: ``now``, except that what was taken over stays what it was."""
    return {**now, "compile": now["compile"] or (FAILED if made.get("compile") == FAILED else False)}


def differences(made: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One line on what is not as it was, None if nothing is (or nothing is known, of states of earlier versions)."""
    names = [name for name in sorted({*made, *now}) if made.get(name) != now.get(name)]
    if not made or not names:
        return None
    changed = [f"{name} {made.get(name)} (now {now.get(name)})" for name in names]
    return f"this run was begun with {', '.join(changed)}: what follows is as good, but not the same to the last bit"
