"""Scores of a checkpoint as one number per metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

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


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return fmean(values) if values else None
