"""The report's parts about checkpoints: why one was chosen, and every sample side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from charloom.report import pictures
from charloom.report.curves import METRICS
from charloom.report.gather import Material
from charloom.report.grid import comparison_grid, short

SAMPLES_BUDGET = 2_400_000
"""Characters of all embedded samples together; with the 700 000 of the data set the page stays below 4 MB."""

_EXPLAINED = {
    "identity": "Identity 1 means as similar to the character as its own pictures are to each other.",
    "obedience": "Obedience is the share of what the prompts ask for that is drawn.",
    "bleed": "Bleed is the share of opportunities to copy the training pictures that were taken; 0 is best.",
    "detail": "Detail is sharpness relative to the training pictures.",
}


def verdicts(m: Material) -> dict[str, Any]:
    """What the choice says of each checkpoint: ``metrics``, ``rows`` and a ``note`` that explains the metrics."""
    found = m.choice.get("verdicts", ())
    scored = [key for key in METRICS if any((v.get("scores") or {}).get(key) is not None for v in found)]
    rows = []
    if m.choice.get("base"):
        rows.append(_verdict("Base alone", m.choice["base"], scored, {}))
    for verdict in found:
        row = _verdict(f"Step {verdict['step']}", verdict.get("scores") or {}, scored, verdict)
        rows.append(row | {"chosen": verdict["step"] == m.choice["step"]})
    return {
        "metrics": [METRICS[key] for key in scored],
        "rows": rows,
        "note": " ".join(text for key, text in _EXPLAINED.items() if key in scored),
    }


def _verdict(
    name: str, scores: Mapping[str, Any], metrics: Sequence[str], verdict: Mapping[str, Any]
) -> dict[str, Any]:
    word = verdict.get("verdict", "")
    marks = {True: "good", False: "bad", None: ""}
    return {
        "name": name,
        "chosen": False,
        "verdict": word,
        "kind": {"good": "good", "not fully scored": "", "not sampled": ""}.get(word, "bad"),
        "values": [(METRICS[key], scores.get(key)) for key in metrics],
        "reasons": [(marks[reason["good"]], reason["text"]) for reason in verdict.get("reasons", ())],
    }


def samples(m: Material) -> dict[str, Any]:
    """Every sample: the checkpoints as ``columns``, the prompts as ``rows`` with a cell per checkpoint."""
    steps = _sampled(m)
    embedded = pictures.embed((path for step in steps for path in m.samples[step].values()), SAMPLES_BUDGET)
    chosen = m.choice["step"]
    rows = []
    for prompt in m.prompts:
        cells = []
        for step in steps:
            path = m.samples[step].get(prompt.name)
            picture = {"source": embedded[path], **_words(m, step, prompt.name, prompt.text)} if path else None
            cells.append({"chosen": step == chosen, "picture": picture})
        rows.append({"name": prompt.name, "words": short(prompt.text, m.trigger), "cells": cells})
    return {"columns": [{"name": _name(step), "chosen": step == chosen} for step in steps], "rows": rows}


def grid(m: Material) -> Image.Image:
    """The same comparison as one picture; white where there are no samples."""
    steps = _sampled(m)
    if not steps:
        return Image.new("RGB", (256, 256), "white")
    chosen = m.choice["step"]
    return comparison_grid(
        [(prompt.name, short(prompt.text, m.trigger)) for prompt in m.prompts],
        [(_name(step), [m.samples[step].get(p.name) for p in m.prompts]) for step in steps],
        chosen=steps.index(chosen) if chosen in steps else None,
        title=f"{m.name}: prompts by checkpoint",
    )


def _sampled(m: Material) -> list[int]:
    return [step for step in sorted(m.samples) if m.samples[step]]


def _name(step: int) -> str:
    return f"step {step}" if step else "base alone"


def _words(m: Material, step: int, prompt: str, text: str) -> dict[str, str]:
    """What is written about one sample: in short (``scores``, ``misses``), and ``words`` beside its enlargement."""
    document = m.scores.get(step, {})
    values = {r["metric"]: r["value"] for r in document.get("rows", ()) if r["prompt"] == prompt}
    parts = [
        ("identity", values.get("identity_relative", values.get("identity"))),
        ("prompt", values.get("obedience")),
    ]
    scores = " · ".join(f"{name}\N{NO-BREAK SPACE}{value:.2f}" for name, value in parts if value is not None)
    misses = "; ".join(document.get("misses", {}).get(prompt, ()))
    words = "\n".join(filter(None, [f"{prompt}, {_name(step)}: {text}", scores, misses]))
    return {"name": f"Prompt {prompt}, {_name(step)}", "scores": scores, "misses": misses, "words": words}
