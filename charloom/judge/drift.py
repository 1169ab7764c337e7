"""Drift: how the LoRA affects prompts without its trigger, and whether the base has lost its distillation.

It is measured on two kinds of previews besides the ordinary ones: the first prompts with a class word in place of the
trigger (``01-class``), and at many sampler steps (``01-steps``). Prompts that never had the trigger count as well.

* ``leak.identity``: how much of the character's identity shows without the trigger.
* ``drift.steps``: identity at many steps minus identity at the usual number. A distilled model gains nothing from more
  steps; if it does, it has lost its distillation. ``drift.obedience`` is the same for obedience.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from charloom.judge.backend import LEAK, Backend, Picture
from charloom.judge.summary import Limits

STEPS = "drift.steps"
STEPS_OBEDIENCE = "drift.obedience"


def measure(
    judge: Backend,
    character: str,
    step: int,
    special: Sequence[tuple[Mapping[str, Any], Picture]],
    usual: Mapping[str, Picture],
) -> dict[str, Any]:
    """Score one checkpoint's special previews; the judge must have studied the references.

    ``special``: each preview with ``kind`` (``class`` or ``steps``) and ``of`` (its prompt); ``usual``: the ordinary
    previews of the prompts that are also drawn at many steps.
    """
    readings = judge.measure([picture for _, picture in special] + list(usual.values()))
    ordinary = dict(zip(usual, readings[len(special) :], strict=True))
    rows = []
    for (one, picture), reading in zip(special, readings, strict=False):
        values = {}
        if one["kind"] == "class":
            values = {LEAK: ("identity_relative", reading.values.get("identity_relative"))}
        else:
            before = ordinary[one["of"]].values
            for metric, source in ((STEPS, "identity_relative"), (STEPS_OBEDIENCE, "obedience")):
                if source in before and source in reading.values:
                    values[metric] = (source, reading.values[source] - before[source])
        for metric, (source, value) in values.items():
            if value is not None:
                who = dict(zip(("backend", "weights"), reading.by[source], strict=True)) if source in reading.by else {}
                key = {"prompt": one["name"], "seed": picture.seed, "strength": float(picture.strength)}
                rows.append({**key, "metric": metric, "value": round(float(value), 6), **who})
    shared = {"character": character, "step": step, "backend": judge.name, "weights": judge.weights}
    return {**shared, "rows": rows, "not_scored": [] if rows else [LEAK, STEPS]}


def warnings(rows: Sequence[Mapping[str, Any]], step: int, limits: Limits) -> tuple[list[str], list[str]]:
    """Warnings about the checkpoint ``step``, with evidence, and advice. Empty if nothing was measured.

    If only the last checkpoint was measured, its values stand in for an earlier one, and the warning says so.
    """
    found, advice = [], []
    base = _values(rows, 0, LEAK)
    at, own = _nearest(rows, step, LEAK)
    gains = {prompt: value - base.get(prompt, 0.0) for prompt, value in own.items()}
    if gains and (gain := fmean(gains.values())) > limits.leak:
        worst = max(gains, key=lambda prompt: gains[prompt])
        shown = "1 prompt shows" if len(gains) == 1 else f"{len(gains)} prompts show"
        found.append(
            f"The trigger leaks: without it, {shown} {gain:.2f} of the character's identity "
            f"{'more than the base alone' if base else '(the base alone was not drawn)'} at step {at} (most: {worst})."
        )
        advice += [
            "Turn on recipe.train.preservation.differential, or add a regularisation set of other people.",
            "Or take an earlier checkpoint, or a strength of 0.8.",
        ]
    needed = []
    for metric, what in ((STEPS, "identity"), (STEPS_OBEDIENCE, "obedience")):
        at, gained = _nearest(rows, step, metric)
        if gained and (gain := fmean(gained.values())) > limits.steps_gain:
            needed.append(f"{gain:.2f} more {what}")
    if needed:
        found.append(
            f"Turbo needs more sampler steps than before: many bring {' and '.join(needed)} than the usual ones "
            f"at step {at}."
        )
        advice.append("Train with the training adapter (recipe.training_adapter), or take an earlier checkpoint.")
    return found, advice


def _nearest(rows: Sequence[Mapping[str, Any]], step: int, metric: str) -> tuple[int, dict[str, float]]:
    """The value by prompt at ``step``, or at the first later step that has one; and the last of these steps."""
    found: dict[str, tuple[int, float]] = {}
    for row in sorted(rows, key=lambda row: int(row["step"])):
        if row["metric"] == metric and int(row["step"]) >= max(step, 1):
            found.setdefault(str(row["prompt"]), (int(row["step"]), float(row["value"])))
    return max((at for at, _ in found.values()), default=step), {prompt: value for prompt, (_, value) in found.items()}


def _values(rows: Sequence[Mapping[str, Any]], step: int, metric: str) -> dict[str, float]:
    """The values of a metric, by prompt."""
    return {
        str(row["prompt"]): float(row["value"]) for row in rows if int(row["step"]) == step and row["metric"] == metric
    }
