"""Locks of a killed run are taken away, those of a living one never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import small_project
from small_project import TARGET, snakemake

from charloom.workflow import stale_locks


def locked(folder: Path, **run: object) -> Path:
    (folder / "locks").mkdir(parents=True)
    (folder / "locks/0.input.lock").write_text("results/a\n")
    this = {"host": stale_locks._host(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    (folder / stale_locks.RUNS).write_text(json.dumps([{**this, **run}]))
    return folder


def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_locks_of_a_dead_run_go(tmp_path: Path) -> None:
    folder = locked(tmp_path / ".snakemake", pid=dead())
    assert stale_locks.enter(folder)
    assert not list((folder / "locks").iterdir())
    assert [run["pid"] for run in json.loads((folder / stale_locks.RUNS).read_text())] == [os.getpid()]


def test_so_do_those_of_a_pid_that_another_process_has_now(tmp_path: Path) -> None:
    assert stale_locks.enter(locked(tmp_path / ".snakemake", started=1.0))


@pytest.mark.parametrize("run", [{}, {"host": "another"}])
def test_those_that_somebody_may_hold_stay(tmp_path: Path, run: dict) -> None:
    folder = locked(tmp_path / ".snakemake", **run)
    assert not stale_locks.enter(folder)
    assert list((folder / "locks").iterdir())
    assert len(json.loads((folder / stale_locks.RUNS).read_text())) == 2


def test_without_a_note_locks_stay(tmp_path: Path) -> None:
    folder = locked(tmp_path / ".snakemake")
    (folder / stale_locks.RUNS).write_text("[{")
    assert not stale_locks.enter(folder) and list((folder / "locks").iterdir())


def test_a_dry_run_leaves_no_note(tmp_path: Path) -> None:
    folder = small_project.make(tmp_path / "project")
    assert snakemake(folder, "-n", TARGET, code=small_project.ROOT).returncode == 0
    assert not (folder / ".snakemake" / stale_locks.RUNS).exists()
