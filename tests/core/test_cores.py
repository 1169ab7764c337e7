"""Cores that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from charloom.core import cores


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 6), ("250000 100000", 3), ("900000 100000", 6), ("x", 6), (None, 6)]
)
def test_a_jobs_cores_and_a_containers_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert cores.usable(tmp_path / "cpu.max") == expected
