"""Turns lines of results into the table of an experiment, its plot and the verdicts on its claims."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from charloom.core import files
from charloom.core.errors import UserError
from charloom.experiments import truth
from charloom.experiments.design import Claim, Experiment
from charloom.experiments.measures import MEASURES

COLUMNS = ("experiment", "arm", "character", "seed", "measure", "value")
FEWEST = 3
"""If all arms share at least this many seeds, other seeds are left out."""
ALIKE = 0.02
"""Largest difference of means for which ``~`` holds."""


def rows(experiment: Experiment, lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per arm, character, seed and measure, for the looks that have a line in ``lines``.

    Raises:
        UserError: a measure is unknown.
    """
    if unknown := [name for name in experiment.measures if name not in MEASURES]:
        raise UserError(f"{experiment.name}: measures: {unknown[0]} is unknown; use one of {', '.join(MEASURES)}")
    by_look = {line["look"]: line for line in lines}
    found = []
    for arm, look in experiment.looks():
        line = by_look.get(look.name)
        if line is None:
            continue
        world = truth.world(look.training)
        shared = {"experiment": experiment.name, "arm": arm, "character": line["character"], "seed": line["seed"]}
        for name in experiment.measures:
            value = MEASURES[name](line, world)
            if value is not None:
                found.append({**shared, "measure": name, "value": round(value, 5)})
    return found


def write(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the table as CSV with a header line."""
    with files.whole(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def read(path: Path) -> list[dict[str, Any]]:
    """Read a table written by :func:`write`."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{**row, "seed": int(row["seed"]), "value": float(row["value"])} for row in csv.DictReader(file)]


def together(experiment: Experiment, new: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The ``new`` rows, plus the rows of other arms and seeds from the table at ``path``, if there is one.

    This lets a table grow without the lines that it was made from. A row does not say how its arm was defined at the
    time: delete the table of an experiment if you change its arms.
    """
    measured = {_training(row) for row in new}
    old = [row for row in read(path) if _training(row) not in measured] if path.is_file() else []
    arms, characters = list(experiment.arms), list(experiment.characters)
    joined = [*new, *(row for row in old if row["arm"] in arms and row["character"] in characters)]
    return sorted(joined, key=lambda row: (row["seed"], characters.index(row["character"]), arms.index(row["arm"])))


def _training(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["arm"], row["character"], row["seed"]


def values(table: Iterable[Mapping[str, Any]], measure: str) -> dict[str, dict[tuple[str, int], float]]:
    """The value of each (character, seed), by arm."""
    found: dict[str, dict[tuple[str, int], float]] = {}
    for row in table:
        if row["measure"] == measure:
            found.setdefault(row["arm"], {})[row["character"], row["seed"]] = row["value"]
    return found


def whole_seeds(experiment: Experiment, table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the seeds that all arms share; all rows if these are fewer than :data:`FEWEST`."""
    found = values(table, experiment.measures[0])
    shared = set.intersection(*(set(found.get(arm, {})) for arm in experiment.arms))
    return [row for row in table if len(shared) < FEWEST or (row["character"], row["seed"]) in shared]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim: means of both arms over their common seeds, and how many seeds support it."""

    claim: Claim
    left: float
    right: float
    error: float
    """Standard error of the mean difference, from the differences per seed."""
    for_it: int
    seeds: int

    @property
    def word(self) -> str:
        """``holds`` or ``does not hold`` if the difference is at least twice its standard error, else ``undecided``."""
        difference = self.left - self.right
        if self.claim.sign == "~":
            return "holds" if abs(difference) <= ALIKE else "does not hold"
        signed = difference if self.claim.sign == ">" else -difference
        if signed >= 2 * self.error and signed > 0:
            return "holds"
        return "does not hold" if signed <= -2 * self.error and signed < 0 else "undecided"


def verdict(claim: Claim, table: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """The verdict on ``claim``; None if an arm has no values. Seeds are compared in pairs."""
    found = values(table, claim.measure)
    left, right = found.get(claim.left, {}), found.get(claim.right, {})
    pairs = [(left[key], right[key]) for key in left if key in right]
    if not pairs:
        return None
    differences = [a - b for a, b in pairs]
    signs = {">": lambda d: d > 0, "<": lambda d: d < 0, "~": lambda d: abs(d) <= ALIKE}
    return Verdict(
        claim,
        fmean(a for a, _ in pairs),
        fmean(b for _, b in pairs),
        stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else float("inf"),
        sum(map(signs[claim.sign], differences)),
        len(pairs),
    )


def summary(experiment: Experiment, table: Sequence[Mapping[str, Any]]) -> str:
    """The means of all arms and the verdicts, in Markdown."""
    lines = [f"| | {' | '.join(experiment.measures)} |", f"|---|{'---|' * len(experiment.measures)}"]
    for arm in experiment.arms:
        cells = []
        for measure in experiment.measures:
            found = list(values(table, measure).get(arm, {}).values())
            error = f" ± {stdev(found) / sqrt(len(found)):.3f}" if len(found) > 1 else ""
            cells.append(f"{fmean(found):.3f}{error}" if found else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines.append("")
    for claim in experiment.claims:
        if one := verdict(claim, table):
            error = f" ± {one.error:.3f}" if one.seeds > 1 else ""
            means = f"{one.left:.3f} against {one.right:.3f}, difference {one.left - one.right:+.3f}{error}"
            lines += [f"- `{claim}`: **{one.word}** ({means}, {one.for_it} of {one.seeds} seeds)"]
    return "\n".join(lines) + "\n"


def plot(experiment: Experiment, table: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot one panel per measure: every seed as a dot, the mean of each arm as a bar."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from charloom.report.palette import LIGHT

    shown = [name for name in experiment.measures if values(table, name)][:4]
    figure, axes = plt.subplots(1, len(shown), figsize=(2.6 * len(shown) + 0.4, 2.9), squeeze=False)
    figure.set_facecolor(LIGHT["paper"])
    for axis, measure in zip(axes[0], shown, strict=True):
        found = values(table, measure)
        arms = [arm for arm in experiment.arms if arm in found]
        for place, arm in enumerate(arms):
            numbers = list(found[arm].values())
            color = LIGHT["c1"] if measure == experiment.measures[0] else LIGHT["c3"]
            axis.bar(place, fmean(numbers), 0.6, color=color, alpha=0.45, zorder=1)
            jitter = [place + 0.3 * ((i + 0.5) / len(numbers) - 0.5) for i in range(len(numbers))]
            axis.plot(jitter, numbers, "o", color=LIGHT["ink"], markersize=3, zorder=2)
        everything = [value for arm in arms for value in found[arm].values()]
        low, high = min(everything), max(everything)
        if low > 0.3 and high - low < 0.3:
            room = max(0.02, 0.25 * (high - low))
            axis.set_ylim(low - room, high + room)
        axis.set_xticks(range(len(arms)), arms, rotation=0 if len(arms) < 4 else 45, fontsize=8)
        axis.set_title(measure, fontsize=9, color=LIGHT["ink"])
        axis.set_facecolor(LIGHT["card"])
        axis.tick_params(labelsize=8, colors=LIGHT["soft"])
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.tight_layout()
    with files.whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)
    plt.close(figure)
