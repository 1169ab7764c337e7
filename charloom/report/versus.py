"""Compares a finished character with its previous version: the same prompts and seeds, drawn by both, with scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from charloom.core import numbers
from charloom.core.words import several
from charloom.report import pictures
from charloom.report.curves import METRICS
from charloom.report.grid import short
from charloom.report.templating import render

BUDGET = 9_000_000
"""Characters of all embedded pictures together."""
WORDS = {"strangers": "share that shows somebody else"}
COUNTS = ("step", "samples", "portraits", "blank", "faceless")
"""Counts in a summary of scores, which are no metrics."""
SAME = ("text", "seed", "scale", "width", "height")
"""Keys that must be equal for two pictures to be shown as a pair."""


def page(now: Mapping[str, Any], before: Mapping[str, Any] | None, picture: Callable[[str], Path]) -> str:
    """The page as text.

    Args:
        now, before: records of :mod:`charloom.workflow.history`; without ``before`` the page says in one line that
            there is nothing to compare with.
        picture: the file of a picture by its digest.
    """
    if before is None:
        return render("versus.html.j2", name=now["name"], before=None, facts=[], scores=[], pairs=[], notes=[])
    pairs, notes = _pairs(now, before, picture)
    embedded = pictures.embed([path for pair in pairs for path in pair["paths"] if path], BUDGET)
    for pair in pairs:
        pair["pictures"] = [embedded[path] if path else None for path in pair.pop("paths")]
    return render(
        "versus.html.j2",
        name=now["name"],
        before=before,
        facts=_facts(now, before),
        scores=_scores(now, before),
        pairs=pairs,
        notes=notes,
    )


def _facts(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    def of(one: Mapping[str, Any]) -> dict[str, str]:
        base = one["base"]
        return {
            "base": f"{base['name']} ({base['source']})",
            "revision": str(base.get("revision") or "local files"),
            "transformer": base["transformer"][:12],
            "shipped step": str(one["step"]),
            "sampler": f"{one.get('steps')} steps, guidance {one.get('guidance', 1):g}",
            "file (sha256)": one["final"][:12],
        }

    old, new = of(before), of(now)
    return [{"what": key, "before": old[key], "now": new[key], "same": old[key] == new[key]} for key in new]


def _scores(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    old, new = before.get("scores") or {}, now.get("scores") or {}
    rows = []
    known = [*METRICS, *sorted({*old, *new} - {*METRICS, *COUNTS})]
    for metric in [metric for metric in known if metric in old or metric in new]:
        both = metric in old and metric in new
        rows.append(
            {
                "metric": WORDS.get(metric, metric).replace("_", " "),
                "before": numbers.apart(old[metric])[0] if metric in old else "not scored",
                "now": numbers.apart(new[metric])[0] if metric in new else "not scored",
                "change": _change(new[metric] - old[metric]) if both else "",
            }
        )
    return rows


def _change(difference: float) -> str:
    return "none" if abs(difference) < 0.0005 else f"{difference:+.3f}"


def _pairs(
    now: Mapping[str, Any], before: Mapping[str, Any], picture: Callable[[str], Path]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Pairs of pictures with the same prompt, seed, strength and size; and what cannot be paired, in words."""

    def drawn(one: Mapping[str, Any]) -> dict[tuple[Any, ...], Path]:
        paths = {p["name"]: picture(sha) for p in one["prompts"] if (sha := one["pictures"].get(p["name"]))}
        return {
            tuple(prompt.get(key) for key in SAME): paths[prompt["name"]]
            for prompt in one["prompts"]
            if prompt["name"] in paths and paths[prompt["name"]].is_file()
        }

    old, new = drawn(before), drawn(now)
    pairs = [
        {
            "words": short(key[0], now["trigger"]),
            "details": f"seed {key[1]}, strength {key[2]:g}, {key[3]} × {key[4]}",
            "paths": [old[key], path],
        }
        for key, path in new.items()
        if key in old
    ]
    notes = []
    for only, others, when in ((new, old, "now"), (old, new, "before")):
        if count := len(only.keys() - others.keys()):
            notes.append(f"{several(count, 'picture')} drawn {when} alone: another prompt, seed, strength or size.")
    if not pairs:
        notes.insert(0, "No prompt was drawn by both with the same seed, strength and size.")
    return pairs, notes
