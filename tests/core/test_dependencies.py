"""Floors of dependencies are versions that were tried, and the page says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import dependencies  # noqa: E402


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """What was tried."""
    return json.loads(dependencies.RECORD.read_text(encoding="utf-8"))


def test_the_page_of_dependencies_is_up_to_date(record: dict[str, Any]) -> None:
    """After a change of pyproject.toml run  python tools/dependencies.py try lowest …  and  … page"""
    assert dependencies.PAGE.read_text(encoding="utf-8") == dependencies.page(record)


def test_every_floor_was_tried(record: dict[str, Any]) -> None:
    """Raised or added without it: python tools/dependencies.py try lowest --torch … -- tests/…"""
    assert set(record) == {"lowest", "highest"} and all(run["tests"]["failed"] == 0 for run in record.values())
    assert all(run["tests"]["passed"] > 500 for run in record.values())
    for name, (floor, _) in dependencies.requirements().items():
        if name not in dependencies.NOT_TRIED:
            assert Version(dependencies.tried(record, name).get("lowest", "0")) == floor, name


def test_an_untried_floor_is_noticed(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(text.replace('"filelock>=', '"filelock>=1'), encoding="utf-8")
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    assert dependencies.PAGE.read_text(encoding="utf-8") != dependencies.page(record)
    with pytest.raises(AssertionError, match="filelock"):
        test_every_floor_was_tried(record)
