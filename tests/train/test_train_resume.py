"""The same bytes however often a run is interrupted, and what becomes of damaged or foreign states."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from train_helpers import (
    checkpoint_bytes,
    job_of,
    quiet,
    recipe,
    skip_without,
    state_bytes,
)

from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.train import state as states
from charloom.train.keys import checkpoint_key
from charloom.train.loop import train

EXACT = {
    "plain": {},
    "everything": {
        "network": {"dropout": 0.2},
        "train": {
            "ema": {"decay": 0.9},
            "lr_scheduler": "cosine",
            "warmup_steps": 5,
            "gradient_accumulation": 2,
            "preservation": {"blank": {"enabled": True}},
        },
        "data": {"caption_dropout": 0.3},
    },
    "lokr, prodigy": {"network": {"type": "lokr"}, "train": {"optimizer": "prodigy", "lr": 1.0}},
    "dora, adafactor": {"network": {"type": "dora"}, "train": {"optimizer": "adafactor"}},
}


@pytest.mark.parametrize("name", EXACT)
def test_one_run_equals_two_equals_four(make_dataset, tmp_path, name):
    skip_without(EXACT[name])
    job = job_of(make_dataset(), recipe(**EXACT[name]), tmp_path / "log")
    results = []
    for parts in (1, 2, 4):
        store = Store(tmp_path / f"parts{parts}")
        for until in range(40 // parts, 41, 40 // parts):
            torch.manual_seed(parts)  # what went on before in the process must not matter
            train(job, store, until, quiet)
        results.append((checkpoint_bytes(store, job, [10, 20, 30, 40]), state_bytes(store, job, 40)))
    assert results[0] == results[1] == results[2]


def test_steps_can_be_raised_and_cut_unevenly(make_dataset, tmp_path):
    manifest = make_dataset()
    short = job_of(manifest, recipe(train={"steps": 13}), tmp_path / "log")
    long = job_of(manifest, recipe(train={"steps": 20}), tmp_path / "log")
    assert short.run_key == long.run_key
    store, straight = Store(tmp_path / "a"), Store(tmp_path / "b")
    train(short, store, 13, quiet)
    train(long, store, 20, quiet)
    train(long, straight, 20, quiet)
    assert checkpoint_bytes(store, long, [10, 20]) == checkpoint_bytes(straight, long, [10, 20])


def _train_in_child(job, root, until):
    logging.disable(logging.CRITICAL)
    train(job, Store(root), until, quiet)


def test_killed_twenty_times_at_random_moments(make_dataset, tmp_path, kills=20):
    job = job_of(make_dataset(), recipe(save={"every": 5}), tmp_path / "log")
    straight = Store(tmp_path / "straight")
    began = time.monotonic()
    train(job, straight, 40, quiet)
    whole = time.monotonic() - began
    context, root = multiprocessing.get_context("fork"), tmp_path / "killed"
    moments = random.Random(kills)
    killed = 0
    while killed < kills:
        child = context.Process(target=_train_in_child, args=(job, root, 40))
        child.start()
        child.join(moments.uniform(0.0, 0.6 * whole))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.join()
        if child.exitcode == 0:  # it got through: start over, the next kills must hit something
            assert checkpoint_bytes(Store(root), job, [40]) == checkpoint_bytes(straight, job, [40])
            root = tmp_path / f"killed{killed}-{moments.random()}"
    train(job, Store(root), 40, quiet)
    steps = range(5, 41, 5)
    assert checkpoint_bytes(Store(root), job, steps) == checkpoint_bytes(straight, job, steps)
    assert state_bytes(Store(root), job, 40) == state_bytes(straight, job, 40)
    lines = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))
    assert [line["step"] for line in lines if "adapter" in line] == list(steps)


@pytest.mark.parametrize("lost", ["checkpoint", "state"])
def test_a_run_killed_while_the_last_of_a_step_was_written_makes_it_again(make_dataset, tmp_path, lost):
    """A checkpoint is written from its state; without its state, the step is trained again from the one before."""
    job = job_of(make_dataset(), recipe(save={"every": 5}), tmp_path / "log")
    straight, store = Store(tmp_path / "straight"), Store(tmp_path / "store")
    train(job, straight, 20, quiet)
    train(job, store, 10, quiet)
    store.path(lost, checkpoint_key(job.run_key, 10), ".safetensors").unlink()
    train(job, store, 20, quiet)
    assert checkpoint_bytes(store, job, [5, 10, 15, 20]) == checkpoint_bytes(straight, job, [5, 10, 15, 20])
    assert state_bytes(store, job, 20) == state_bytes(straight, job, 20)
    lines = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))


def test_the_state_is_written_while_previews_are_drawn(make_dataset, tmp_path, monkeypatch):
    drawing, written, seen = threading.Event(), states.save, []

    def slow(store, state):
        assert drawing.wait(30), "nothing is drawn before the state is written"
        written(store, state)

    def draw(step, path, engine, asked):
        # What the rule of this step takes besides the checkpoint.
        metrics = store.path("metrics", checkpoint_key(job.run_key, step), ".jsonl")
        seen.append((step, not step or metrics.is_file()))
        if step:
            drawing.set()

    monkeypatch.setattr(states, "save", slow)
    store = Store(tmp_path / "store")
    job = replace(job_of(make_dataset(), recipe(save={"every": 2}), tmp_path / "log"), on_checkpoint=draw)
    train(job, store, 4, quiet)
    assert seen == [(0, True), (2, True), (4, True)]
    assert [store.has("state", checkpoint_key(job.run_key, step), ".safetensors") for step in (2, 4)] == [True, True]


def test_a_state_that_cannot_be_written_ends_the_run(make_dataset, tmp_path, monkeypatch):
    def full(store, state):
        raise UserError("the disk is full")

    monkeypatch.setattr(states, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        train(job_of(make_dataset(), recipe(save={"every": 2}), tmp_path / "log"), Store(tmp_path / "store"), 4, quiet)


def test_step_n_is_n_updates(make_dataset, tmp_path):
    job = job_of(make_dataset(), recipe(save={"every": 3}), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(job, store, 7, quiet)
    for step in (6, 7):
        state = states.read(store.path("state", checkpoint_key(job.run_key, step), ".safetensors"), job.run_key)
        counters = {float(t) for name, t in state.tensors.items() if name.endswith("|step")}
        assert state.step == step and counters == {float(step)}


def test_a_finished_step_costs_no_model(make_dataset, tmp_path):
    job = job_of(make_dataset(), recipe(), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(job, store, 10, quiet)

    def explode(dtype, device):
        raise AssertionError("the model was loaded")

    train(replace(job, load_model=explode), store, 10, quiet)


def test_a_lost_checkpoint_comes_from_its_state(make_dataset, tmp_path):
    job = job_of(make_dataset(), recipe(), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(job, store, 10, quiet)
    before = checkpoint_bytes(store, job, [10])
    store.path("checkpoint", checkpoint_key(job.run_key, 10), ".safetensors").unlink()
    train(job, store, 10, quiet)
    assert checkpoint_bytes(store, job, [10]) == before


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_state_is_set_aside(make_dataset, tmp_path, caplog, damage):
    job = job_of(make_dataset(), recipe(), tmp_path / "log")
    store, straight = Store(tmp_path / "store"), Store(tmp_path / "straight")
    train(job, straight, 30, quiet)
    train(job, store, 20, quiet)
    path = store.path("state", checkpoint_key(job.run_key, 20), ".safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.chmod(0o644)
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-7]), "empty": b""}[damage])
    train(job, store, 30, quiet)
    assert "000020.safetensors: this training state is damaged; renamed" in caplog.text
    assert path.with_name(path.name + ".damaged").exists()
    assert checkpoint_bytes(store, job, [30]) == checkpoint_bytes(straight, job, [30])


def test_states_of_other_runs_are_refused(make_dataset, tmp_path):
    store = Store(tmp_path / "store")
    job, other = (job_of(make_dataset(), recipe(network={"rank": r, "alpha": r}), tmp_path / "log") for r in (4, 8))
    train(job, store, 10, quiet)
    state = store.path("state", checkpoint_key(job.run_key, 10), ".safetensors")
    with pytest.raises(UserError, match="belongs to another run"):
        states.read(state, other.run_key)
    # Renamed by hand, and even with a forged key: names and shapes still speak.
    target = store.path("state", checkpoint_key(other.run_key, 10), ".safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(state.read_bytes())
    with pytest.raises(UserError, match="belongs to another run"):
        train(other, store, 20, quiet)
    states.write(target, replace(states.read(state, job.run_key), run_key=other.run_key))
    with pytest.raises(UserError, match=r"another adapter or base: .*\(4, 64\).*\(8, 64\)|another adapter or base"):
        train(other, store, 20, quiet)
