"""How idle threads of a job wait: not by spinning for long, unless the user wants it."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_project

from charloom.workflow import jobs


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_has_set_is_kept(own: dict[str, str]) -> None:
    assert jobs.environment({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": jobs.SPIN}
    assert jobs.environment({"PATH": "/bin", **own}) == {}


def test_the_spin_is_bounded_before_a_job_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its interpreter starts, and so before anything loads libgomp."""
    folder = small_project.add_code(small_project.make(tmp_path / "project"))
    python = small_project.pretender(folder)
    spy = folder / "spy"
    spy.write_text(f'#!/bin/sh\necho "$GOMP_SPINCOUNT" > {tmp_path}/used\nexec {python} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("CHARLOOM_PYTHON", str(spy))
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    made = small_project.snakemake(folder, "--cores", "1", "results/mara/prompts.html")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "used").read_text().strip() == jobs.SPIN
