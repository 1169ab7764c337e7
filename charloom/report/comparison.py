"""The report's samples: every checkpoint side by side, as part of the page and as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from charloom.core.layout import Results
from charloom.report import pictures
from charloom.report.gather import Material
from charloom.report.grid import comparison_grid, open_rgb, short
from charloom.report.judgement import values_of

SAMPLES_BUDGET = 9_000_000
"""Characters of all embedded samples together; with data set and strengths the page stays below 15 MB."""


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
            cells.append({"name": _name(step), "chosen": step == chosen, "picture": picture})
        rows.append({"name": prompt.name, "words": short(prompt.text, m.trigger), "cells": cells})
    return {
        "columns": [{"name": _name(step), "chosen": step == chosen} for step in steps],
        "rows": rows,
        "without": bool(steps) and steps[0] == 0,
        "sides": _sides(steps, chosen),
    }


def _sides(steps: Sequence[int], chosen: int) -> tuple[int, int] | None:
    """Columns that the slider compares first: the base alone or a neighbour (left), the chosen checkpoint (right)."""
    if len(steps) < 2:
        return None
    right = steps.index(chosen) if chosen in steps else len(steps) - 1
    left = 0 if steps[0] == 0 and right else (right - 1 if right else 1)
    return left, right


def grid(m: Material) -> Image.Image:
    """Draw the same comparison as one picture; it is plain white if there are no samples."""
    steps = _sampled(m)
    if not steps:
        return Image.new("RGB", (256, 256), "white")
    chosen = m.choice["step"]
    paths = list(dict.fromkeys(path for step in steps for path in m.samples[step].values()))
    opened = dict(zip(paths, pictures.each(open_rgb, paths), strict=True))
    return comparison_grid(
        [(prompt.name, short(prompt.text, m.trigger)) for prompt in m.prompts],
        [(_name(step), [opened.get(m.samples[step].get(p.name)) for p in m.prompts]) for step in steps],
        chosen=steps.index(chosen) if chosen in steps else None,
        title=f"{m.name}: prompts by checkpoint",
    )


def _sampled(m: Material) -> list[int]:
    return [step for step in sorted(m.samples) if m.samples[step]]


def _name(step: int) -> str:
    return f"step {step}" if step else "without LoRA"


def _words(m: Material, step: int, prompt: str, text: str) -> dict[str, str]:
    """The text about one sample: short (``scores``, ``misses``), and ``words`` below the enlarged picture."""
    document = m.scores.get(step, {})
    values = values_of(document, prompt)
    parts = [
        ("identity", values.get("identity_relative", values.get("identity"))),
        ("style", values.get("style")),
        ("prompt", values.get("obedience")),
    ]
    scores = " · ".join(f"{name}\N{NO-BREAK SPACE}{value:.2f}" for name, value in parts if value is not None)
    misses = "; ".join(document.get("misses", {}).get(prompt, ()))
    words = "\n".join(filter(None, [f"{prompt}, {_name(step)}: {text}", scores, misses]))
    return {
        "name": f"Prompt {prompt}, {_name(step)}",
        "file": Results("").sample(step, prompt).as_posix(),
        "scores": scores,
        "misses": misses,
        "words": words,
    }
