"""Drift: what the LoRA does to prompts that are not its own, and whether Turbo is still Turbo.

Rows of the score table go in, warnings come out. Two kinds of previews tell, beside the ordinary ones: the first
prompts with a class word in place of the trigger (``01-class``), and at many sampler steps (``01-steps``). A prompt that never had the trigger tells as well.

* ``leak.identity``: how much of the character's identity shows without the trigger.
* ``drift.steps``: identity at many steps less identity at the usual ones. A distilled model needs no more steps; where
  they help, it has lost its distillation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from charloom.judge.backend import LEAK
from charloom.judge.summary import Limits

STEPS = "drift.steps"


def warnings(rows: Sequence[Mapping[str, Any]], step: int, limits: Limits) -> tuple[list[str], list[str]]:
    """Warnings about the checkpoint ``step``, with their evidence, and advice. Empty where nothing was measured."""
    found, advice = [], []
    own, base = _values(rows, step, LEAK), _values(rows, 0, LEAK)
    gains = {prompt: value - base.get(prompt, 0.0) for prompt, value in own.items()}
    if gains and (gain := fmean(gains.values())) > limits.leak:
        worst = max(gains, key=lambda prompt: gains[prompt])
        found.append(
            f"The trigger leaks: without it, {len(gains)} prompts show {gain:.2f} of the character's identity "
            f"{'more than the base alone' if base else '(the base alone was not drawn)'} (most: {worst})."
        )
        advice += [
            "Turn on recipe.train.preservation.differential, or add a regularisation set of other people.",
            "Or take an earlier checkpoint, or a strength of 0.8.",
        ]
    steps = _values(rows, step, STEPS)
    if steps and (gain := fmean(steps.values())) > limits.steps_gain:
        found.append(
            f"Turbo needs more steps than before: many steps bring {gain:.2f} more identity than the usual ones."
        )
        advice.append("Train with the training adapter (recipe.training_adapter), or take an earlier checkpoint.")
    return found, advice


def _values(rows: Sequence[Mapping[str, Any]], step: int, metric: str) -> dict[str, float]:
    """Values of a metric by prompt."""
    return {
        str(row["prompt"]): float(row["value"]) for row in rows if int(row["step"]) == step and row["metric"] == metric
    }
