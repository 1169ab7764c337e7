"""The training loop: what is learnt, what each knob changes, and the same bytes however often it is interrupted."""

from __future__ import annotations

import itertools
import json
import logging
import math
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import build_transformer

from charloom.config import yaml
from charloom.core import randomness
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors
from charloom.lora.adapter import load_into
from charloom.lora.verify import verify
from charloom.train import holdout, loop, metrics
from charloom.train import state as states
from charloom.train import step as one_step
from charloom.train.keys import checkpoint_key, manifest_digest, run_key
from charloom.train.loop import TrainingStopped, TrainJob, train
from charloom.train.settings import TrainSettings
from charloom.zimage import flow, forward


def load(dtype, device):
    model = build_transformer()
    return model if dtype == torch.float32 else model.to(device, dtype)


def recipe(network=None, train=None, save=None, data=None):
    return {
        "network": {"rank": 4, "alpha": 4, **(network or {})},
        "train": {"steps": 40, "batch_size": 2, "optimizer": "adamw", "lr": 1e-2, **(train or {})},
        "save": {"every": 10, "dtype": "fp32", **(save or {})},
        "data": {"resolutions": [32, 48], **(data or {})},
    }


def job_of(manifest, recipe_, log_dir, **more) -> TrainJob:
    settings = TrainSettings.from_recipe(recipe_)
    key = run_key(settings.slice(), manifest_digest(json.loads(manifest.read_text())), "tiny")
    return TrainJob(settings, key, manifest, load, log_dir, title="x", trigger="l3yla", **more)


def quiet(_progress):
    pass


@pytest.fixture
def trainer(make_dataset, tmp_path):
    """``run(recipe, until)`` trains in a store of its own and gives the checkpoint's tensors."""
    manifest = make_dataset()
    count = iter(range(100))

    def run(recipe_, until=4, store=None, **more):
        store = store or Store(tmp_path / f"store{next(count)}")
        job = job_of(manifest, recipe_, tmp_path / "log", **more)
        train(job, store, until, quiet)
        path = store.path("checkpoint", checkpoint_key(job.run_key, until), ".safetensors")
        return read_safetensors(path)[0]

    run.manifest = manifest
    return run


def checkpoint_bytes(store, job, steps):
    return {s: store.path("checkpoint", checkpoint_key(job.run_key, s), ".safetensors").read_bytes() for s in steps}


def state_bytes(store, job, step):
    return store.path("state", checkpoint_key(job.run_key, step), ".safetensors").read_bytes()


# --- numbers -------------------------------------------------------------------------------------------------


def test_the_first_update_is_what_the_formulas_say(make_dataset, tmp_path):
    """One step by hand on the stock model and with plain SGD-free AdamW arithmetic: time, sign, target, weights."""
    manifest = make_dataset(captions=(20, 20))
    job = job_of(manifest, recipe(train={"max_grad_norm": 0, "weight_decay": 0.0}), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(job, store, 1, quiet)
    got, _ = read_safetensors(store.path("checkpoint", checkpoint_key(job.run_key, 1), ".safetensors"))

    data = loop.TrainingData(manifest, job.settings)
    stock = build_transformer()
    adapter = loop.attach(stock, job.settings.network, 42)
    total = 0.0
    for draw in data.draws(1):
        n = randomness.noise(42, draw.index, tuple(draw.latents.shape))
        x = (1 - draw.sigma) * draw.latents + draw.sigma * n
        out = stock([x[:, None]], torch.tensor([1 - draw.sigma]), [draw.caption], return_dict=False)[0][0][:, 0]
        total = total + (-out - (n - draw.latents)).square().mean() / 2
    total.backward()
    line = json.loads((tmp_path / "log" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(total.item(), rel=1e-5)
    for name, parameter in adapter.parameters.items():
        gradient = parameter.grad
        # Adam's first step: lr * g / (|g| + eps), whatever the betas.
        expected = parameter.detach() - 1e-2 * gradient / (gradient.abs() + 1e-6)
        torch.testing.assert_close(got[f"diffusion_model.{name}"], expected, rtol=1e-3, atol=2e-4)


def held_out(manifest: Path) -> Path:
    """A manifest beside ``manifest`` whose items are held out."""
    path = manifest.with_name("held-out.json")
    path.write_text(json.dumps({"items": [], "holdout": json.loads(manifest.read_text())["items"]}))
    return path


def test_training_lowers_the_loss_at_every_noise_level(make_dataset, tmp_path):
    """One picture, learnt and then held against the bare base on noise that was never trained on."""
    manifest = make_dataset(captions=(9,), sizes=((32, 32),))
    knobs = recipe(
        network={"rank": 16, "alpha": 16}, train={"steps": 80}, save={"every": 80}, data={"resolutions": [32]}
    )
    train(job_of(manifest, knobs, tmp_path / "log", holdout=held_out(manifest)), Store(tmp_path / "store"), 80, quiet)
    lines = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 81))
    found = next(line["holdout"] for line in lines if "holdout" in line)
    assert all(found[f"on {s}"] < 0.9 * found[f"off {s}"] for s in ("0.25", "0.50", "0.75", "1.00")), found


@pytest.mark.parametrize("broken", ["sign", "time", "target"])
def test_a_broken_convention_is_noticed(make_dataset, tmp_path, monkeypatch, broken):
    real = forward.forward
    if broken == "sign":
        monkeypatch.setattr(forward, "forward", lambda m, x, t, c, n: -real(m, x, t, c, n))
    elif broken == "time":
        monkeypatch.setattr(forward, "forward", lambda m, x, t, c, n: real(m, x, 1 - t, c, n))
    else:
        monkeypatch.setattr(flow, "target", lambda x0, noise: x0 - noise)
    with pytest.raises(AssertionError):
        test_the_first_update_is_what_the_formulas_say(make_dataset, tmp_path)


def test_accumulation_equals_a_larger_batch(trainer):
    whole = trainer(recipe(train={"batch_size": 4}))
    parts = trainer(recipe(train={"batch_size": 1, "gradient_accumulation": 4}))
    other = trainer(recipe(train={"batch_size": 1, "gradient_accumulation": 2}))
    assert_near(whole, parts)
    assert not near(whole, other)


def near(a, b, tolerance=1e-3):
    return all(torch.allclose(a[k], b[k], rtol=tolerance, atol=tolerance) for k in a)


def assert_near(a, b):
    assert near(a, b)


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


# --- knobs ---------------------------------------------------------------------------------------------------

CHANGES = {
    "lr": {"train": {"lr": 5e-3}},
    "weight_decay": {"train": {"weight_decay": 0.5}},
    "warmup": {"train": {"warmup_steps": 4}},
    "cosine": {"train": {"lr_scheduler": "cosine"}},
    "linear": {"train": {"lr_scheduler": "linear"}},
    "lion": {"train": {"optimizer": "lion"}},
    "linear timesteps": {"train": {"timestep_type": "linear"}},
    "shift timesteps": {"train": {"timestep_type": "shift"}},
    "weighted timesteps": {"train": {"timestep_type": "weighted"}},
    "high noise": {"train": {"timestep_bias": "high_noise"}},
    "low noise": {"train": {"timestep_bias": "low_noise"}},
    "mae": {"train": {"loss": "mae"}},
    "huber": {"train": {"loss": "huber"}},
    "ema": {"train": {"ema": {"decay": 0.5}}},
    "seed": {"train": {"seed": 43}},
    "differential": {"train": {"preservation": {"differential": {"enabled": True, "class": "woman"}}}},
    "blank": {"train": {"preservation": {"blank": {"enabled": True}}}},
    "bf16 base": {"train": {"dtype": "bf16"}},
    "adafactor": {"train": {"optimizer": "adafactor"}},
    "prodigy": {"train": {"optimizer": "prodigy", "lr": 1.0}},
    "alpha": {"network": {"alpha": 8}},
    "dropout": {"network": {"dropout": 0.3}},
    "caption dropout": {"data": {"caption_dropout": 0.9}},
    "trigger dropout": {"data": {"caption_dropout": 0.9, "dropout_caption": "trigger"}},
    "resolutions": {"data": {"resolutions": [32]}},
}


def skip_without(knob):
    if "lion" in str(knob):
        pytest.importorskip("lion_pytorch")
    if "prodigy" in str(knob):
        pytest.importorskip("prodigyopt")


def test_knobs_that_must_not_change_the_numbers(trainer):
    base = trainer(recipe())
    assert equal(base, trainer(recipe(save={"every": 3, "keep": "all"})))
    assert equal(base, trainer(recipe(train={"steps": 9})))


def test_every_knob_changes_the_result(trainer):
    results = {"base": trainer(recipe())}
    for name, change in CHANGES.items():
        skip_without(change)
        results[name] = trainer(recipe(**change))
    names = list(results)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not equal(results[a], results[b]), f"{a} does the same as {b}"


@pytest.mark.parametrize("knob", ["dora", "lokr", "rank", "attention"])
def test_network_knobs_change_the_file_as_named(trainer, knob):
    change = {
        "dora": ({"type": "dora"}, 4 * 16, ".dora_scale"),
        "lokr": ({"type": "lokr", "rank": 2}, 4 * 16, ".lokr_w1"),
        "rank": ({"rank": 2, "alpha": 2}, 3 * 16, ".alpha"),
        "attention": ({"modules": "attention"}, 3 * 8, ".alpha"),
    }[knob]
    tensors = trainer(recipe(network=change[0]))
    assert len(tensors) == change[1] and any(key.endswith(change[2]) for key in tensors)
    if knob == "rank":
        assert {t.shape[0] for k, t in tensors.items() if "lora_A" in k} == {2}


def test_clipping_scales_the_gradient_and_reports_its_norm():
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1))]
    for limit, expected in ((1.0, 1.0), (0, 5.0), (10.0, 5.0)):
        parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([4.0])
        assert loop.clip(parameters, limit).item() == pytest.approx(5.0)
        assert torch.cat([p.grad for p in parameters]).norm().item() == pytest.approx(expected, rel=1e-4)


def test_save_dtype_only_rounds(trainer):
    full = trainer(recipe())
    assert {t.dtype for t in full.values()} == {torch.float32}
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        half = trainer(recipe(save={"dtype": name}))
        assert set(half) == set(full)
        assert all(torch.equal(full[k].to(dtype), half[k]) for k in full if not k.endswith(".alpha"))


def test_ema_is_the_mean_that_is_exported(make_dataset, tmp_path):
    plain = job_of(make_dataset(), recipe(save={"every": 1}), tmp_path / "log")
    smooth = job_of(make_dataset(), recipe(save={"every": 1}, train={"ema": {"decay": 0.5}}), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(plain, store, 3, quiet)
    train(smooth, store, 3, quiet)
    name = "layers.0.attention.to_q.lora_B.weight"

    def weights(job, step):
        path = store.path("checkpoint", checkpoint_key(job.run_key, step), ".safetensors")
        return read_safetensors(path)[0][f"diffusion_model.{name}"]

    expected = 0.0
    for step in (1, 2, 3):  # B starts at zero
        expected = 0.5 * expected + 0.5 * weights(plain, step)
    torch.testing.assert_close(weights(smooth, 3), expected, rtol=1e-5, atol=1e-7)
    state = states.newest(store, smooth.run_key, 3)
    assert torch.equal(state.tensors[f"adapter|{name}"], weights(plain, 3))
    assert torch.equal(state.tensors[f"ema|{name}"], weights(smooth, 3))


def test_preservation_holds_the_base(trainer):
    """A strong preservation term keeps the adapter closer to the base on the prompts it speaks about."""

    def drift(tensors):
        return sum(float(t.square().sum()) for k, t in tensors.items() if "lora_B" in k)

    free = drift(trainer(recipe(), 20))
    held = {"enabled": True, "multiplier": 100.0}
    assert drift(trainer(recipe(train={"preservation": {"differential": {**held, "class": "woman"}}}), 20)) < 0.8 * free
    assert drift(trainer(recipe(train={"preservation": {"blank": held}}), 20)) < 0.8 * free


def test_differential_preservation_speaks_about_each_caption(make_dataset, tmp_path):
    """The adapted and the bare model see the same noise with the class caption of each image, and only images of
    the character count."""
    manifest = make_dataset(captions=(20, 25), items=[{}, {"is_reg": True}])
    settings = recipe(train={"preservation": {"differential": {"enabled": True, "multiplier": 0.5}}})
    job = job_of(manifest, settings, tmp_path / "log")
    data = loop.TrainingData(manifest, job.settings)
    model = build_transformer()
    adapter = loop.attach(model, job.settings.network, 42)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.add_(0.1)
    calls = []
    forward.prepare(model)

    def real(x, t, caps, pad):
        return forward.forward(model, x, t, caps, pad)

    def predict(x, t, caps, pad):
        calls.append((~pad[..., 0]).sum(1).tolist())
        return real(x, t, caps, pad)

    (batch,) = data.batches(1)
    assert [draw.is_reg for draw in batch.draws] == [False, True]
    inputs = one_step.inputs_of(batch, data, torch.device("cpu"))
    total, plain = one_step.loss_of(predict, adapter, inputs, job.settings.train)
    assert calls == [[len(c) for c in batch.captions], [21], [21]]
    noisy, t = flow.noisy(batch.latents, batch.noise, batch.sigma), 1 - batch.sigma
    other = one_step.padded([data.class_caption(batch.draws[0].item)], torch.device("cpu"))
    with torch.no_grad():
        adapted = real(noisy[:1], t[:1], *other)
        with adapter.disabled():
            bare = real(noisy[:1], t[:1], *other)
    expected = (plain.sum() + 0.5 * (adapted - bare).square().mean()) / 2
    assert total.item() == pytest.approx(expected.item(), rel=1e-5) and not torch.equal(adapted, bare)


@pytest.mark.parametrize("kind", ["differential", "blank"])
def test_regularisation_items_are_not_preserved_twice(make_dataset, tmp_path, kind):
    manifest = make_dataset(items=[{}, {}, {"is_reg": True}, {"is_reg": True}])
    change = {"preservation": {kind: {"enabled": True}}}
    train(job_of(manifest, recipe(train=change), tmp_path / "log"), Store(tmp_path / "s"), 2, quiet)


def test_only_one_preservation_at_a_time():
    both = {kind: {"enabled": True} for kind in ("differential", "blank")}
    with pytest.raises(UserError, match="differential and blank are both on"):
        TrainSettings.from_recipe(recipe(train={"preservation": both}))


def test_weights_and_repeats_of_a_set_count(make_dataset, tmp_path):
    """Twice the weight is not twice the repeats, and both are another run."""
    results = []
    shares = {"plain": {}, "weight": {"weight": 2.0}, "repeats": {"repeats": 2}, "regularization": {"is_reg": True}}
    for name, own in shares.items():
        job = job_of(make_dataset(name=name, items=[{}, {}, own, own]), recipe(), tmp_path / "log")
        store = Store(tmp_path / name)
        train(job, store, 4, quiet)
        results.append(checkpoint_bytes(store, job, [4])[4])
    assert len(set(results)) == 4


# --- the same bytes ------------------------------------------------------------------------------------------

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


def test_a_run_killed_between_state_and_checkpoint_makes_the_checkpoint(make_dataset, tmp_path):
    job = job_of(make_dataset(), recipe(save={"every": 5}), tmp_path / "log")
    straight, store = Store(tmp_path / "straight"), Store(tmp_path / "store")
    train(job, straight, 20, quiet)
    train(job, store, 10, quiet)
    store.path("checkpoint", checkpoint_key(job.run_key, 10), ".safetensors").unlink()
    train(job, store, 20, quiet)
    assert checkpoint_bytes(store, job, [5, 10, 15, 20]) == checkpoint_bytes(straight, job, [5, 10, 15, 20])


def test_step_n_is_n_updates(make_dataset, tmp_path):
    job = job_of(make_dataset(), recipe(save={"every": 3}), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(job, store, 7, quiet)
    for step in (6, 7):
        state = states.read(store.path("state", checkpoint_key(job.run_key, step), ".safetensors"), job.run_key)
        counters = {float(t) for name, t in state.tensors.items() if name.endswith("|step")}
        assert state.step == step and counters == {float(step)}


# --- what is stored, and broken things -----------------------------------------------------------------------


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


def test_a_rate_of_another_kind_is_said_first(make_dataset, tmp_path):
    pytest.importorskip("prodigyopt")
    said = []
    job = job_of(make_dataset(), recipe(train={"optimizer": "prodigy", "lr": 1e-4}), tmp_path / "log")
    train(job, Store(tmp_path / "store"), 1, quiet, said.append)
    assert "train.lr 0.0001 is far from what is usual for prodigy (about 1)" in said[0]


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
    assert "000020.safetensors: this training state is damaged: set aside" in caplog.text
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


def nan_at(step_of_nan, where):
    """A ``make_engine`` whose output breaks at one call."""

    def make(*arguments):
        engine, calls = loop.build_engine(*arguments), iter(range(1, 10**6))
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
    train(replace(job, make_engine=loop.build_engine), store, 20, quiet)


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
    bare = loop.attach(build_transformer(), job.settings.network, 0)  # only asked for a switch

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
    assert loop.resolve("cpu", "auto") == (torch.device("cpu"), torch.float32)
    assert loop.resolve("cpu", "bf16") == (torch.device("cpu"), torch.bfloat16)
