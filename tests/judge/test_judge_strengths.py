"""The recommended strength: the best that was scored, full strength where the difference is noise."""

from __future__ import annotations

from typing import Any

import pytest

from charloom.judge.strengths import recommend


def document(identity: float | None, obedience: float | None, bleed: float = 0.0) -> dict[str, Any]:
    values = {"identity_relative": identity, "obedience": obedience, "bleed": bleed, "contrast": 0.2}
    rows = [
        {"prompt": prompt, "seed": 42, "strength": 1.0, "metric": metric, "value": value}
        for prompt in ("01", "02")
        for metric, value in values.items()
        if value is not None
    ]
    return {"step": 300, "rows": rows, "backend": "paperdoll", "weights": "w", "misses": {}}


def test_the_best_overall_is_recommended() -> None:
    found = recommend({0.6: document(0.6, 0.9), 0.8: document(0.9, 0.9), 1.0: document(0.95, 0.5)}, 300)
    assert found["recommended"] == 0.8
    assert [row["strength"] for row in found["strengths"]] == [0.6, 0.8, 1.0]
    assert found["strengths"][1]["overall"] == pytest.approx(0.81)
    assert "identity 0.90" in found["why"][0] and found["not_scored"] == ["detail"]


def test_full_strength_wins_where_the_difference_is_noise() -> None:
    assert recommend({0.8: document(0.9, 0.9), 1.0: document(0.9, 0.89)}, 300)["recommended"] == 1.0
    assert recommend({0.7: document(0.9, 0.9), 0.8: document(0.9, 0.89)}, 300)["recommended"] == 0.8


@pytest.mark.parametrize("values", [(None, 0.9), (0.9, None)])
def test_what_was_not_scored_recommends_nothing(values: tuple[float | None, float | None]) -> None:
    found = recommend({0.8: document(*values), 1.0: document(*values)}, 300)
    assert found["recommended"] is None
    assert found["why"][0].startswith("Not scored: ")


def test_where_no_strength_is_of_use_none_is_recommended() -> None:
    found = recommend({0.8: document(-0.1, 0.9), 1.0: document(-0.2, 0.5)}, 300)
    assert found["recommended"] is None and found["why"][0].startswith("No strength is of use")
