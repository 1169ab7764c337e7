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


def test_a_dry_run_takes_the_locks_of_a_dead_run_away(tmp_path: Path) -> None:
    folder = small_project.make(tmp_path / "project")
    place = locked(folder / ".snakemake", pid=dead())
    (place / "locks/0.output.lock").write_text(f"{TARGET}\n")
    plan = snakemake(folder, "-n", TARGET, code=small_project.ROOT)
    assert plan.returncode == 0 and "cannot be locked" not in plan.stdout + plan.stderr
    assert "left this folder locked: unlocked" in plan.stderr
    assert not list(place.glob("locks/*")) and json.loads((place / stale_locks.RUNS).read_text()) == []


def test_a_dry_run_leaves_the_locks_of_a_living_one(tmp_path: Path) -> None:
    folder = locked(tmp_path / ".snakemake")
    before = (folder / stale_locks.RUNS).read_text()
    assert not stale_locks.enter(folder, dry=True)
    assert list(folder.glob("locks/*.lock")) and json.loads((folder / stale_locks.RUNS).read_text()) == json.loads(
        before
    )


def test_a_second_run_says_who_is_made_and_not_how_to_break_the_lock(tmp_path: Path) -> None:
    folder = small_project.make(tmp_path / "project")
    (locked(folder / ".snakemake") / "locks/0.output.lock").write_text(f"{TARGET}\n")
    second = snakemake(folder, "--cores", "1", TARGET, code=small_project.ROOT, terminal="")
    assert second.returncode and "unlock" not in second.stderr
    assert "error: mara is being made by another snakemake in this folder; wait" in second.stderr
    plan = snakemake(folder, "-n", TARGET, code=small_project.ROOT, terminal="")
    assert "note: mara is being made by another snakemake in this folder" in plan.stdout
    assert "final.safetensors" in (folder / ".snakemake/locks/0.output.lock").read_text()


def test_locks_name_the_characters_whose_files_they_hold(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.output.lock").write_text("results/mara/a.png\nresults/index.html\nwork/x\nresults/ines/b\n")
    (tmp_path / "locks/1.output.lock").write_bytes("results/zoe/Zoë.png\nresults/rex/a.png\n".encode("cp1252"))
    (tmp_path / "locks/0.input.lock").write_text("results/kim/a.png\n")
    assert stale_locks.holders(tmp_path) == ["ines", "mara", "rex", "zoe"]
