"""Which checkpoint to ship: the latest one that still varies outfits and contexts freely, with a solid identity.

A checkpoint is *solid* when the character is recognised in its samples about as well as in those of the
best. It is *free* when it draws what the prompts ask for about as well as an early checkpoint
(or the base alone), does not bring the training pictures back, and has kept its sharpness. Rows of the
score table go in, a result of plain values with a reason for every checkpoint comes out. Standard library
only; it must not know who measured, or how.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from charloom.core.errors import UserError

_EPSILON = 1e-9
"""So that a value which equals a limit in decimal passes it in binary as well."""


@dataclass(frozen=True)
class Rule:
    """The limits of the choice. Identity counts relative to what the character's own pictures reach."""

    identity_of_free: float = 0.97
    """Solid is at least this share of the best free checkpoint's identity,"""
    identity_of_all: float = 0.92
    """and this share of the best of all, overfit ones too,"""
    identity_enough: float = 0.95
    """or this identity, whatever the others have."""
    identity_low: float = 0.80
    """No checkpoint below is solid; when the best of all stays below, all of them are undertrained."""
    stranger: float = 0.65
    """A sample below this shows somebody else,"""
    strangers: float = 0.10
    """and a solid checkpoint has at most this share of them (or one more than the best checkpoint's)."""
    obedience_drop: float = 0.06
    """Free is at most this much below the base alone, or below the most obedient checkpoint."""
    bleed: float = 0.15
    """Free is at most this share of copied things (above the base alone, where it was scored),"""
    bleed_one: float = 0.40
    """and at most this share of the samples with one and the same kind of thing copied,"""
    bleed_chances: int = 3
    """counted where at least this many samples could have copied it."""
    detail_of_typical: float = 0.60
    """Free is at least this share of the middle checkpoint's sharpness."""
    blank: float = 0.02
    """A sample of less contrast is blank."""
    still_rising: float = 0.02
    """Identity that gained this much in the last interval had not settled."""


@dataclass(frozen=True)
class Summary:
    """The means of one checkpoint over its samples; ``None`` is not scored."""

    step: int
    samples: int
    portraits: int = 0
    """Samples whose identity was scored; those without the trigger are not among them."""
    identity: float | None = None
    strangers: float | None = None
    obedience: float | None = None
    bleed: float | None = None
    detail: float | None = None
    blank: int = 0
    bleeding: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Attribute to (samples that copied it, samples that could have)."""

    @property
    def overall(self) -> float | None:
        """Identity x obedience x (1 - bleed), of those that were scored; orders checkpoints for ``keep: score:N``."""
        parts = [self.identity, self.obedience, None if self.bleed is None else 1.0 - self.bleed]
        scored = [part for part in parts if part is not None]
        product = 1.0
        for part in scored:
            product *= part
        return product if scored else None


def summarise(rows: Iterable[Mapping[str, Any]], rule: Rule | None = None) -> dict[int, Summary]:
    """One summary per step of the score table."""
    rule = rule or Rule()
    values: dict[int, dict[str, dict[tuple[str, int, float], float]]] = {}
    for row in rows:
        sample = (str(row["prompt"]), int(row["seed"]), float(row["strength"]))
        values.setdefault(int(row["step"]), {}).setdefault(row["metric"], {})[sample] = float(row["value"])
    out = {}
    for step, metrics in sorted(values.items()):
        # Cosines serve where a back end knows no level to relate them to.
        identity = metrics.get("identity_relative") or metrics.get("identity", {})
        bleeding = {
            metric.partition(".")[2]: (int(sum(found.values())), len(found))
            for metric, found in metrics.items()
            if metric.startswith("bleed.")
        }
        out[step] = Summary(
            step=step,
            samples=len({sample for found in metrics.values() for sample in found}),
            portraits=len(identity),
            identity=_mean(identity.values()),
            strangers=_mean([float(value < rule.stranger) for value in identity.values()]),
            obedience=_mean(metrics.get("obedience", {}).values()),
            bleed=_mean(metrics.get("bleed", {}).values()),
            detail=_mean(metrics.get("detail", {}).values()),
            blank=sum(value < rule.blank for value in metrics.get("contrast", {}).values()),
            bleeding=bleeding,
        )
    return out


@dataclass(frozen=True)
class Finding:
    """One reason: it speaks for the checkpoint (true), against it (false), or says what is not known (None)."""

    good: bool | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """What is said of one checkpoint. ``solid`` and ``free`` are ``None`` where nothing could tell."""

    step: int
    solid: bool | None
    free: bool | None
    findings: tuple[Finding, ...]
    scores: Summary | None

    def texts(self, against: bool = False) -> list[str]:
        """All reasons in words, or those against it alone."""
        return [finding.text for finding in self.findings if finding.good is False or not against]

    @property
    def word(self) -> str:
        """The verdict in a word or two, for a table."""
        if self.scores is None:
            return "not sampled"
        if self.scores.blank:
            return "broken"
        if self.solid is False and self.free is False:
            return "wobbly and copying"
        if self.solid is False:
            return "undertrained"
        if self.free is False:
            return "overfit"
        if self.solid is None or self.free is None:
            return "not fully scored"
        return "good"


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


def _judge(summaries: Mapping[int, Summary], candidates: Sequence[int], rule: Rule) -> list[Verdict]:
    """A verdict for each candidate: freedom first, because identity is measured by the free ones."""
    sampled = [summaries[step] for step in candidates if step in summaries]
    freedom = {}
    for own in sampled:
        findings = _obedience(own, summaries, rule) + _bleed(own, summaries.get(0), rule)
        rendering = _rendering(own, sampled, rule)
        free = False if rendering else _all(findings)
        freedom[own.step] = free, [*findings, *rendering]
    others = [own for own in sampled if freedom[own.step][0] is not False]
    verdicts = []
    for step in candidates:
        if step not in freedom:
            verdicts.append(Verdict(step, None, None, (Finding(None, "It has no samples."),), None))
            continue
        own = summaries[step]
        everyone = sampled if len(sampled) > 1 else [s for step, s in summaries.items() if step]
        identity = _identity(own, everyone, others or sampled, rule)
        free, findings = freedom[step]
        verdicts.append(Verdict(step, _all(identity), free, (*identity, *findings), own))
    return verdicts


def _all(findings: Sequence[Finding]) -> bool | None:
    """False if one is bad, True if one is good and none is bad, None if nothing was scored."""
    marks = [finding.good for finding in findings if finding.good is not None]
    return all(marks) if marks else None


def _identity(own: Summary, everyone: Sequence[Summary], free: Sequence[Summary], rule: Rule) -> list[Finding]:
    """Whether the identity holds, against the best of the free candidates.

    An overfit checkpoint has the tightest identity of all; it sets a lower bar, which keeps early checkpoints
    that are free because they have learnt nothing from setting theirs. Being the best is not enough: all may be
    undertrained, and one alone is always its own best.
    """
    if own.identity is None or own.strangers is None:
        return [Finding(None, "Identity was not scored.")]
    known = [s.identity for s in everyone if s.identity is not None]
    best = max(known)
    best_free = max((s.identity for s in free if s.identity is not None), default=0.0)
    needed = max(rule.identity_of_free * best_free, rule.identity_of_all * best, rule.identity_low)
    if len(known) == 1:
        needed = rule.identity_enough
    needed = min(rule.identity_enough, needed)
    solid = own.identity >= needed - _EPSILON
    said = "is solid" if solid else f"is not solid yet: {needed:.2f} is needed"
    rest = f"best: {best:.2f}" if len(known) > 1 else "there is no other checkpoint to compare with"
    findings = [Finding(solid, f"Identity {own.identity:.2f} {said} ({rest}).")]
    # Where every checkpoint fails on the same prompt, the prompt is hard; one more failure is allowed then.
    fewest = min(s.strangers for s in everyone if s.strangers is not None)
    allowed = max(rule.strangers, fewest + 1.0 / own.portraits) if fewest > 0 else rule.strangers
    if own.strangers > allowed + _EPSILON:
        number = round(own.strangers * own.portraits)
        findings.append(Finding(False, f"{number} of {own.portraits} samples show somebody else: unstable."))
    return findings


def _obedience(own: Summary, summaries: Mapping[int, Summary], rule: Rule) -> list[Finding]:
    """Whether prompts are followed as well as the base alone does, or else the most obedient checkpoint."""
    if own.obedience is None:
        return [Finding(None, "Prompt obedience was not scored.")]
    base = summaries.get(0)
    if base is not None and base.obedience is not None:
        reference, whose = base.obedience, "the base alone"
    else:
        known = [s.obedience for s in summaries.values() if s.obedience is not None]
        if len(known) == 1:
            return [Finding(None, f"Obedience {own.obedience:.2f}: there is nothing to compare it with.")]
        reference, whose = max(known), "best"
    free = own.obedience >= reference - rule.obedience_drop - _EPSILON
    said = "follows the prompts" if free else f"has dropped by more than {rule.obedience_drop:.2f}"
    return [Finding(free, f"Obedience {own.obedience:.2f} {said} ({whose}: {reference:.2f}).")]


def _bleed(own: Summary, base: Summary | None, rule: Rule) -> list[Finding]:
    """Whether the training pictures stay away, beyond what the base alone does by chance."""
    if own.bleed is None:
        return [Finding(None, "Bleed of the training pictures was not scored.")]
    limit = rule.bleed + (base.bleed if base is not None and base.bleed is not None else 0.0)
    free = own.bleed <= limit + _EPSILON
    findings = [Finding(free, f"Bleed {own.bleed:.2f} is {'within' if free else 'above'} the limit of {limit:.2f}.")]
    for name, (hits, chances) in sorted(own.bleeding.items(), key=lambda item: (-item[1][0], item[0])):
        by_base, of_base = base.bleeding.get(name, (0, 0)) if base is not None else (0, 0)
        usual = by_base / of_base if of_base else 0.0
        if chances >= rule.bleed_chances and hits / chances > rule.bleed_one + usual + _EPSILON:
            text = f"The {name} of the training pictures came back in {hits} of {chances} samples."
            findings.append(Finding(False, text))
    return findings


def _rendering(own: Summary, others: Sequence[Summary], rule: Rule) -> list[Finding]:
    """Whether the pictures are clean; good rendering alone speaks for no checkpoint, so nothing here is a pass."""
    findings = []
    details = sorted(s.detail for s in others if s.detail is not None)
    if own.detail is not None:
        typical = details[len(details) // 2]
        if own.detail < rule.detail_of_typical * typical:
            text = f"Detail {own.detail:.2f} is far below the usual {typical:.2f}: the pictures are blurred."
            findings.append(Finding(False, text))
    if own.blank:
        findings.append(Finding(False, f"{own.blank} of {own.samples} samples are blank."))
    return findings


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


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return fmean(values) if values else None


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
