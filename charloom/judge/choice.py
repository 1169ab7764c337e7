"""Which checkpoint to ship: the latest one that still varies outfits and contexts freely, with a solid identity.

A checkpoint is *solid* when the character is recognised in its samples about as well as in those of the
best. It is *free* when it draws what the prompts ask for about as well as an early checkpoint
(or the base alone), does not bring the training pictures back, and has kept its sharpness. Rows of the
score table go in, a result of plain values with a reason for every checkpoint comes out. Standard library
only; it must not know who measured, or how.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from charloom.core.errors import UserError
from charloom.judge.summary import Rule, Summary, summarise
from charloom.judge.verdict import Verdict, _judge


def best_by_score(summaries: Mapping[int, Summary], candidates: Sequence[int], number: int) -> list[int]:
    """The ``number`` candidates of the best overall score, in their order; unscored ones are kept as well."""
    scored = {step: s.overall for step in candidates if (s := summaries.get(step)) and s.overall is not None}
    best = sorted(scored, key=lambda step: (-scored[step], -step))[:number]
    return [step for step in candidates if step in best or step not in scored]


def choose(
    rows: Iterable[Mapping[str, Any]],
    candidates: Sequence[int],
    *,
    keep: int | str = "all",
    rule: Rule | None = None,
) -> dict[str, Any]:
    """Choose among ``candidates`` (steps) by the score table ``rows``.

    Args:
        rows: rows with the columns of ``table.COLUMNS``; step 0 is the base alone. Steps that are no candidates
            (earlier ones, which are not kept) still tell what obedience was possible.
        candidates: the steps that may be chosen, at least one.
        keep: a number, ``all`` or ``score:N``; the last narrows the candidates to the N best.

    Returns:
        Plain values: ``step``, ``how`` (``rule``, ``fallback`` or ``latest``), ``why``, ``warnings``,
        ``advice``, ``verdicts`` per candidate, ``base``, ``not_scored`` and the ``rule``.

    Raises:
        UserError: there is no candidate.
    """
    rule = rule or Rule()
    candidates = sorted({step for step in candidates if step > 0})
    if not candidates:
        raise UserError("no checkpoint can be chosen: none was kept; set recipe.save.keep to 4, all or score:4")
    summaries = summarise(rows, rule)
    if isinstance(keep, str) and keep.startswith("score:"):
        candidates = best_by_score(summaries, candidates, int(keep.removeprefix("score:")))
    verdicts = _judge(summaries, candidates, rule)
    step, how, why = _pick(verdicts)
    warnings, advice = _warnings(verdicts, summaries, rule)
    missing = [
        name for name in ("identity", "obedience", "bleed", "detail") if all(_get(v, name) is None for v in verdicts)
    ]
    if missing:
        warnings.append(f"Not scored: {', '.join(missing)}. Compare the pictures with your own eyes.")
    return {
        "step": step,
        "how": how,
        "why": why,
        "warnings": warnings,
        "advice": advice,
        "verdicts": [_plain(verdict) for verdict in verdicts],
        "base": asdict(summaries[0]) if 0 in summaries else None,
        "not_scored": missing,
        "rule": asdict(rule),
    }


def _pick(verdicts: Sequence[Verdict]) -> tuple[int, str, list[str]]:
    """The step by the rule, or the best that can be done without, and why."""
    latest = verdicts[-1]
    good = [v for v in verdicts if v.solid and v.free]
    solid = [v for v in verdicts if v.solid and v.free is not False]
    unopposed = [v for v in verdicts if v.solid is None and v.free is not False]
    if good:
        chosen, how = good[-1], "rule"
        said = "with a solid identity that still varies outfits and contexts freely"
    elif len(unopposed) == len(verdicts):
        what = "identity was not scored" if any(v.scores for v in verdicts) else "there are no samples to judge"
        return latest.step, "latest", [f"Step {latest.step} is the latest checkpoint; {what}."]
    elif solid:
        chosen, how, said = solid[-1], "fallback", "with a solid identity; obedience was not scored"
    elif unopposed:
        chosen, how, said = unopposed[-1], "fallback", "that nothing speaks against; identity was not scored"
    else:
        chosen = max(verdicts, key=_compromise)
        why = f"No checkpoint is both solid and free; step {chosen.step} is the best compromise."
        return chosen.step, "fallback", [why, *chosen.texts()]
    why = [f"Step {chosen.step} is the latest checkpoint {said}.", *chosen.texts()]
    for verdict in verdicts:
        if verdict.step > chosen.step:
            against = " ".join(verdict.texts(against=True)) or "It was not scored."
            why.append(f"Step {verdict.step} was passed over ({verdict.word}): {against}")
    return chosen.step, how, why


def _compromise(verdict: Verdict) -> tuple[bool, float, int]:
    """Order of checkpoints none of which is good: not broken, then the overall score, then the later."""
    scores = verdict.scores
    if scores is None:
        return False, -1.0, verdict.step
    return not scores.blank, scores.overall if scores.overall is not None else -1.0, verdict.step


def _warnings(verdicts: Sequence[Verdict], summaries: Mapping[int, Summary], rule: Rule) -> tuple[list[str], list[str]]:
    """What is wrong with the whole set of checkpoints, and what to do about it."""
    warnings, advice = [], []
    scored = [v for v in verdicts if v.scores is not None and v.scores.identity is not None]
    best = max((v.scores.identity for v in scored if v.scores), default=None)
    overfit = [v for v in verdicts if v.free is False]
    if len(overfit) == len(verdicts) and not any(v.scores and v.scores.blank for v in verdicts):
        warnings.append("All kept checkpoints look overfit: they no longer follow the prompts freely.")
        advice += [
            "Keep earlier checkpoints too (recipe.save.keep: all); the best one may lie before them.",
            "Or train more gently: halve recipe.train.lr (5.0e-5 on the real model).",
            "Or use the file at a strength of 0.7 to 0.8 instead of 1.0.",
        ]
    elif best is not None and best < rule.identity_low:
        warnings.append(
            "All kept checkpoints look undertrained: "
            f"the best identity is {best:.2f} of what the character's own pictures reach."
        )
        advice.append("Train longer: raise recipe.train.steps; the finished steps are kept, only the new ones run.")
    elif scored and not any(v.solid and v.free is not False for v in verdicts):
        warnings.append("Identity became solid only where the training pictures come back.")
        advice += [
            "Save more often (recipe.save.every) to find a step in between.",
            "Or vary outfits and backgrounds of the data set more, and name everything that varies in the captions.",
            "Or use a later checkpoint at a strength of 0.7 to 0.8.",
        ]
    elif len(scored) >= 2 and best is not None and best < rule.identity_enough:
        last, before = scored[-1].scores, scored[-2].scores
        rise = (last.identity or 0.0) - (before.identity or 0.0) if last and before else 0.0
        if last and last.identity == best and rise > rule.still_rising and scored[-1].free is not False:
            warnings.append(f"Identity still rose by {rise:.2f} in the last interval: more steps may do better.")
            advice.append("Raise recipe.train.steps by a third; the finished steps are kept.")
    blank = [v.step for v in verdicts if v.scores and v.scores.blank]
    if blank:
        warnings.append(f"Blank samples at step {', '.join(map(str, blank))}: training went astray there.")
        advice.append("Lower recipe.train.lr, and look at the loss curve for a jump.")
    return warnings, advice


def _get(verdict: Verdict, name: str) -> float | None:
    return getattr(verdict.scores, name) if verdict.scores is not None else None


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "step": verdict.step,
        "verdict": verdict.word,
        "solid": verdict.solid,
        "free": verdict.free,
        "reasons": [asdict(finding) for finding in verdict.findings],
        "scores": asdict(verdict.scores) if verdict.scores is not None else None,
    }


def explain(result: Mapping[str, Any]) -> str:
    """The result as lines of text for a log or a terminal."""
    lines = [f"chosen: step {result['step']} ({result['how']})", *(f"  {line}" for line in result["why"])]
    for verdict in result["verdicts"]:
        lines.append(f"step {verdict['step']}: {verdict['verdict']}")
        lines += [f"  {reason['text']}" for reason in verdict["reasons"]]
    lines += [f"warning: {line}" for line in result["warnings"]]
    lines += [f"  try: {line}" for line in result["advice"]]
    return "\n".join(lines)
