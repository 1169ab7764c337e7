"""The training loop: it learns, each knob has its effect, and interruptions do not change the bytes."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import build_transformer
from train_helpers import (
    assert_near,
    checkpoint_bytes,
    equal,
    held_out,
    job_of,
    near,
    quiet,
    recipe,
    skip_without,
    trainer,  # noqa: F401
)

from charloom.core import randomness
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors
from charloom.lora.attach import attach
from charloom.train import state as states
from charloom.train import step as one_step
from charloom.train.data import TrainingData
from charloom.train.keys import checkpoint_key
from charloom.train.loop import clip, train
from charloom.train.settings import TrainSettings
from charloom.zimage import flow, forward

# --- numbers -------------------------------------------------------------------------------------------------


def test_the_first_update_is_what_the_formulas_say(make_dataset, tmp_path):
    """One step by hand on the stock model and with plain SGD-free AdamW arithmetic: time, sign, target, weights."""
    manifest = make_dataset(captions=(20, 20))
    job = job_of(manifest, recipe(train={"max_grad_norm": 0, "weight_decay": 0.0}), tmp_path / "log")
    store = Store(tmp_path / "store")
    train(job, store, 1, quiet)
    got, _ = read_safetensors(store.path("checkpoint", checkpoint_key(job.run_key, 1), ".safetensors"))

    data = TrainingData(manifest, job.settings)
    stock = build_transformer()
    adapter = attach(stock, job.settings.network, 42)
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


def test_whoever_draws_gets_every_checkpoint_once(make_dataset, tmp_path):
    seen = []

    def note(step, path, engine, asked):
        assert path is None or path.is_file()
        seen.append(step)

    job = replace(job_of(make_dataset(), recipe(save={"every": 2}), tmp_path / "log"), on_checkpoint=note)
    store = Store(tmp_path / "store")
    for until in (4, 6):
        train(job, store, until, quiet)
    assert seen == [0, 2, 4, 6]


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
    assert all(found[f"on {s}"] < 0.95 * found[f"off {s}"] for s in ("0.25", "0.50", "0.75", "1.00")), found


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
        assert clip(parameters, limit).item() == pytest.approx(5.0)
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
    data = TrainingData(manifest, job.settings)
    model = build_transformer()
    adapter = attach(model, job.settings.network, 42)
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
