"""The verdict on one checkpoint, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from charloom.core import numbers
from charloom.judge.summary import EPSILON, LIMITS, Limits, Summary, chance


@dataclass(frozen=True)
class Reason:
    """One reason: for the checkpoint (True), against it (False), or unknown (None)."""

    good: bool | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """The verdict on one checkpoint.

    ``recognisable``: the samples show the character, or are drawn in the style. ``flexible``: they follow the prompts
    and do not copy the training pictures. Both are ``None`` if too little was scored to tell.
    """

    step: int
    recognisable: bool | None
    flexible: bool | None
    reasons: tuple[Reason, ...]
    scores: Summary | None

    def texts(self, against: bool = False) -> list[str]:
        """All reasons in words, or only those against the checkpoint."""
        return [reason.text for reason in self.reasons if reason.good is False or not against]

    @property
    def word(self) -> str:
        """The verdict in a few words, for a table."""
        if self.scores is None:
            return "not sampled"
        if self.scores.blank:
            return "broken"
        if self.recognisable is False and self.flexible is False:
            return "poor"
        if self.recognisable is False:
            return "undertrained"
        if self.flexible is False:
            return "overfit"
        if self.recognisable is None or self.flexible is None:
            return "not fully scored"
        return "good"


def judge(summaries: Mapping[int, Summary], candidates: Sequence[int], limits: Limits = LIMITS) -> list[Verdict]:
    """Judge each candidate.

    Flexibility comes first, because the required identity depends on the flexible candidates.
    """
    sampled = [summaries[step] for step in candidates if step in summaries]
    flexibility: dict[int, tuple[bool | None, list[Reason]]] = {}
    for own in sampled:
        flaws = _rendering(own, sampled, limits)
        if own.style is not None:  # only bad rendering speaks against a style
            flexibility[own.step] = not flaws, flaws
            continue
        reasons = _obedience(own, summaries, limits) + _bleed(own, summaries.get(0), limits)
        flexibility[own.step] = False if flaws else _all(reasons), [*reasons, *flaws]
    flexible = [own for own in sampled if flexibility[own.step][0] is not False]
    verdicts = []
    for step in candidates:
        if step not in flexibility:
            verdicts.append(Verdict(step, None, None, (Reason(None, "It has no samples."),), None))
            continue
        own = summaries[step]
        everyone = sampled if len(sampled) > 1 else [s for step, s in summaries.items() if step]
        if own.style is not None:
            identity = _style(own, everyone, limits)
        else:
            identity = _identity(own, everyone, flexible or sampled, limits)
        holds, reasons = flexibility[step]
        verdicts.append(Verdict(step, _all(identity), holds, (*identity, *reasons), own))
    return verdicts


def _all(reasons: Sequence[Reason]) -> bool | None:
    """False if one is bad, True if one is good and none is bad, None if nothing was scored."""
    marks = [reason.good for reason in reasons if reason.good is not None]
    return all(marks) if marks else None


def _identity(own: Summary, everyone: Sequence[Summary], flexible: Sequence[Summary], limits: Limits) -> list[Reason]:
    """Whether the character is recognisable, compared with the best of the flexible candidates.

    An overfit checkpoint has the highest identity of all, so it sets only a lower bar. That bar is still needed:
    early checkpoints are flexible because they have learnt nothing, and must not be compared only with each other.
    Being the best is not enough: all checkpoints may be undertrained, and a single one is always its own best. With
    few samples, good checkpoints differ by chance, so differences that chance explains are ignored.
    """
    if own.identity is None or own.strangers is None:
        nobody = f": the judge found nobody in {own.faceless} samples" if own.faceless else ""
        return [Reason(None, f"Identity was not scored{nobody}.")]
    known = [s.identity for s in everyone if s.identity is not None]
    best = max(known)
    rivals = {s.identity: s for s in flexible if s.identity is not None}
    share = limits.identity_of_flexible * max(rivals, default=0.0)
    forgiven = limits.identity_noise * chance(own, rivals[max(rivals)]) if rivals else 0.0
    least = max(limits.identity_of_all * best, limits.identity_low)
    strict = min(limits.identity_enough, max(share, least))
    needed = min(limits.identity_enough, max(share - forgiven, least))
    if len(known) == 1:
        strict = needed = limits.identity_enough
    holds = own.identity >= needed - EPSILON
    mine, top, *bar = numbers.apart(own.identity, best, *([] if holds else [needed]))
    found = "is high enough" if holds else f"is too low: {bar[0]} is needed"
    within = holds and own.identity < strict - EPSILON
    noise = "; within noise for so few samples" if within else ""
    rest = f"best: {top}{noise}" if len(known) > 1 else "there is no other checkpoint to compare with"
    reasons = [Reason(holds, f"Identity {mine} {found} ({rest}).")]
    # If every checkpoint fails on the same prompt, the prompt is hard; one more failure is allowed then.
    fewest = min(s.strangers for s in everyone if s.strangers is not None)
    allowed = max(limits.strangers, fewest + 1.0 / own.portraits) if fewest > 0 else limits.strangers
    if own.strangers > allowed + EPSILON:
        number = round(own.strangers * own.portraits)
        lost = f" (prompt{'s' if own.lost[1:] else ''} {', '.join(own.lost)})" if own.lost else ""
        show = "shows" if number == 1 else "show"
        reasons.append(Reason(False, f"{number} of {own.portraits} samples {show} somebody else{lost}."))
    if own.faceless:
        asked = own.portraits + own.faceless
        reasons.append(Reason(None, f"In {own.faceless} of {asked} samples the judge found nobody to compare."))
    return reasons


def _style(own: Summary, everyone: Sequence[Summary], limits: Limits) -> list[Reason]:
    """Whether the samples are drawn in the style, about as clearly as at the best checkpoint, with few exceptions."""
    assert own.style is not None, "asked for only where it was scored"
    best = max(s.style for s in everyone if s.style is not None)
    needed = min(limits.identity_enough, max(limits.identity_of_flexible * best, limits.identity_low))
    holds = own.style >= needed - EPSILON
    mine, top, *bar = numbers.apart(own.style, best, *([] if holds else [needed]))
    found = "is high enough" if holds else f"is too low: {bar[0]} is needed"
    reasons = [Reason(holds, f"Style {mine} {found} (best: {top}).")]
    if len(own.unstyled) > limits.strangers * own.samples + EPSILON:
        which = f"(prompt{'s' if own.unstyled[1:] else ''} {', '.join(own.unstyled)})"
        are = "are" if own.unstyled[1:] else "is"
        said = f"{len(own.unstyled)} of {own.samples} samples {are} not drawn in the style {which}."
        reasons.append(Reason(False, said))
    return reasons


def _obedience(own: Summary, summaries: Mapping[int, Summary], limits: Limits) -> list[Reason]:
    """Whether prompts are followed as well as by the base alone, or, if unknown, by the most obedient checkpoint."""
    if own.obedience is None:
        return [Reason(None, "Prompt obedience was not scored.")]
    base = summaries.get(0)
    if base is not None and base.obedience is not None:
        reference, whose = base.obedience, "the base alone"
    else:
        known = [s.obedience for s in summaries.values() if s.obedience is not None]
        if len(known) == 1:
            return [Reason(None, f"Obedience {own.obedience:.2f}: there is nothing to compare it with.")]
        reference, whose = max(known), "best"
    holds = own.obedience >= reference - limits.obedience_drop - EPSILON
    found = "is high enough" if holds else f"has dropped by more than {limits.obedience_drop:.2f}"
    mine, other = numbers.apart(own.obedience, reference)
    return [Reason(holds, f"Obedience {mine} {found} ({whose}: {other}).")]


def _bleed(own: Summary, base: Summary | None, limits: Limits) -> list[Reason]:
    """Whether the samples copy the training pictures no more than the base alone does by chance."""
    if own.bleed is None:
        return [Reason(None, "Bleed of the training pictures was not scored.")]
    limit = limits.bleed + (base.bleed if base is not None and base.bleed is not None else 0.0)
    holds = own.bleed <= limit + EPSILON
    mine, bar = numbers.apart(own.bleed, limit)
    reasons = [Reason(holds, f"Bleed {mine} is {'within' if holds else 'above'} the limit of {bar}.")]
    for name, (hits, chances) in sorted(own.bleeding.items(), key=lambda item: (-item[1][0], item[0])):
        of_base, chances_of_base = base.bleeding.get(name, (0, 0)) if base is not None else (0, 0)
        usual = of_base / chances_of_base if chances_of_base else 0.0
        if chances >= limits.bleed_chances and hits / chances > limits.bleed_one + usual + EPSILON:
            text = f"The {name} of the training pictures appeared unasked in {hits} of {chances} samples."
            reasons.append(Reason(False, text))
    return reasons


def _rendering(own: Summary, others: Sequence[Summary], limits: Limits) -> list[Reason]:
    """Flaws of the pictures themselves. Clean rendering is no merit of a checkpoint, so nothing here speaks for it."""
    reasons = []
    details = sorted(s.detail for s in others if s.detail is not None)
    if own.detail is not None:
        typical = details[len(details) // 2]
        if own.detail < limits.detail_of_typical * typical:
            text = f"Detail {own.detail:.2f} is far below the typical {typical:.2f}: the pictures are blurred."
            reasons.append(Reason(False, text))
    if own.blank:
        reasons.append(Reason(False, f"{own.blank} of {own.samples} samples are blank."))
    return reasons
