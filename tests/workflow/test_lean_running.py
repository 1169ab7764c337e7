"""What charloom changes while jobs run: the same digests with less reading, and every rule is considered."""

from __future__ import annotations

import hashlib
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake import io
from snakemake.scheduling import job_scheduler
from waiting_alone import finished_alone

from charloom.workflow import lean_running, swaps

import_module("snakemake.cli")

THRESHOLD = 100


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The files that were read for their digests."""
    seen: list[str] = []
    plain = hashlib.file_digest

    def file_digest(file: Any, algorithm: Any) -> Any:
        seen.append(Path(file.name).name)
        return plain(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    lean_running.hash_once()
    yield seen
    swaps.undo()


def digest(path: Path, threshold: int = THRESHOLD) -> str | None:
    """What Snakemake records of a file, asked anew as for another job."""
    rule = SimpleNamespace(workflow=SimpleNamespace(iocache=SimpleNamespace(active=False)))
    file = io._IOFile(str(path), rule=None)
    file.rule = rule
    found: str | None = finished_alone(file.checksum(threshold))
    return found


def expected(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_file_is_read_once_for_all_jobs_and_again_after_a_change(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"one")
    assert [digest(path), digest(path)] == [expected(b"one")] * 2
    assert read == ["checkpoint"]
    path.with_name("new").write_bytes(b"two")
    path.with_name("new").replace(path)
    assert digest(path) == expected(b"two")


def test_missing_and_large_files_have_no_digest(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "checkpoint"
    assert digest(path) is None
    path.write_bytes(b"x" * (THRESHOLD + 1))
    assert digest(path) is None
    assert digest(path, 2 * THRESHOLD) == expected(b"x" * (THRESHOLD + 1))
    assert digest(path) is None, "known, but larger than this run wants to know"


class Scheduler:
    """What :meth:`JobScheduler.job_selector` uses of itself to choose by priority among the jobs that it is given."""

    def __init__(self) -> None:
        self.subsample: int | None = 50
        self.workflow = SimpleNamespace(scheduling_settings=SimpleNamespace(subsample=50))
        self.considered: list[int] = []

    def job_selector(self, jobs: Any) -> list[Any]:
        self.considered.append(len(jobs))
        return [max(jobs, key=lambda job: job.priority)]


class Job:
    """What choosing uses of a job."""

    def __init__(self, rule: str, priority: int) -> None:
        self.rule, self.priority = SimpleNamespace(name=rule), priority

    def is_group(self) -> bool:
        return False


def ready(rule: str, count: int, priority: int = 1) -> list[Job]:
    return [Job(rule, priority) for _ in range(count)]


def test_a_job_that_everything_waits_for_is_considered_among_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_scheduler, "JobScheduler", Scheduler)
    lean_running.consider_every_rule()
    scheduler = job_scheduler.JobScheduler()
    assert scheduler.subsample is None, "Snakemake would choose the first jobs at random"
    jobs = ready("latents", 3000, 5) + ready("caption", 400, 4) + ready("prepare_base", 1, 10)
    assert [job.rule.name for job in scheduler.job_selector(jobs)] == ["prepare_base"]
    assert scheduler.considered == [50]
    few = jobs[:50]
    assert scheduler.job_selector(few)[0] in few and scheduler.considered == [50, 50]
    swaps.undo()


def test_rules_share_what_is_considered() -> None:
    jobs = ready("a", 100) + ready("b", 3) + ready("c", 100)
    chosen = lean_running.some_of_each_rule(jobs, 23)
    assert Counter(job.rule.name for job in chosen) == {"a": 10, "b": 3, "c": 10}
    assert len(lean_running.some_of_each_rule(jobs, 1)) == 3, "one of each"
