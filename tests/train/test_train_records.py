"""What a run reports and records: metrics, progress, warnings, errors, the held-out loss."""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from tiny_models import build_transformer
from train_helpers import (
    checkpoint_bytes,
    held_out,
    job_of,
    load,
    quiet,
    recipe,
    skip_without,
)

from charloom.config import yaml
from charloom.core.store import Store
from charloom.engine.engine import Engine
from charloom.lora.adapter import load_into
from charloom.lora.attach import attach
from charloom.lora.verify import verify
from charloom.train import holdout, metrics
from charloom.train import state as states
from charloom.train.job import build_engine, resolve
from charloom.train.keys import checkpoint_key
from charloom.train.loop import train
from charloom.train.records import TrainingStopped
from charloom.zimage import forward


def test_what_a_run_leaves_behind(make_dataset, tmp_path):
    job = job_of(make_dataset(), recipe(save={"dtype": "bf16"}), tmp_path / "log", provenance={"base": "tiny"})
    store, seen = Store(tmp_path / "store"), []
    train(job, store, 30, seen.append)
    path = store.path("checkpoint", checkpoint_key(job.run_key, 30), ".safetensors")
    shapes = {
        n: tuple(m.weight.shape) for n, m in load(torch.float32, "cpu").named_modules() if hasattr(m, "in_features")
    }
    report = verify(path, shapes, modules=16)
    assert report.ok, str(report)
    provenance = json.loads(report.metadata["charloom.provenance"])
    assert provenance["step"] == 30 and provenance["base"] == "tiny" and len(provenance["dataset_digest"]) == 64
    assert sum(provenance["sigma_histogram"]) == 60 and provenance["settings"]["network"]["rank"] == 4
    assert report.metadata["modelspec.trigger_phrase"] == "l3yla"
    kept = sorted(p.name[-18:-12] for p in states.stored(store, job.run_key, 99))
    assert kept == ["000020", "000030"]
    assert seen[-1].step == 30 and "it/s" in str(seen[-1]) and "ETA" in str(seen[-1])
    lines = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    line = [line for line in lines if "loss" in line][-1]
    assert {"loss", "smoothed", "bands", "lr", "grad_norm", "rate", "memory", "sigma", "items"} <= set(line)
    assert list((tmp_path / "log" / "tensorboard").rglob("events.out.tfevents*"))


UNMOVED = {
    "prodigy at AdamW's rate": {"train": {"optimizer": "prodigy", "lr": 1e-4}},
    "lora": {"train": {"lr": 1e-7}},
    "dora": {"network": {"type": "dora", "alpha": 1}, "train": {"lr": 1e-7}},
    "lokr": {"network": {"type": "lokr"}, "train": {"lr": 1e-7}},
}


@pytest.mark.parametrize("name", UNMOVED)
def test_an_adapter_that_has_not_moved_is_said_everywhere(make_dataset, tmp_path, name):
    """In the log, in the record and by the gate; the same with a usual rate is fine, however small alpha is."""
    skip_without(UNMOVED[name])
    manifest, store = make_dataset(), Store(tmp_path / "store")
    for rate, moves in (UNMOVED[name]["train"]["lr"], False), ("auto", True):
        change = yaml.merge(UNMOVED[name], {"train": {"lr": rate}})
        job, said = job_of(manifest, recipe(**change), tmp_path / "log"), []
        train(job, store, 10, quiet, said.append)
        lines = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
        record = next(line["adapter"] for line in lines if "adapter" in line)
        report = verify(store.path("checkpoint", checkpoint_key(job.run_key, 10), ".safetensors"))
        assert report.ok == moves, str(report)
        assert any("has not moved: in 10 steps" in line for line in said) != moves
        assert ("problem" in record) != moves and (record["of_adamw"] < 0.01) != moves
        if not moves:
            assert report.problems == [record["problem"]] and "set train.lr to auto" in record["problem"]


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"ema": {"decay": 0.9999}}, "lower train.ema.decay 0.9999, a running mean over about 10,000 steps"),
        ({"warmup_steps": 5000, "steps": 5000}, "the rate still rises until step 5000"),
    ],
)
def test_what_has_not_moved_for_another_reason_than_the_rate_is_told_that_reason(
    make_dataset, tmp_path, settings, remedy
):
    store, said = Store(tmp_path / "store"), []
    job = job_of(make_dataset(), recipe(train={"lr": "auto", "steps": 10, **settings}), tmp_path / "log")
    train(job, store, 10, quiet, said.append)
    report = verify(store.path("checkpoint", checkpoint_key(job.run_key, 10), ".safetensors"))
    assert remedy in said[-1] and remedy in str(report) and "train.lr" not in said[-1]
    slow = [line for line in said if "% of the exported LoRA would still be its start" in line]
    assert slow == (said[:1] if "ema" in settings else [])


def test_a_pattern_that_matches_no_layer_is_said(make_dataset, tmp_path):
    said = []
    job = job_of(make_dataset(), recipe(network={"modules": ["to_q", "ff.net"]}), tmp_path / "log")
    train(job, Store(tmp_path / "store"), 1, quiet, said.append)
    assert [line for line in said if "network.modules: 'ff.net' matches no layer" in line] == said[:1]


def test_a_rate_of_another_kind_is_said_first(make_dataset, tmp_path):
    pytest.importorskip("prodigyopt")
    said = []
    job = job_of(make_dataset(), recipe(train={"optimizer": "prodigy", "lr": 1e-4}), tmp_path / "log")
    train(job, Store(tmp_path / "store"), 1, quiet, said.append)
    assert "train.lr 0.0001 is far from what is usual for prodigy (about 1)" in said[0]


def test_a_tensorboard_that_does_not_work_costs_its_curves_alone(tmp_path, monkeypatch, caplog):
    """It imports TensorFlow where that is installed; one that does not fit numpy raises more than an ImportError."""
    board = pytest.importorskip("torch.utils.tensorboard")

    def broken(*arguments, **named):
        raise AttributeError("np.complex_ was removed")

    monkeypatch.setattr(board, "SummaryWriter", broken)
    assert metrics._board(tmp_path, 0) is None
    assert "np.complex_ was removed" in caplog.text
    assert "tensorboard.compat.notf" in sys.modules, "nobody shall look for TensorFlow"


def test_tensorboard_scalars(make_dataset, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    job = job_of(make_dataset(), recipe(), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(job, store, 10, quiet)
    train(job, store, 20, quiet)
    events = accumulator.EventAccumulator(str(tmp_path / "log" / "tensorboard" / job.run_key[:12]))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss", "smoothed", "lr", "grad_norm", "rate", "memory", "bands/0.50-0.75"} <= tags
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 21))


def nan_at(step_of_nan, where):
    """A ``make_engine`` whose output breaks at one call."""

    def make(*arguments):
        engine, calls = build_engine(*arguments), iter(range(1, 10**6))
        real = engine.predict

        def predict(*inputs):
            out = real(*inputs)
            if next(calls) == step_of_nan:
                return out * math.nan if where == "loss" else Poison.apply(out)
            return out

        engine.predict = predict
        return engine

    return make


class Poison(torch.autograd.Function):
    """Right values, broken gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


@pytest.mark.parametrize("broken", [15, 20])  # 20 is a checkpoint
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_broken_numbers_stop_the_run_and_are_explained(make_dataset, tmp_path, where, broken):
    manifest = make_dataset(captions=(9, 9))
    job = job_of(
        manifest,
        recipe(data={"resolutions": [32], "caption_dropout": 0.0}),
        tmp_path / "log",
        make_engine=nan_at(broken, where),
    )
    store = Store(tmp_path / "store")
    with pytest.raises(TrainingStopped) as error:
        train(job, store, 40, quiet)
    message = str(error.value)
    assert f"step {broken}: the {where} is not a finite number" in message and "sigma 0." in message
    assert "item shot-0" in message and "last good checkpoint is step 10" in message and "\n" not in message
    assert store.has("checkpoint", checkpoint_key(job.run_key, 10), ".safetensors")
    for kind, step in itertools.product(("state", "checkpoint"), (broken, 20)):
        assert not store.has(kind, checkpoint_key(job.run_key, step), ".safetensors")
    # The same job without the fault goes on from there.
    train(replace(job, make_engine=build_engine), store, 20, quiet)


def test_recorded_steps_make_room_for_held_out_images(make_dataset, tmp_path, monkeypatch):
    """Their loss is not recorded, so it needs its memory beside that of the graphs."""
    apart, tried, real = held_out(make_dataset(name="holdout")), [], holdout.evaluate

    def evaluate(*arguments):
        tried.append("evaluate")
        if len(tried) == 1:
            raise torch.OutOfMemoryError("fake")
        return real(*arguments)

    monkeypatch.setattr(holdout, "evaluate", evaluate)
    monkeypatch.setattr(Engine, "drop_graphs", lambda engine: tried.append("drop"))
    job = job_of(make_dataset(), recipe(save={"every": 5}), tmp_path / "log", holdout=apart)
    train(job, Store(tmp_path / "store"), 5, quiet)
    assert tried == ["evaluate", "drop", "evaluate"]


def test_holdout_is_measured_with_and_without_the_adapter(make_dataset, tmp_path):
    apart = held_out(make_dataset(captions=(12, 12), name="holdout"))
    manifest = make_dataset()
    job = job_of(manifest, recipe(save={"every": 5}), tmp_path / "log", holdout=apart)
    store = Store(tmp_path / "store")
    train(job, store, 10, quiet)
    records = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    found = {r["step"]: r["holdout"] for r in records if "holdout" in r}
    assert set(found) == {5, 10} and set(found[5]) == {
        f"{w} {s:.2f}" for w in ("on", "off") for s in (0.25, 0.5, 0.75, 1)
    }
    assert found[5]["off 0.50"] == found[10]["off 0.50"] != found[10]["on 0.50"] != found[5]["on 0.50"]
    # Looking does not change the training.
    plain, other = job_of(manifest, recipe(save={"every": 5}), tmp_path / "log2"), Store(tmp_path / "other")
    train(plain, other, 10, quiet)
    assert checkpoint_bytes(store, job, [10]) == checkpoint_bytes(other, plain, [10])


EXPORTED = {
    "ema": {"train": {"ema": {"decay": 0.9}}},
    "dropout": {"network": {"dropout": 0.3}},
    "bf16": {"save": {"dtype": "bf16"}},
    "dora, all at once": {
        "network": {"type": "dora", "dropout": 0.3, "alpha": 3},
        "train": {"ema": {"decay": 0.9}},
        "save": {"dtype": "bf16"},
    },
    "lokr": {"network": {"type": "lokr", "alpha": 2}, "train": {"ema": {"decay": 0.9}}, "save": {"dtype": "bf16"}},
}


@pytest.mark.parametrize("name", EXPORTED)
def test_holdout_is_of_the_file_that_is_written(make_dataset, tmp_path, name):
    """Not of what is being trained: the running mean, rounded, without dropout. Recorded numbers and those of the
    file on the bare base are the same, and so are those of a second look."""
    manifest = held_out(make_dataset(captions=(12,), name="holdout"))
    knobs = recipe(**{key: dict(value) for key, value in EXPORTED[name].items()})
    job = job_of(make_dataset(), knobs, tmp_path / "log", holdout=manifest)
    store = Store(tmp_path / "store")
    train(job, store, 10, quiet)
    records = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    recorded = next(r["holdout"] for r in records if "holdout" in r)
    base = forward.prepare(build_transformer())
    bare = attach(build_transformer(), job.settings.network, 0)  # only asked for a switch

    def look() -> dict[str, float]:
        return holdout.evaluate(
            lambda x, t, caps, pad: forward.forward(base, x, t, caps, pad),
            bare, manifest, job.settings, torch.device("cpu"),
        )  # fmt: skip

    off = look()
    path = store.path("checkpoint", checkpoint_key(job.run_key, 10), ".safetensors")
    with load_into(base, path):
        on = look()
    for sigma in ("0.25", "0.50", "0.75", "1.00"):
        assert recorded[f"off {sigma}"] == pytest.approx(off[f"on {sigma}"], rel=1e-5)
        assert recorded[f"on {sigma}"] == pytest.approx(on[f"on {sigma}"], rel=2e-6)
        assert abs(recorded[f"on {sigma}"] - recorded[f"off {sigma}"]) > 1e-4


def test_held_out_sets_may_have_sizes_of_their_own(make_dataset, tmp_path):
    """Larger than any that is trained, as for any other set."""
    path = make_dataset(captions=(12,), sizes=((64, 64),), items=[{"resolutions": [64]}], name="holdout")
    job = job_of(make_dataset(), recipe(), tmp_path / "log", holdout=held_out(path))
    train(job, Store(tmp_path / "store"), 1, quiet)
    assert '"on 1.00"' in (tmp_path / "log" / "metrics.jsonl").read_text()


def test_smoothed_loss():
    smoothed = metrics.Smoothed()
    assert math.isnan(smoothed.value())
    smoothed.add(2.0, 0.1)
    assert smoothed.value() == pytest.approx(2.0) and smoothed.bands() == {"0.00-0.25": pytest.approx(2.0)}
    smoothed.add(4.0, 0.9)
    assert 2.0 < smoothed.value() < 4.0 and smoothed.value(3) == pytest.approx(4.0)


def test_progress_line():
    line = str(metrics.Progress(262, 500, 3000, 0.5, 0.6, 0.25, 2**31))
    assert line == (
        "step 262/3000  loss 0.5000 (smoothed 0.6000)  4.00 s/it  ETA 3:02:32, checkpoint 500 in 0:15:52  "
        "peak memory 2.00 GiB"
    )


def test_progress_counts_the_whole_run(tmp_path):
    """One call ends at the next checkpoint; the user waits for the last."""
    seen = []
    records = metrics.Metrics(tmp_path, "run", 5, 7, [5, 10, 12], seen.append)
    records.begin(None, None)
    for step in (6, 7):
        records.step(step, [0.5], [0.5], ["a"], 1e-4, 1.0)
    records.close()
    assert [(p.step, p.saved, p.last) for p in seen] == [(7, 10, 12)]


def test_lines_of_progress_become_rarer():
    assert [metrics.pause(elapsed) for elapsed in (0, 15, 60, 3600)] == [1.0, 1.0, 3.0, 10.0]


def test_dtype_and_device_resolve():
    assert resolve("cpu", "auto") == (torch.device("cpu"), torch.float32)
    assert resolve("cpu", "bf16") == (torch.device("cpu"), torch.bfloat16)
