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

from charloom.planning import running, swaps

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
    running.hash_once()
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


class Dag:
    """What choosing asks about the whole run."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.done: set[Job] = set()

    def needrun_jobs(self) -> list[Job]:
        return self.jobs

    def finished(self, job: Job) -> bool:
        return job in self.done


class Scheduler:
    """What :meth:`JobScheduler.job_selector` uses of itself to choose by priority among the jobs that it is given."""

    def __init__(self) -> None:
        self.subsample: int | None = 50
        self.dag = Dag()
        settings = SimpleNamespace(subsample=50)
        self.workflow = SimpleNamespace(scheduling_settings=settings, local_exec=True, dag=self.dag)
        self.considered: list[int] = []
        self.running: set[Job] = set()
        self.failed: set[Job] = set()

    def job_selector(self, jobs: Any) -> list[Any]:
        self.considered.append(len(jobs))
        return [max(jobs, key=lambda job: job.priority)]


class Job:
    """What choosing uses of a job."""

    def __init__(self, rule: str, priority: int, **wildcards: str) -> None:
        self.rule, self.priority, self.wildcards = SimpleNamespace(name=rule), priority, SimpleNamespace(**wildcards)
        self.scheduler_resources = {"gpu": 1, "_cores": 4}

    def is_group(self) -> bool:
        return False


def ready(rule: str, count: int, priority: int = 1) -> list[Job]:
    return [Job(rule, priority) for _ in range(count)]


def test_a_job_that_everything_waits_for_is_considered_among_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_scheduler, "JobScheduler", Scheduler)
    running.choose_well()
    scheduler = job_scheduler.JobScheduler()
    assert scheduler.subsample is None, "Snakemake would choose the first jobs at random"
    jobs = ready("latents", 3000, 5) + ready("caption", 400, 4) + ready("prepare_base", 1, 10)
    assert [job.rule.name for job in scheduler.job_selector(jobs)] == ["prepare_base"]
    assert scheduler.considered == [50]
    few = jobs[:50]
    assert scheduler.job_selector(few)[0] in few and scheduler.considered == [50, 50]
    swaps.undo()


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that knows of Leyla's training; Mara's is done."""
    monkeypatch.setattr(job_scheduler, "JobScheduler", Scheduler)
    running.choose_well()
    made = job_scheduler.JobScheduler()
    made.dag.jobs = [Job("train_segment", 6, character=name, step="000800") for name in ("leyla", "mara")]
    made.dag.done = {made.dag.jobs[1]}
    yield made
    swaps.undo()


def preview(character: str, step: str = "000000") -> Job:
    return Job("sample_checkpoint", 4, character=character, step=step)


def chosen(scheduler: Any, *jobs: Job) -> Job:
    found: list[Job] = scheduler.job_selector(set(jobs))
    return found[0]


def test_what_the_training_draws_does_not_start_before_it(scheduler: Any) -> None:
    waits, other = preview("leyla"), Job("draw_grid", 1)
    assert chosen(scheduler, waits, other) is other
    training, done = scheduler.dag.jobs
    assert chosen(scheduler, waits, training) is training
    scheduler.dag.done = {training, done}
    assert chosen(scheduler, waits, other) is waits


@pytest.mark.parametrize("job", [preview("mara"), preview("leyla", "000200")])
def test_other_previews_do_not_wait(scheduler: Any, job: Job) -> None:
    assert chosen(scheduler, job, Job("draw_grid", 1)) is job


def test_nothing_waits_where_nothing_else_goes_on(scheduler: Any) -> None:
    """After a failure of the training with --keep-going; and on a cluster, where another machine may be free."""
    waits = preview("leyla")
    assert chosen(scheduler, waits) is waits
    scheduler.running = {Job("train_segment", 6)}
    assert scheduler.job_selector({preview("mara"), waits})[0].wildcards.character == "mara"
    scheduler.workflow.local_exec = False
    assert chosen(scheduler, waits) is waits


def test_rules_share_what_is_considered() -> None:
    jobs = ready("a", 100) + ready("b", 3) + ready("c", 100)
    chosen = running.some_of_each_rule(jobs, 23)
    assert Counter(job.rule.name for job in chosen) == {"a": 10, "b": 3, "c": 10}
    assert len(running.some_of_each_rule(jobs, 1)) == 3, "one of each"


LINKS = {"gpu": 0, "_cores": 1}


def test_jobs_that_only_link_what_a_sibling_has_made_claim_no_gpu(scheduler: Any) -> None:
    first, *others = (Job("encode_latents", 10 - n, character="leyla", shot=f"closeup-0{n}") for n in range(3))
    of_another, other_rule = (
        Job("encode_latents", 1, character="mara", shot="a"),
        Job("make_mask", 1, character="leyla"),
    )
    waiting = (*others, of_another, other_rule)
    assert chosen(scheduler, first, *waiting) is first
    chosen(scheduler, *waiting)
    assert [job.scheduler_resources["gpu"] for job in waiting] == [1, 1, 1, 1], "the first is still at work"
    scheduler.dag.done |= {first}
    for _ in range(2):  # also when others have been chosen since
        chosen(scheduler, *others)
        assert [job.scheduler_resources for job in others] == [LINKS, LINKS]
    chosen(scheduler, *waiting)
    assert [job.scheduler_resources["gpu"] for job in (first, of_another, other_rule)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("rule", "early", "late"),
    [
        ("encode_caption", {"shot": "closeup-01"}, {"shot": "closeup-02"}),
        ("sample_drift", {"step": "000250", "drift": "01-class"}, {"step": "000500", "drift": "01-class"}),
    ],
)
def test_what_was_not_there_when_the_first_started_claims_the_gpu(
    scheduler: Any, rule: str, early: dict[str, str], late: dict[str, str]
) -> None:
    """A caption that a model wrote meanwhile, a checkpoint trained meanwhile."""
    first, maker, linked = (
        Job(rule, 1, character="leyla", **early),
        *(Job(rule, 2 - n, character="leyla", **late) for n in range(2)),
    )
    chosen(scheduler, first)
    scheduler.dag.done |= {first}
    assert chosen(scheduler, maker, linked) is maker
    assert [job.scheduler_resources["gpu"] for job in (maker, linked)] == [1, 1]
    scheduler.dag.done |= {maker}
    chosen(scheduler, linked)
    assert linked.scheduler_resources == LINKS


def test_each_folder_of_images_is_encoded_by_a_job_of_its_own(scheduler: Any) -> None:
    """``encode_latents`` encodes the folder of its image; those of an extra data set lie in another."""
    first, of_set = (Job("encode_latents", 2, character="leyla", shot=shot) for shot in ("closeup-01", "people/01"))
    of_set.priority = 1
    assert chosen(scheduler, first, of_set) is first
    scheduler.dag.done |= {first}
    assert chosen(scheduler, of_set).scheduler_resources["gpu"] == 1


def test_after_a_failure_another_sibling_claims_the_gpu(scheduler: Any) -> None:
    failed, other, third = (Job("sample_strength", 3 - n, character="leyla") for n in range(3))
    assert chosen(scheduler, failed, other, third) is failed
    scheduler.failed |= {failed}
    assert chosen(scheduler, other, third) is other and other.scheduler_resources["gpu"] == 1
    scheduler.dag.done |= {other}
    chosen(scheduler, third)
    assert third.scheduler_resources == LINKS


def test_on_a_cluster_every_job_claims_what_its_rule_says(scheduler: Any) -> None:
    scheduler.workflow.local_exec = False
    first, other = (Job("encode_text", 3 - n, character="leyla") for n in range(2))
    assert chosen(scheduler, first, other) is first
    scheduler.dag.done |= {first}
    chosen(scheduler, other)
    assert other.scheduler_resources["gpu"] == 1
