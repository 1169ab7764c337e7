"""Recommends a strength for the chosen checkpoint, from its scores at several strengths.

Standard library only; independent of the back end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charloom.judge.summary import Summary, summarise

NOISE = 0.03
"""Relative differences up to this are noise: the sweep has a few prompts with one seed each."""
FULL = 1.0
_METRICS = ("identity", "obedience", "bleed", "detail")


def recommend(documents: Mapping[float, Mapping[str, Any]], step: int) -> dict[str, Any]:
    """Make the content of ``strengths.json``, except what is known about the character.

    Args:
        documents: by strength, the scores of the checkpoint's pictures at it (``charloom.judge.backend.score``).
        step: the checkpoint.

    Returns:
        Plain values: ``step``; ``recommended``, a strength, or None if too little was scored; ``why``, lines of text;
        ``strengths``, in ascending order, each with ``strength``, the means ``identity``, ``obedience``,
        ``bleed``, ``detail`` of those that were scored, ``overall`` (identity x obedience x (1 - bleed)) and ``misses``
        (words by prompt); ``backend`` and ``weights`` of the judge; ``not_scored``.
    """
    summaries = {strength: _summary(document) for strength, document in sorted(documents.items())}
    rows = []
    for strength, summary in summaries.items():
        scored = {name: round(v, 4) for name in _METRICS if (v := getattr(summary, name)) is not None}
        overall = {"overall": round(summary.overall, 4)} if summary.overall is not None else {}
        misses = documents[strength].get("misses", {})
        rows.append({"strength": strength, **scored, **overall, "misses": misses})
    first = next(iter(documents.values()), {})
    recommended, why = _pick(summaries)
    return {
        "step": step,
        "recommended": recommended,
        "why": why,
        "strengths": rows,
        "backend": first.get("backend", ""),
        "weights": first.get("weights", ""),
        "not_scored": [name for name in _METRICS if not any(name in row for row in rows)],
    }


def _summary(document: Mapping[str, Any]) -> Summary:
    rows = [{**row, "step": document["step"]} for row in document["rows"]]
    return summarise(rows).get(document["step"], Summary(document["step"], 0))


def _pick(summaries: Mapping[float, Summary]) -> tuple[float | None, list[str]]:
    """The strength with the best overall score; among those within the noise, the one nearest to full strength."""
    known = {strength: s for strength, s in summaries.items() if not s.blank}
    if not known:
        return None, ["Nothing was drawn at any strength." if not summaries else "The samples are blank."]
    silent = [name for name in ("identity", "obedience") if all(getattr(s, name) is None for s in known.values())]
    if silent:
        return None, [f"Not scored: {' and '.join(silent)}. Take the highest strength that still obeys, by eye."]
    overall = {strength: s.overall or 0.0 for strength, s in known.items()}
    best = max(overall, key=lambda strength: (overall[strength], strength))
    if overall[best] <= 0.0:
        return None, ["No strength is of use: at all of them identity or obedience is 0, or everything is copied."]
    alike = [strength for strength, value in overall.items() if value >= overall[best] * (1.0 - NOISE)]
    chosen = min(alike, key=lambda strength: (abs(strength - FULL), -strength))
    why = [f"At {chosen:g}: {_words(known[chosen])}."]
    if chosen != best:
        why.append(
            f"{best:g} scores {overall[best]:.2f} overall against {overall[chosen]:.2f}, which is within the noise."
        )
    why += _against(known, chosen)
    return chosen, why


def _against(known: Mapping[float, Summary], chosen: float) -> list[str]:
    """What is lost at lower and at higher strengths."""
    lines = []
    low, high = min(known), max(known)
    if low < chosen:
        lines.append(f"At {low:g}: {_words(known[low])}.")
    if high > chosen:
        lines.append(f"At {high:g}: {_words(known[high])}.")
    return lines


def _words(summary: Summary) -> str:
    parts: Sequence[tuple[str, float | None]] = [(name, getattr(summary, name)) for name in _METRICS[:3]]
    return ", ".join(f"{name} {value:.2f}" for name, value in parts if value is not None)
