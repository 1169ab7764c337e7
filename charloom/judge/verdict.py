"""What is said of one checkpoint, with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from charloom.judge.summary import _EPSILON, Rule, Summary


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
