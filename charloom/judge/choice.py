"""Chooses which checkpoint to ship: the latest one that is both recognisable and flexible.

A checkpoint is *recognisable* when its samples show the character about as well as those of the best. It is
*flexible* when it draws what the prompts ask for about as well as an early checkpoint (or the base alone), does
not copy the training pictures, and has kept its sharpness. Rows of the score table go in; a result of plain values
comes out, with reasons for every checkpoint. Standard library only; independent of the back end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from charloom.core.errors import UserError
from charloom.judge import drift
from charloom.judge.summary import LIMITS, Limits, Summary, summarise
from charloom.judge.verdict import Verdict, judge


def best_by_score(summaries: Mapping[int, Summary], candidates: Sequence[int], number: int) -> list[int]:
    """The ``number`` candidates with the best overall score, in their original order; unscored ones are kept too."""
    scored = {step: s.overall for step in candidates if (s := summaries.get(step)) and s.overall is not None}
    best = sorted(scored, key=lambda step: (-scored[step], -step))[:number]
    return [step for step in candidates if step in best or step not in scored]


def choose(
    rows: Iterable[Mapping[str, Any]],
    candidates: Sequence[int],
    *,
    keep: int | str = "all",
    limits: Limits = LIMITS,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Choose among ``candidates`` (steps) by the score table ``rows``.

    Args:
        rows: rows with the columns of ``table.COLUMNS``; step 0 is the base alone. Steps that are not candidates
            (earlier ones that were not kept) still show how much obedience is possible.
        candidates: the steps that may be chosen, at least one.
        keep: a number, ``all`` or ``score:N``; the latter narrows the candidates to the N best.
        limits: the limits on the judge's scale.
        notes: lines about scores that are missing or were left out; they become warnings.

    Returns:
        Plain values: ``step``, ``how`` (``rule``, ``fallback`` or ``latest``), ``why``, ``warnings``,
        ``advice``, ``verdicts`` per candidate, ``base``, ``not_scored`` and ``limits``.

    Raises:
        UserError: there is no candidate.
    """
    candidates = sorted({step for step in candidates if step > 0})
    if not candidates:
        raise UserError("no checkpoint can be chosen: none was kept; set recipe.save.keep to 4, all or score:4")
    rows = list(rows)
    summaries = summarise(rows, limits)
    if isinstance(keep, str) and keep.startswith("score:"):
        candidates = best_by_score(summaries, candidates, int(keep.removeprefix("score:")))
    verdicts = judge(summaries, candidates, limits)
    step, how, why = _pick(verdicts)
    warnings, advice = _warnings(verdicts, limits)
    for found, remedy in (_lost_prompts(verdicts), drift.warnings(rows, step, limits)):
        warnings += found
        advice += remedy
    warnings += notes
    style = any(one.style is not None for one in summaries.values())
    missing = [
        name
        for name in (("detail",) if style else ("identity", "obedience", "bleed", "detail"))
        if all(v.scores is None or getattr(v.scores, name) is None for v in verdicts)
    ]
    if not any(v.scores for v in verdicts):
        warnings.append("No previews were drawn, so nothing is scored. See what it draws with charloom draw.")
    elif missing:
        warnings.append(f"Not scored: {', '.join(missing)}. Compare the samples by eye.")
    return {
        "step": step,
        "how": how,
        "why": why,
        "warnings": warnings,
        "advice": advice,
        "verdicts": [_values(verdict) for verdict in verdicts],
        "base": _summary(summaries.get(0)),
        "not_scored": missing,
        "limits": asdict(limits),
    }


_BOTH = "both draws the character recognisably and follows the prompts"


def _pick(verdicts: Sequence[Verdict]) -> tuple[int, str, list[str]]:
    """The step, how it was chosen (by the rule or as a fallback), and why."""
    latest = verdicts[-1]
    good = [v for v in verdicts if v.recognisable and v.flexible]
    recognisable = [v for v in verdicts if v.recognisable and v.flexible is not False]
    unopposed = [v for v in verdicts if v.recognisable is None and v.flexible is not False]
    if good:
        chosen, how = good[-1], "rule"
        style = chosen.scores is not None and chosen.scores.style is not None
        draws = "the style clearly and sharply" if style else "the character recognisably and still follows the prompts"
        property_ = f"that draws {draws}"
    elif len(unopposed) == len(verdicts):
        what = "identity was not scored" if any(v.scores for v in verdicts) else "there are no samples to judge"
        return latest.step, "latest", [f"Step {latest.step} is the latest checkpoint; {what}."]
    elif recognisable:
        chosen, how = recognisable[-1], "fallback"
        property_ = "that draws the character recognisably; obedience was not scored"
    elif unopposed:
        chosen, how, property_ = unopposed[-1], "fallback", "with no fault found; identity was not scored"
    else:
        chosen = max(verdicts, key=_compromise)
        style = chosen.scores is not None and chosen.scores.style is not None
        draws = "draws the style clearly and sharply" if style else _BOTH
        why = f"No checkpoint {draws}; step {chosen.step} is the best compromise."
        return chosen.step, "fallback", [why, *chosen.texts()]
    why = [f"Step {chosen.step} is the latest checkpoint {property_}.", *chosen.texts()]
    for verdict in verdicts:
        if verdict.step > chosen.step:
            against = " ".join(verdict.texts(against=True)) or "It was not scored."
            why.append(f"Step {verdict.step} was not chosen ({verdict.word}): {against}")
    return chosen.step, how, why


def _compromise(verdict: Verdict) -> tuple[bool, float, int]:
    """Sort key if no checkpoint is good: not blank, then the overall score, then the later step."""
    scores = verdict.scores
    if scores is None:
        return False, -1.0, verdict.step
    return not scores.blank, scores.overall if scores.overall is not None else -1.0, verdict.step


def _warnings(verdicts: Sequence[Verdict], limits: Limits) -> tuple[list[str], list[str]]:
    """Warnings about the checkpoints as a whole, and advice."""
    warnings, advice = [], []
    scored = [v for v in verdicts if v.scores is not None and v.scores.identity is not None]
    best = max((v.scores.identity for v in scored if v.scores), default=None)
    overfit = [v for v in verdicts if v.flexible is False]
    if len(overfit) == len(verdicts) and not any(v.scores and v.scores.blank for v in verdicts):
        warnings.append("All kept checkpoints look overfit: they no longer follow the prompts.")
        advice += [
            "Keep earlier checkpoints too (recipe.save.keep: all); one of them may be better.",
            "Or train more gently: halve recipe.train.lr (5.0e-5 on the real model).",
            "Or use the file at a strength of 0.7 to 0.8 instead of 1.0.",
        ]
    elif best is not None and best < limits.identity_low:
        warnings.append(
            "All kept checkpoints look undertrained: "
            f"the best identity is {best:.2f} of what the character's own pictures reach."
        )
        advice.append("Train longer: raise recipe.train.steps; finished steps are kept, only the new ones run.")
    elif scored and not any(v.recognisable and v.flexible is not False for v in verdicts):
        warnings.append("The character became recognisable only where the training pictures are copied.")
        advice += [
            "Save more often (recipe.save.every) to find a step in between.",
            "Or vary outfits and backgrounds of the data set more, and name everything that varies in the captions.",
            "Or use a later checkpoint at a strength of 0.7 to 0.8.",
        ]
    elif len(scored) >= 2 and best is not None and best < limits.identity_enough:
        last, before = scored[-1].scores, scored[-2].scores
        rise = (last.identity or 0.0) - (before.identity or 0.0) if last and before else 0.0
        if last and last.identity == best and rise > limits.still_rising and scored[-1].flexible is not False:
            warnings.append(f"Identity still rose by {rise:.2f} in the last interval: more steps may do better.")
            advice.append("Raise recipe.train.steps by a third; finished steps are kept.")
    reached = max((v.scores.style for v in verdicts if v.scores and v.scores.style is not None), default=None)
    if reached is not None and reached < limits.identity_low:
        warnings.append(f"All kept checkpoints look undertrained: the style is reached to {reached:.2f}.")
        advice.append("Train longer: raise recipe.train.steps; finished steps are kept, only the new ones run.")
    blank = [v.step for v in verdicts if v.scores and v.scores.blank]
    if blank:
        warnings.append(f"Blank samples at step {', '.join(map(str, blank))}: training diverged there.")
        advice.append("Lower recipe.train.lr, and look for a jump in the loss curve.")
    return warnings, advice


def _lost_prompts(verdicts: Sequence[Verdict]) -> tuple[list[str], list[str]]:
    """Prompts that show somebody else at every checkpoint that is otherwise recognisable."""
    able = [v.scores for v in verdicts if v.scores and v.recognisable]
    lost = set.intersection(*(set(one.lost) for one in able)) if able else set()
    if not lost:
        return [], []
    which = f"Prompt {min(lost)} loses" if len(lost) == 1 else f"Prompts {', '.join(sorted(lost))} lose"
    where = f"at all {len(able)} recognisable checkpoints" if len(able) > 1 else "at the recognisable checkpoint"
    return (
        [f"{which} the character: somebody else {where}."],
        ["Add training pictures like those prompts (their view, distance or light), or shorten the prompts."],
    )


def _summary(scores: Summary | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    values = {**asdict(scores), "lost": list(scores.lost), "unstyled": list(scores.unstyled)}
    del values["likeness"]  # the score table has it
    return values if scores.style is not None else {k: v for k, v in values.items() if k not in ("style", "unstyled")}


def _values(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values."""
    return {
        "step": verdict.step,
        "verdict": verdict.word,
        "recognisable": verdict.recognisable,
        "flexible": verdict.flexible,
        "reasons": [asdict(reason) for reason in verdict.reasons],
        "scores": _summary(verdict.scores),
    }


def how_in_words(how: object) -> str:
    """The ``how`` of a result as the terminal and the live page print it."""
    words = {"rule": "by scores", "fallback": "the best available", "latest": "the newest"}
    return words.get(str(how), str(how))


def explain(result: Mapping[str, Any]) -> str:
    """The result as lines of text for a log or a terminal."""
    lines = [f"chosen: step {result['step']} ({how_in_words(result['how'])})", *(f"  {line}" for line in result["why"])]
    for verdict in result["verdicts"]:
        lines.append(f"step {verdict['step']}: {verdict['verdict']}")
        lines += [f"  {reason['text']}" for reason in verdict["reasons"]]
    lines += [f"warning: {line}" for line in result["warnings"]]
    lines += [f"  try: {line}" for line in result["advice"]]
    return "\n".join(lines)
