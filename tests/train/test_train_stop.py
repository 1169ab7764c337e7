"""Stopping on request, and the file that says how far a training is."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace

import pytest
from train_helpers import checkpoint_bytes, job_of, quiet, recipe

from charloom.core.errors import Stopped
from charloom.core.store import Store
from charloom.train import progress, stopping
from charloom.train import state as states
from charloom.train.loop import train


@pytest.fixture
def job(make_dataset, tmp_path):
    return job_of(make_dataset(), recipe(train={"steps": 12}, save={"every": 6}), tmp_path / "training")


@pytest.fixture(autouse=True)
def ctrl_c():
    """Signals as in a terminal: a shell's background jobs, and what they start, ignore some."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def asked_at(monkeypatch):
    """``asked_at(step, how)`` calls ``how`` while that step runs; steps are counted by the progress they report."""

    def at(step, how):
        real = progress.Writer.step

        def report(self, number, *rest, **more):
            real(self, number, *rest, **more)
            if number == step:
                how()

        monkeypatch.setattr(progress.Writer, "step", report)

    return at


def uninterrupted(job, tmp_path):
    store = Store(tmp_path / "straight")
    train(replace(job, log_dir=tmp_path / "straight-log"), store, 12, quiet)
    return checkpoint_bytes(store, job, [6, 12]), (tmp_path / "straight-log/metrics.jsonl").read_text()


def without_speed(lines):
    kept = [json.loads(line) for line in lines.splitlines()]
    return [{k: v for k, v in line.items() if k not in ("rate", "memory")} for line in kept]


@pytest.mark.parametrize("step", [2, 6, 8])
def test_stopped_by_file_goes_on_from_there_to_the_same_bytes(job, tmp_path, asked_at, step):
    expected, lines = uninterrupted(job, tmp_path)
    store = Store(tmp_path / "store")
    with pytest.MonkeyPatch.context():
        asked_at(step, lambda: stopping.request(job.log_dir))
        # A loss arrives one step late, at a checkpoint at once.
        with pytest.raises(Stopped, match=rf"after step ({step}|{step + 1}) of 12"):
            train(job, store, 12, quiet)
    at = states.newest(store, job.run_key, 12).step
    assert at in (step, step + 1)
    told = progress.read(job.log_dir)
    assert (told.state, told.step) == (progress.STOPPED, at)
    stopping.begin(job.log_dir, 1)
    train(job, store, 12, quiet)
    assert checkpoint_bytes(store, job, [6, 12]) == expected
    assert without_speed((job.log_dir / "metrics.jsonl").read_text()) == without_speed(lines)
    told = progress.read(job.log_dir)
    assert (told.state, told.first, told.saved) == (progress.FINISHED, at, 12)


@pytest.mark.parametrize("how", ["file", "signal"])
def test_whoever_draws_previews_is_told(job, tmp_path, how):
    told = []

    def draw(step, path, engine, asked):
        if step == 6:
            told.append(asked())
            stopping.request(job.log_dir) if how == "file" else signal.raise_signal(signal.SIGTERM)
            told.append(asked())

    with pytest.raises(Stopped, match="after step 6 of 12"):
        train(replace(job, on_checkpoint=draw), Store(tmp_path / "store"), 12, quiet)
    assert told == [False, True]


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_saves_too_and_handlers_are_put_back(job, tmp_path, asked_at, number):
    before = signal.getsignal(number)
    asked_at(3, lambda: os.kill(os.getpid(), number))
    store = Store(tmp_path / "store")
    with pytest.raises(Stopped):
        train(job, store, 12, quiet)
    assert states.newest(store, job.run_key, 12).step in (3, 4)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once_but_a_sigterm_after_it_does_not(tmp_path):
    stop = stopping.Stop(tmp_path)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        stop.close()


def test_another_attempt_of_a_cluster_does_not_train_on(job, tmp_path, asked_at):
    """Profiles for clusters try a failed job again, and to Snakemake one that was stopped has failed."""
    stopping.begin(job.log_dir, 1)
    asked_at(3, lambda: stopping.request(job.log_dir))
    with pytest.raises(Stopped):
        train(job, Store(tmp_path / "store"), 12, quiet)
    with pytest.raises(Stopped, match="not tried again"):
        stopping.begin(job.log_dir, 2)
    stopping.begin(job.log_dir, 1)
    stopping.begin(job.log_dir, 2)  # the first attempt of the next run has died otherwise


def test_an_old_request_stops_nobody(job, tmp_path):
    stopping.request(job.log_dir)
    stopping.begin(job.log_dir, 1)
    train(job, Store(tmp_path / "store"), 12, quiet)
    assert progress.read(job.log_dir).state == progress.FINISHED


def test_a_request_while_torch_is_loading_counts(job, tmp_path):
    stopping.begin(job.log_dir, 1)
    stopping.request(job.log_dir)
    with pytest.raises(Stopped, match="after step 1 of 12"):
        train(job, Store(tmp_path / "store"), 12, quiet)


def test_a_start_is_noticed_until_it_has_ended(tmp_path):
    assert not progress.started(tmp_path)
    with progress.noticed(tmp_path):
        assert progress.started(tmp_path)
    assert not progress.started(tmp_path)
    mark = tmp_path / progress.UNFINISHED
    mark.write_text(str(2**22 + 1))  # beyond the largest: killed
    assert not progress.started(tmp_path) and progress.killed(tmp_path)
    mark.write_text(str(os.getpid()))
    os.utime(mark, (0, 0))  # before the last start of the machine, when the number was somebody else's
    assert not progress.started(tmp_path) and not progress.killed(tmp_path)


def test_a_request_in_the_last_step_changes_nothing(job, tmp_path, asked_at):
    asked_at(11, lambda: stopping.request(job.log_dir))
    train(job, Store(tmp_path / "store"), 12, quiet)
    assert not (job.log_dir / stopping.NAME).exists()


def test_a_segment_waits_and_a_failure_is_told(job, tmp_path, asked_at):
    store = Store(tmp_path / "store")
    train(job, store, 6, quiet)
    told = progress.read(job.log_dir)
    assert (told.state, told.step, told.steps, told.saved, told.end) == (progress.WAITING, 6, 12, 6, 12)

    def broken():
        raise RuntimeError("the card fell out\nof its slot")

    asked_at(9, broken)
    with pytest.raises(RuntimeError):
        train(job, store, 12, quiet)
    told = progress.read(job.log_dir)
    assert (told.state, told.problem) == (progress.FAILED, "the card fell out")


def test_a_trial_is_told_with_the_step_at_which_it_ends(job, tmp_path):
    train(replace(job, trial=8), Store(tmp_path / "store"), 6, quiet)
    told = progress.read(job.log_dir)
    assert (told.step, told.steps, told.end) == (6, 12, 8)


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


def test_at_most_two_writes_a_second_and_the_speed_forgets_slow_starts_and_pauses(tmp_path):
    clock = Clock()
    writer = progress.Writer(tmp_path, first=0, steps=1000, clock=clock)
    writes = set()
    for step in range(1, 101):
        clock.time += 30 if step == 2 else 0.1
        writer.step(step, 1.0)
        writes.add((tmp_path / progress.NAME).read_text())
    assert len(writes) <= 2 + 10 / progress.PAUSE
    writer.paused()
    clock.time += 60
    for step in range(101, 111):
        clock.time += 0.1
        writer.step(step, 1.0)
    told = progress.read(tmp_path)
    assert told.seconds_per_step == pytest.approx(0.1)
    assert told.eta == pytest.approx(0.1 * (1000 - told.step))


def test_previews_count_when_they_are_new(tmp_path):
    clock = Clock()
    clock.time = time.time()
    writer = progress.Writer(tmp_path, first=0, steps=10, clock=clock)
    (tmp_path / "newest").mkdir()
    old = tmp_path / "newest/01.png"
    old.touch()
    os.utime(old, (1, 1))
    writer.drawing()
    assert progress.read(tmp_path).doing == progress.DRAWING
    clock.time += 4
    writer.drawn(tmp_path / "newest")
    assert progress.read(tmp_path).previews_done == 0, "nothing was drawn for this step"
    clock.time = time.time()
    writer.drawing()
    (tmp_path / "newest/02.png").touch()
    clock.time += 4
    writer.drawn(tmp_path / "newest")
    told = progress.read(tmp_path)
    assert (told.previews_done, told.previews, told.doing) == (1, [(tmp_path / "newest/02.png").as_posix()], "")
    assert told.preview_seconds == pytest.approx(4)


def test_a_disk_that_cannot_be_written_to_ends_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    writer = progress.Writer(tmp_path / "file", first=0, steps=10)
    writer.step(1, 1.0)
    writer.drawing()
    writer.drawn(tmp_path / "newest")
    writer.finished()
    assert progress.read(tmp_path / "file") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"state": "running"}', "null"])
def test_what_is_no_progress_reads_as_none(tmp_path, text):
    (tmp_path / progress.NAME).write_text(text)
    assert progress.read(tmp_path) is None
