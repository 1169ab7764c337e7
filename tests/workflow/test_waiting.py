"""How idle threads of a job wait: they spin on a quiet machine and sleep on a busy one, unless the user has chosen."""

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


@pytest.mark.parametrize(("cores_used", "policy"), [(0.0, None), (0.4, None), (0.6, "passive"), (2.0, "passive")])
def test_threads_sleep_only_where_others_want_the_cores(cores_used: float, policy: str | None) -> None:
    jobs.choose_waiting(2, lambda: cores_used)
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    assert os.environ.get("GOMP_SPINCOUNT") == (None if policy else jobs.SPINS)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux ties a process to cores")
def test_only_the_cores_that_the_process_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_percent", lambda interval, percpu: [100.0, 100.0, 50.0, 0.0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3})
    assert jobs._cores_used() == 0.5


@pytest.mark.parametrize("own", [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_a_choice_of_the_users_is_kept(own: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*own)
    before = dict(os.environ)
    jobs.choose_waiting(2, lambda: pytest.fail("nobody needs to know"))
    assert dict(os.environ) == before


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is torch's OpenMP on Linux")
def test_the_choice_is_made_before_torch_is_loaded() -> None:
    """libgomp reads the variable once, when it is loaded; here it says what it has read."""
    code = (
        "from charloom.workflow import jobs; jobs._cores_used = lambda: 9.0; jobs.torch_device('cpu', 2)\n"
        "import torch; torch.ones(10**6).sum()"
    )
    environment = {**os.environ, "OMP_DISPLAY_ENV": "true"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr, done.stderr
