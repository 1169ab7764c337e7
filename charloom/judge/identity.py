"""Identity as similarity to the character's own pictures, on a scale calibrated on those pictures.

``identity`` is the median similarity to the references, in the instrument's own unit. ``identity_relative`` puts it on
a scale where 1 is the similarity of the references to each other and 0 is somebody else: pictures that the base draws
without the LoRA if there are any, otherwise the instrument's published value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LEAST = 3
"""An instrument must find somebody in this many references; fewer say nothing about their spread."""
COVERED = 0.5
"""An instrument that sees the character in a smaller share of the references is only a last resort."""


@dataclass(frozen=True)
class Trial:
    """How well an instrument tells the character from others."""

    instrument: str
    seen: int
    """References in which it found somebody,"""
    references: int
    """of so many."""
    level: float = 0.0
    """Mean similarity of the references among themselves, each left out in turn,"""
    spread: float = 0.0
    """its standard deviation on the relative scale,"""
    lowest: float = 0.0
    """and its lowest decile on the relative scale."""
    stranger: float = 0.0
    """Similarity of somebody else (0 on the relative scale);"""
    others: int = 0
    """pictures of others that this was measured on; 0: the published value."""
    separation: float | None = None
    """Share of (reference, other) pairs in which the reference is the more similar one, times the coverage."""

    @property
    def coverage(self) -> float:
        """Share of the references in which it found somebody."""
        return self.seen / self.references if self.references else 0.0

    def relative(self, identity: float) -> float | None:
        """Put ``identity`` on the relative scale; None if both ends of the scale coincide."""
        length = self.level - self.stranger
        return (identity - self.stranger) / length if length > 1e-3 else None

    def values(self) -> dict[str, Any]:
        """As plain values, rounded."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


def similarities(instrument: Any, vectors: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Median similarity of each vector (N, D) to the references (M, D)."""
    return np.median(instrument.similarity(vectors, references), axis=1)


def among_themselves(instrument: Any, references: np.ndarray) -> np.ndarray:
    """Median similarity of each reference (M, D) to the others, M >= 2."""
    table = np.asarray(instrument.similarity(references, references), dtype=np.float64)
    np.fill_diagonal(table, np.nan)
    return np.nanmedian(table, axis=1)


def trial(instrument: Any, references: Sequence[Any], others: Sequence[Any] = ()) -> Trial:
    """Try an instrument on its looks at the references and at pictures of others (None or empty: nobody found)."""
    own = [look["vector"] for look in references if look]
    if len(own) < LEAST:
        return Trial(instrument.name, len(own), len(references))
    vectors = np.stack(own)
    among = among_themselves(instrument, vectors)
    foreign = [look["vector"] for look in others if look]
    stranger, separation = float(instrument.stranger), None
    if foreign:
        away = similarities(instrument, np.stack(foreign), vectors)
        stranger = float(away.mean())
        wins = (among[:, None] > away[None, :]).mean() + 0.5 * (among[:, None] == away[None, :]).mean()
        separation = float(wins) * len(own) / len(references)
    level = float(among.mean())
    length = level - stranger
    relative = (among - stranger) / length if length > 1e-3 else np.zeros_like(among)
    return Trial(
        instrument.name, len(own), len(references), level, float(relative.std()), float(np.quantile(relative, 0.1)),
        stranger, len(foreign), separation,
    )  # fmt: skip


def best(trials: Sequence[Trial], tried: bool = False) -> tuple[Trial | None, str]:
    """The instrument that knows the character best, and why, in one line; ``tried``: there were pictures of others.

    If pictures of others were measured, it is the one that separates them best; a tie goes to the wider gap in units of
    the references' spread. Otherwise it is the first that sees the character in half of the references.
    """
    able = [one for one in trials if one.seen >= LEAST and one.level - one.stranger > 1e-3]
    if not able:
        seen = ", ".join(f"{one.instrument} in {one.seen} of {one.references}" for one in trials)
        if not trials:
            return None, "identity is not scored: there is no instrument for it"
        return None, f"identity is not scored: no instrument knows the character's own pictures apart ({seen})"
    measured = [one for one in able if one.separation is not None]
    if measured:
        chosen = max(measured, key=lambda one: (round(one.separation or 0.0, 3), 1.0 / max(one.spread, 1e-6)))
        others = "; ".join(
            f"{one.instrument} {100 * (one.separation or 0.0):.0f} %" for one in measured if one is not chosen
        )
        why = (
            f"identity by {chosen.instrument}: it sees the character in {chosen.seen} of {chosen.references} pictures "
            f"and tells them from the base's own in {100 * (chosen.separation or 0.0):.0f} % of the pairs"
        )
        return chosen, f"{why} ({others})" if others else why
    chosen = next((one for one in able if one.coverage >= COVERED), max(able, key=lambda one: one.coverage))
    untried = "it sees nobody on what the base draws alone, so its usual scale holds"
    if not tried:
        untried = "there were no pictures of the base alone to try it on"
    return chosen, (
        f"identity by {chosen.instrument}: it sees the character in {chosen.seen} of {chosen.references} pictures; "
        f"{untried}"
    )


def limits(trial: Trial, cut: float | None) -> dict[str, float]:
    """Limits of the choice for this instrument and character, on the relative scale.

    Enough: the similarity of the references to each other, minus their spread, 0.85 to 0.95. Too low: minus three
    spreads, and at least 0.1 below enough. A stranger: the instrument's own limit between same and different (0.65 if
    it has none), unless a tenth of the character's own pictures would fail it.
    """
    usual = trial.relative(cut) if cut is not None else 0.65
    stranger = min(max(0.2, min(0.65 if usual is None else usual, trial.lowest)), 0.8)
    enough = min(0.95, max(0.85, 1.0 - trial.spread))
    low = min(enough - 0.1, max(stranger, 1.0 - 3.0 * trial.spread))
    stranger = min(stranger, low)
    found = {"identity_enough": enough, "identity_low": low, "stranger": stranger}
    return {key: round(value, 4) for key, value in found.items()}


def chosen_of(values: Mapping[str, Any] | None) -> Trial | None:
    """Restore a trial from its plain values."""
    return Trial(**values) if values else None
