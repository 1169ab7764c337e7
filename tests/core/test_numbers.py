"""Numbers in words."""

from __future__ import annotations

import pytest

from charloom.core import numbers


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.5, 0.25), ["0.50", "0.25"]),
        ((0.916, 0.92), ["0.916", "0.920"]),  # both would be 0.92
        ((0.92, 0.92), ["0.92", "0.92"]),
        ((0.91601, 0.91602), ["0.92", "0.92"]),  # equal for all that matters
        ((), []),
    ],
)
def test_different_numbers_read_differently(values: tuple[float, ...], texts: list[str]) -> None:
    assert numbers.apart(*values) == texts


def test_what_was_not_scored_needs_no_decimals() -> None:
    assert numbers.decimals([None, 0.5]) == 2


def test_a_clock_rounds_to_seconds() -> None:
    assert [numbers.clock(seconds) for seconds in (0, 59.6, 7390.4)] == ["0:00:00", "0:01:00", "2:03:10"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.3, "1 s"), (25.4, "25 s"), (97, "97 s"), (1037, "17 min"), (7100, "118 min"), (7505, "2 h 05 min")],
)
def test_an_estimate_is_not_told_to_the_second(seconds: float, text: str) -> None:
    assert numbers.roughly(seconds) == text
