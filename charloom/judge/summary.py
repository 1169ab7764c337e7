"""Summarises the scores of a checkpoint as one number per metric, and defines the limits for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from statistics import fmean, stdev
from typing import Any

EPSILON = 1e-9
"""Tolerance, so that a value equal to a limit in decimal also passes in binary."""

STYLED = 0.5
"""A sample with a ``style`` of at most this is not drawn in the style."""


@dataclass(frozen=True)
class Limits:
    """The limits of the choice. Identity is relative to the similarity of the character's own pictures."""

    identity_of_flexible: float = 0.97
    """To be recognisable, a checkpoint needs this share of the best flexible checkpoint's identity"""
    identity_noise: float = 2.0
    """(or a difference explained by chance: up to this many standard errors, estimated from pairs of samples)"""
    identity_of_all: float = 0.92
    """and this share of the best identity of all, including overfit checkpoints;"""
    identity_enough: float = 0.95
    """this identity is always enough"""
    identity_low: float = 0.80
    """and less than this never is. If the best of all is below it, all checkpoints are undertrained."""
    stranger: float = 0.65
    """A sample with less identity than this shows somebody else."""
    strangers: float = 0.10
    """A recognisable checkpoint has at most this share of such samples, or one more than the best checkpoint."""
    obedience_drop: float = 0.06
    """A flexible checkpoint is at most this much below the base alone, or else below the most obedient checkpoint."""
    bleed: float = 0.15
    """It bleeds at most this much more than the base alone (more than 0 where the base was not scored)"""
    bleed_one: float = 0.40
    """and copies one attribute in at most this share of the samples more than the base does,"""
    bleed_chances: int = 3
    """which counts only if at least this many samples could have copied it."""
    detail_of_typical: float = 0.60
    """It has at least this share of the median checkpoint's sharpness."""
    blank: float = 0.02
    """A sample with less contrast than this is blank."""
    still_rising: float = 0.02
    """If identity rose by more than this in the last interval, it has not converged."""
    leak: float = 0.35
    """Largest gain of identity over the base alone in prompts without the trigger."""
    steps_gain: float = 0.15
    """Largest gain of identity or obedience from 30 sampler steps instead of the usual number."""


LIMITS = Limits()


def limits_of(*layers: Mapping[str, Any]) -> Limits:
    """The default limits overridden by ``layers``, the last of which wins: calibrated by the judge, set by the user."""
    known = {one.name for one in fields(Limits)}
    given = {key: value for layer in layers for key, value in layer.items() if key in known and value != "auto"}
    return replace(LIMITS, **given)


@dataclass(frozen=True)
class Summary:
    """The means of one checkpoint over its samples; ``None``: not scored."""

    step: int
    samples: int
    portraits: int = 0
    """Number of samples with an identity score; samples without the trigger have none."""
    identity: float | None = None
    strangers: float | None = None
    """Share of the portraits that show somebody else."""
    obedience: float | None = None
    bleed: float | None = None
    detail: float | None = None
    style: float | None = None
    """How far the samples are drawn in the style; only the style judge scores it."""
    unstyled: tuple[str, ...] = ()
    """Names of the prompts that are not drawn in the style."""
    blank: int = 0
    """Number of blank samples."""
    bleeding: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By attribute: (samples that copied it, samples that could have)."""
    faceless: int = 0
    """Number of samples with the trigger in which the judge found nobody to compare."""
    lost: tuple[str, ...] = ()
    """Names of the prompts that show somebody else."""
    likeness: dict[tuple[str, int, float], float] = field(default_factory=dict, repr=False)
    """Identity by sample: its prompt, seed and strength."""

    @property
    def overall(self) -> float | None:
        """Identity x style x obedience x (1 - bleed), as far as scored; orders checkpoints for ``keep: score:N``."""
        identity = None if self.identity is None else max(0.0, self.identity)
        parts = [identity, self.style, self.obedience, None if self.bleed is None else 1.0 - self.bleed]
        scored = [part for part in parts if part is not None]
        product = 1.0
        for part in scored:
            product *= part
        return product if scored else None


def summarise(rows: Iterable[Mapping[str, Any]], limits: Limits = LIMITS) -> dict[int, Summary]:
    """One summary per step of the score table."""
    values: dict[int, dict[str, dict[tuple[str, int, float], float]]] = {}
    for row in rows:
        sample = (str(row["prompt"]), int(row["seed"]), float(row["strength"]))
        values.setdefault(int(row["step"]), {}).setdefault(row["metric"], {})[sample] = float(row["value"])
    out = {}
    for step, metrics in sorted(values.items()):
        # Fall back to the raw cosine if the back end gives no reference level.
        identity = metrics.get("identity_relative") or metrics.get("identity", {})
        bleeding = {
            metric.partition(".")[2]: (int(sum(found.values())), len(found))
            for metric, found in metrics.items()
            if metric.startswith("bleed.")
        }
        out[step] = Summary(
            step=step,
            # The drift previews are in the same table and have no contrast.
            samples=len(metrics.get("contrast") or {sample for found in metrics.values() for sample in found}),
            portraits=len(identity),
            identity=_mean(identity.values()),
            strangers=_mean([float(value < limits.stranger) for value in identity.values()]),
            obedience=_mean(metrics.get("obedience", {}).values()),
            bleed=_mean(metrics.get("bleed", {}).values()),
            detail=_mean(metrics.get("detail", {}).values()),
            style=_mean(metrics.get("style", {}).values()),
            unstyled=tuple(sorted(sample[0] for sample, v in metrics.get("style", {}).items() if v <= STYLED)),
            blank=sum(value < limits.blank for value in metrics.get("contrast", {}).values()),
            bleeding=bleeding,
            faceless=sum(value == 0.0 for value in metrics.get("identity.found", {}).values()),
            lost=tuple(sorted(sample[0] for sample, value in identity.items() if value < limits.stranger)),
            likeness=dict(identity),
        )
    return out


def chance(one: Summary, other: Summary) -> float:
    """Standard error of the difference of two identities, from samples of the same prompts and seeds.

    0 with fewer than three pairs, which say nothing about chance.
    """
    differences = [value - other.likeness[sample] for sample, value in one.likeness.items() if sample in other.likeness]
    return stdev(differences) / math.sqrt(len(differences)) if len(differences) >= 3 else 0.0


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return fmean(values) if values else None
