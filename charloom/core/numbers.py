"""Numbers as text: as short as possible, and long enough to tell them apart. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable


def decimals(values: Iterable[float | None], least: int = 2, most: int = 3) -> int:
    """How many decimals to print so that different ``values`` also look different: ``least``, or up to ``most``.
    ``None`` is skipped."""
    distinct = {round(value, most) for value in values if value is not None}
    for places in range(least, most):
        if len({f"{value:.{places}f}" for value in distinct}) == len(distinct):
            return places
    return most


def apart(*values: float) -> list[str]:
    """Values that one sentence compares, as text: "0.916" and "0.920", not "0.92" twice."""
    places = decimals(values)
    return [f"{value:.{places}f}" for value in values]


def roughly(seconds: float) -> str:
    """An estimated time, no more precise than the estimate: ``97 s``, ``17 min``, ``2 h 05 min``."""
    if seconds < 120:
        return f"{round(seconds) or int(seconds > 0)} s"  # never 0 s for a short one
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds: ``2:03:10``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
