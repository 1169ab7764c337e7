"""The charts of a run: scores, training loss, loss on held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from charloom.core.records import thin
from charloom.report.charts import Chart, Line
from charloom.report.gather import Material

METRICS = {"identity": "Identity", "style": "Style", "obedience": "Obedience", "bleed": "Bleed", "detail": "Detail"}


def scores(m: Material) -> list[Chart]:
    """Scores by checkpoint, with the base alone at step 0; sharpness only if nothing else was scored."""
    points = [(0, m.choice["base"])] if m.choice.get("base") else []
    points += [(v["step"], v["scores"]) for v in m.choice.get("verdicts", ()) if v.get("scores")]
    lines = []
    for key, color in (("identity", "c0"), ("style", "c0"), ("obedience", "c1"), ("bleed", "c2"), ("detail", "c3")):
        values = [(step, found[key]) for step, found in points if found.get(key) is not None]
        if values and (key != "detail" or not lines):
            lines.append(Line(METRICS[key], values, color))
    if not lines:
        return []
    values = [y for line in lines for _, y in line.points]
    steps = [step for step, _ in points]
    return [
        Chart(
            "scores",
            "Scores by checkpoint",
            lines,
            y_range=(min(0.0, *values), max(1.0, *(1.02 * y for y in values))),
            x_ticks=steps if len(steps) <= 14 else None,
            mark=m.choice["step"],
        )
    ]


def loss(m: Material) -> list[Chart]:
    """Training loss with the trainer's running mean, and the loss on held-out images if there are any."""
    found = []
    curve, smoothed = ({x: y for x, y in points if math.isfinite(y)} for points in (m.loss, m.smoothed))
    if curve:
        lines = [Line("Loss", thin(curve), "c3", faint=True, dots=False)]
        lines += [Line("Smoothed", thin(smoothed), "c1", dots=False)] if smoothed else []
        y_range = _without_outliers(list(curve.values()))
        found.append(Chart("loss", "Training loss", lines, y_range=y_range, mark=m.choice["step"]))
    if m.holdout:
        lines = [
            Line("With the LoRA", [(step, on) for step, on, _ in m.holdout], "c1"),
            Line("Base alone", [(step, off) for step, _, off in m.holdout], "c3"),
        ]
        found.append(Chart("held-out", "Loss on held-out images", lines, mark=m.choice["step"]))
    return found


def _without_outliers(values: Sequence[float]) -> tuple[float, float]:
    """Axis limits that show the middle 99 % of the values, with a margin."""
    low, high = np.quantile(values, [0.005, 0.995])
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
