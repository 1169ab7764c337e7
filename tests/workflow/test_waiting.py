"""How idle threads of a job wait: they spin for a bounded time, unless the user has chosen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from charloom.workflow import jobs


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in jobs.WAITING:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("own", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_a_choice_of_the_users_is_kept(own: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*own)
    before = dict(os.environ)
    jobs.bound_waiting()
    assert dict(os.environ) == before


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is torch's OpenMP on Linux")
def test_spinning_is_bounded_before_torch_is_loaded() -> None:
    """libgomp reads the variable once, when it is loaded; here it says what it has read."""
    code = "from charloom.workflow import jobs; jobs.torch_device('cpu', 2); import torch; torch.ones(10**6).sum()"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"GOMP_SPINCOUNT = '{jobs.SPINS}'" in done.stderr, done.stderr
