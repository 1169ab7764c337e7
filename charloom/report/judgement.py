"""The report's words about the choice: verdicts, why not another checkpoint, what failed, what was not scored.

It accepts whatever a judge has measured: metrics that the page does not know are shown under their own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from charloom.core import numbers
from charloom.core.layout import Results
from charloom.report.curves import METRICS
from charloom.report.gather import Material

_EXPLAINED = {
    "identity": "Identity 1 means as similar to the character as its own pictures are to each other.",
    "style": "Style 0 is as the base alone draws, 1 is as drawn in the style's own pictures.",
    "obedience": "Obedience is the share of what the prompts ask for that is drawn.",
    "bleed": "Bleed is the share of opportunities to copy the training pictures that were taken; 0 is best.",
    "detail": "Detail is sharpness relative to the training pictures.",
}
_LESS_IS_BETTER = {"bleed"}
_REMEDIES = {
    "identity": "Identity needs a judge that knows faces",
    "obedience": "Obedience needs a judge that reads the prompt",
    "bleed": "Bleed needs a judge that compares previews with the training pictures",
}
STRANGER = 0.65
"""Identity below which a preview shows somebody else, if the choice has no limit of its own."""
SAME = 0.005
"""Smaller differences of scores do not show in two decimals, and mean nothing."""


def verdicts(m: Material) -> dict[str, Any]:
    """What the choice says about each checkpoint: ``metrics``, ``rows`` and a ``note`` that explains the metrics."""
    found = m.choice.get("verdicts", ())
    base = m.choice.get("base")
    everything = [*([base] if base else []), *((v.get("scores") or {}) for v in found)]
    scored = [key for key in METRICS if any(values.get(key) is not None for values in everything)]
    places = {key: numbers.decimals(values.get(key) for values in everything) for key in scored}
    rows = []
    if base:
        rows.append(_verdict("Base alone", base, places, {}))
    for verdict in found:
        row = _verdict(f"Step {verdict['step']}", verdict.get("scores") or {}, places, verdict)
        rows.append(row | {"chosen": verdict["step"] == m.choice["step"]})
    return {
        "metrics": [METRICS[key] for key in scored],
        "rows": rows,
        "note": " ".join(text for key, text in _EXPLAINED.items() if key in scored),
    }


def _verdict(
    name: str, scores: Mapping[str, Any], places: Mapping[str, int], verdict: Mapping[str, Any]
) -> dict[str, Any]:
    word = verdict.get("verdict", "")
    marks = {True: "good", False: "bad", None: ""}
    texts = {key: None if scores.get(key) is None else f"{scores[key]:.{n}f}" for key, n in places.items()}
    return {
        "name": name,
        "chosen": False,
        "verdict": word,
        "kind": {"good": "good", "not fully scored": "", "not sampled": ""}.get(word, "bad"),
        "values": [(METRICS[key], text) for key, text in texts.items()],
        "reasons": [(marks[reason["good"]], reason["text"]) for reason in verdict.get("reasons", ())],
    }


def others(m: Material) -> list[str]:
    """Why other good checkpoints, even better ones, were not chosen; one line for each not explained by the choice."""
    step, found = m.choice["step"], m.choice.get("verdicts", ())
    own = next((v.get("scores") or {} for v in found if v["step"] == step), {})
    lines = []
    for verdict in found:
        said = any(re.search(rf"\bStep {verdict['step']}\b", line) for line in m.choice.get("why", ()))
        if verdict["step"] == step or verdict.get("verdict") != "good" or said:
            continue
        lines.append(f"Step {verdict['step']} is good too{_compared(verdict.get('scores') or {}, own)}")
    if lines and m.choice.get("how") == "rule":
        lines.append("Of good checkpoints the latest is taken: small differences between them are chance.")
    return lines


def _compared(scores: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """ ": identity 0.916 (higher; 0.912 at the chosen step), the same obedience."; a full stop without scores."""
    parts = []
    for key in ("identity", "obedience", "bleed"):
        here, there = scores.get(key), own.get(key)
        if here is None or there is None:
            continue
        name = METRICS[key].lower()
        if abs(here - there) < SAME:
            parts.append(f"about the same {name}")
            continue
        here_text, there_text = numbers.apart(here, there)
        better = (here < there) if key in _LESS_IS_BETTER else (here > there)
        parts.append(f"{name} {here_text} ({'better' if better else 'worse'} than {there_text})")
    return f": {', '.join(parts)}." if parts else "."


def failures(m: Material) -> list[dict[str, Any]]:
    """The faulty previews of the chosen step: a ``prompt``, its ``file``, and ``faults`` in words."""
    step = m.choice["step"]
    document = m.scores.get(step, {})
    limits = m.choice.get("limits") or {}
    lowest = limits.get("stranger", STRANGER) if isinstance(limits, Mapping) else STRANGER
    found = []
    for prompt in m.prompts:
        values = values_of(document, prompt.name)
        faults = list(document.get("misses", {}).get(prompt.name, ()))
        identity = values.get("identity_relative")
        if identity is not None and identity < lowest:
            below, limit = numbers.apart(identity, lowest)
            faults.append(f"shows somebody else: identity {below}, below {limit}")
        faults += [
            f"copied from the training pictures: {metric.partition('.')[2]}"
            for metric, value in values.items()
            if metric.startswith("bleed.") and value >= 0.5 and not any(fault.startswith("copy:") for fault in faults)
        ]
        if faults:
            path = m.samples.get(step, {}).get(prompt.name)
            link = Results("").sample(step, prompt.name).as_posix() if path else ""
            found.append({"prompt": prompt.name, "text": prompt.text, "file": link, "faults": faults})
    return found


def passed(m: Material) -> str:
    """What may be said where nothing failed at the chosen step: only what was measured."""
    document = m.scores.get(m.choice["step"], {})
    measured = {row["metric"] for row in document.get("rows", ())}
    identity, obedience = "identity_relative" in measured, "obedience" in measured
    if not identity and not obedience:
        return "Neither who is shown nor what prompts ask for was scored: compare the previews by eye."
    first = ("is drawn in the style" if m.kind == "style" else "shows the character") if identity else ""
    second = f"{'' if first.startswith('shows') else 'shows '}what its prompt asks for" if obedience else ""
    return f"Nothing that was scored: every preview {' and '.join(filter(None, (first, second)))}."


def values_of(document: Mapping[str, Any], prompt: str) -> dict[str, float]:
    """The values of one prompt, by metric."""
    return {row["metric"]: row["value"] for row in document.get("rows", ()) if row["prompt"] == prompt}


def unscored(m: Material) -> list[tuple[str, str]]:
    """What was not scored, and why and how to get it scored.

    If the judge explains it, it is quoted: ``remedies`` of a score document (lines that begin with a metric), or the
    reasons in ``not_scored`` (see :func:`reasons`). Otherwise the text says what kind of judge is needed.
    """
    found: dict[str, str] = {}
    documents = [m.choice, *m.scores.values()]
    for document in documents:
        for name, reason in reasons(document.get("not_scored")):
            if reason or name not in found:
                found[name] = reason
    for line in _lines(documents, "remedies"):
        name = re.split(r"[ :]", line, maxsplit=1)[0]
        found[name] = line.removeprefix(f"{name}: ").removeprefix(f"{name} is not scored; ")
    if "identity" in found:
        found.pop("identity_relative", None)  # the same on another scale
    judges = sorted({str(d["backend"]) for d in m.scores.values() if d.get("backend")})
    judge = f"judge {', '.join(judges)} of this base has none" if judges else "this base has no judge"
    default = "compare the previews by eye, or name another judge in the base's file (judge:)"
    return [
        (name, reason or f"{_REMEDIES.get(name, 'It was not measured')}; {judge}: {default}.")
        for name, reason in found.items()
    ]


def judges(m: Material) -> list[str]:
    """Lines about which instrument measured what, and on how many previews, as far as the judge says."""
    documents = list(m.scores.values())
    chosen = m.scores.get(m.choice["step"], {}).get("coverage") or {}
    covered = [
        f"{metric} was measured on {counts[0]} of {counts[1]} previews of step {m.choice['step']}"
        for metric, counts in chosen.items()
        if isinstance(counts, Sequence) and len(counts) == 2 and counts[0] < counts[1]
    ]
    return [*_lines(documents, "instruments"), *covered, *_lines(documents, "notes")]


def _lines(documents: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The lines under ``key`` of all documents, without duplicates."""
    found = [document.get(key) for document in documents]
    return list(dict.fromkeys(str(line) for lines in found if isinstance(lines, list) for line in lines))


def copied(m: Material) -> dict[str, list[str]]:
    """Training images that previews of the chosen step nearly copy, according to the judge: prompts by image."""
    found: dict[str, list[str]] = {}
    for prompt, misses in (m.scores.get(m.choice["step"], {}).get("misses") or {}).items():
        for miss in misses:
            if str(miss).startswith("copy:"):
                for image in m.images:
                    if re.search(rf"(?<![\w/-]){re.escape(image.name)}(?![\w/-])", str(miss)):
                        found.setdefault(image.name, []).append(prompt)
    return found


def reasons(entry: Any) -> Iterable[tuple[str, str]]:
    """Yield (name, reason) from a judge's ``not_scored``, in any of its forms; the reason is empty if none is given."""
    if isinstance(entry, Mapping):
        for name, reason in entry.items():
            if isinstance(reason, Mapping):
                reason = " ".join(str(value) for value in reason.values())
            elif isinstance(reason, Sequence) and not isinstance(reason, str):
                reason = "; ".join(map(str, reason))
            yield str(name), str(reason or "")
    elif isinstance(entry, Sequence) and not isinstance(entry, str):
        for one in entry:
            if isinstance(one, Mapping):
                name = one.get("metric") or one.get("name") or one.get("what") or "something"
                parts = [str(one[key]) for key in ("reason", "why", "remedy", "text") if one.get(key)]
                yield str(name), " ".join(parts)
            elif isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2:
                yield str(one[0]), str(one[1])
            else:
                yield str(one), ""
