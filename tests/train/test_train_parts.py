"""Parts of training, each on its own: settings, random streams, noise levels, losses, buckets, optimizers."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from charloom.config import knobs, schema, yaml
from charloom.core import randomness
from charloom.core.errors import UserError
from charloom.dataset import lint
from charloom.dataset.buckets import bucket, buckets, cover_box, problem
from charloom.lora.network import Network
from charloom.train import losses, timesteps
from charloom.train.data import bucket_of
from charloom.train.keys import manifest_digest, run_key
from charloom.train.settings import SECTIONS, Data, Optimisation, Preservation, Save, TrainSettings


def test_defaults_are_the_guides():
    s = TrainSettings.from_recipe({})
    assert (s.network.type, s.network.rank, s.network.alpha, s.network.modules) == ("lora", 32, 32, "default")
    assert (s.train.steps, s.train.batch_size, s.train.optimizer, s.train.lr) == (3000, 1, "adamw8bit", 1e-4)
    assert (s.train.weight_decay, s.train.timestep_type, s.train.timestep_bias) == (1e-4, "sigmoid", "balanced")
    assert (s.train.loss, s.train.ema, s.save.dtype, s.save.every, s.save.keep) == ("mse", None, "bf16", 250, 4)
    assert (s.data.caption_dropout, s.data.resolutions, s.data.flip_x) == (0.05, (512, 768, 1024), False)


KNOBS = dict(knobs.leaves(schema.load_schema("recipe")))
HELD = {
    f.metadata["knob"]: (cls, f.name) for cls in (Network, Optimisation, Save, Data) for f in fields(cls) if f.metadata
}
NOT_THE_TRAINERS = (
    "data.repeats",
    "data.weight",
    "data.default_caption",
    "data.mask_weight",
    "train.preservation.differential.class",
    "network.init",
)


def nested(knob, value):
    for part in reversed(knob.split(".")):
        value = {part: value}
    return value


def test_the_trainer_knows_every_knob_of_the_schema():
    """Those that the data set stage reads aside; preservation has a class of its own."""
    known = {*HELD, *NOT_THE_TRAINERS}
    known |= {f"train.preservation.{k}.{n}" for k in ("differential", "blank") for n in ("enabled", "multiplier")}
    assert known == {knob for knob in KNOBS if knob.split(".")[0] in SECTIONS}
    assert Preservation() == Preservation(
        *(KNOBS[f"train.preservation.blank.{name}"]["default"] for name in ("enabled", "multiplier"))
    )


@pytest.mark.parametrize("knob", [k for k in KNOBS if k.split(".")[0] in SECTIONS])
def test_defaults_and_bounds_are_the_schemas(knob):
    """What the workflow takes the trainer takes, and what it refuses the trainer refuses; alone, and in its default."""
    node = KNOBS[knob]
    whole = TrainSettings.from_recipe({})
    if knob in HELD:
        cls, name = HELD[knob]
        assert getattr(cls(), name) == getattr(getattr(whole, knob.split(".")[0]), name)
    if "default" in node:
        explicit = yaml.merge(nested(knob, node["default"]), nested("train.steps", 3000) if "warmup" in knob else {})
        assert TrainSettings.from_recipe(explicit) == whole
    for part in [node, node.get("items", {}), *node.get("anyOf", ())]:
        for bound, inside, outside in (
            ("minimum", 0, -1),
            ("maximum", 0, 1),
            ("exclusiveMinimum", 1e-9, 0),
            ("exclusiveMaximum", -1e-9, 0),
        ):
            if bound not in part:
                continue
            step = part.get("multipleOf", 1)
            for move, fine in ((inside * step, True), (outside * step, False)):
                value = [part[bound] + move] if part is node.get("items") else part[bound] + move
                if fine:
                    TrainSettings.from_recipe(nested(knob, value))
                else:
                    with pytest.raises(UserError, match=knob.replace(".", r"\.")):
                        TrainSettings.from_recipe(nested(knob, value))
        for word in part.get("enum", ()):
            TrainSettings.from_recipe(nested(knob, word))
    with pytest.raises(UserError, match=knob.replace(".", r"\.")):
        TrainSettings.from_recipe(nested(knob, {"no": "such"}))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"train": {"stepz": 1}}, "recipe: train.stepz: unknown key; did you mean steps?"),
        ({"train": {"lr": "fast"}}, "recipe: train.lr: the text 'fast' is not valid"),
        ({"train": {"lr": -1}}, "recipe: train.lr: must be more than 0, not -1"),
        ({"train": {"steps": 1.5}}, "train.steps: must be a whole number, not 1.5"),
        ({"train": {"batch_size": True}}, "train.batch_size: must be a whole number, not true"),
        ({"train": {"optimizer": "sgd"}}, "train.optimizer: the text 'sgd' is not known"),
        ({"train": {"ema": "yes"}}, "train.ema: the text 'yes' is not valid"),
        ({"train": {"warmup_steps": 9, "steps": 5}}, "train.warmup_steps: is more than train.steps 5"),
        ({"train": {"preservation": {"other": {}}}}, "train.preservation.other: unknown key"),
        ({"network": {"modules": ["("]}}, "network.modules: '(' is not a regular expression"),
        ({"network": {"rank": 0}}, "network.rank: must be at least 1, not 0"),
        ({"network": {"lokr_factor": 0}}, "network.lokr_factor: must be at least 1, not 0"),
        ({"network": {"rank": 513}}, "network.rank: must be at most 512, not 513"),
        ({"save": {"keep": "best"}}, "save.keep: the text 'best' is not valid"),
        ({"data": {"resolutions": [500]}}, "data.resolutions[1]: must be a multiple of 16, not 500"),
        ({"data": {"caption_dropout": 2}}, "data.caption_dropout: must be at most 1"),
    ],
)
def test_wrong_settings_are_named(recipe, message):
    with pytest.raises(UserError, match=re.escape(message)):
        TrainSettings.from_recipe(recipe)


def test_other_sections_and_yaml_habits_are_understood():
    s = TrainSettings.from_recipe(
        {
            "quantization": {"transformer": "float8"},
            "sample": {"every": 3},
            "network": {"rank": 8, "alpha": 4, "modules": ["to_q$"]},
            "train": {"ema": False, "lr": "2e-3", "preservation": {"differential": {"enabled": True, "class": "man"}}},
            "data": {"repeats": 2},
            "save": None,
        }
    )
    assert s.network.modules == ("to_q$",) and s.network.alpha == 4.0 and s.train.ema is None and s.train.lr == 2e-3
    assert s.train.differential.enabled and not s.train.blank.enabled
    assert TrainSettings.from_recipe({"train": {"ema": {"decay": 0.9}}}).train.ema == 0.9


def rate_of(given, base=None):
    return knobs.learning_rate({"train": given}, {"train": base or {}})


def test_the_learning_rate_is_that_of_the_optimiser_unless_it_is_given():
    usual = {"adamw8bit": 1e-4, "adamw": 1e-4, "adafactor": 1e-4, "lion": 3e-5, "prodigy": 1.0}
    assert {name: rate_of({"optimizer": name}) for name in KNOBS["train.optimizer"]["enum"]} == usual
    assert {n: TrainSettings.from_recipe({"train": {"optimizer": n}}).train.lr for n in usual} == usual
    assert rate_of({}) == rate_of({"lr": "auto"}) == 1e-4 and rate_of({"optimizer": "prodigy", "lr": 1e-4}) == 1e-4


def test_the_rate_of_a_base_is_meant_for_its_optimiser():
    """The miniature wants 20 times AdamW's usual rate, and nothing of the kind from Prodigy."""
    base = {"optimizer": "adamw", "lr": 2e-3}
    assert rate_of({}, base) == rate_of({"optimizer": "adamw8bit"}, base) == 2e-3
    assert rate_of({"optimizer": "lion"}, base) == 6e-4 and rate_of({"optimizer": "prodigy"}, base) == 1.0
    assert rate_of({"optimizer": "prodigy", "lr": 0.5}, base) == 0.5 and rate_of({"lr": 1e-5}, base) == 1e-5
    assert rate_of({}, {"optimizer": "prodigy"}) == 1.0
    assert rate_of({"optimizer": "adamw"}, {"optimizer": "prodigy", "lr": 0.5}) == 1e-4


@pytest.mark.parametrize(("optimizer", "rate"), [("prodigy", 1e-4), ("prodigy", 2e-3), ("adamw", 1.0), ("lion", 1e-8)])
def test_a_rate_of_another_kind_is_mentioned(optimizer, rate):
    line = knobs.odd_rate(optimizer, rate)
    assert f"train.lr {rate:g} is far from what is usual for {optimizer}" in line and "auto" in line
    assert ("hardly anything" in line) == (rate < knobs.usual_rates()[optimizer])


def test_usual_rates_are_not_mentioned():
    for optimizer, usual in knobs.usual_rates().items():
        assert not any(knobs.odd_rate(optimizer, usual * factor) for factor in (0.05, 0.5, 1, 2, 20))


def test_a_running_mean_that_is_too_slow_is_mentioned():
    """It begins at nothing: 0.9999 over 3000 steps would ship a quarter of the LoRA."""
    line = knobs.odd_mean(0.9999, 3000)
    assert "about 10,000 steps" in line and "74% of the exported LoRA" in line and "0.999 or less" in line
    assert "0.7 or less" in knobs.odd_mean(0.9, 10) and "0.5 or less" in knobs.odd_mean(0.99, 1)
    assert not any(knobs.odd_mean(*fine) for fine in ((None, 1), (0.99, 3000), (0.999, 3000), (0.99, 250)))


def key(recipe):
    return run_key(TrainSettings.from_recipe(recipe).slice(), "data", "base", 1)


def test_run_key_covers_what_changes_results_and_nothing_else():
    base = key({})
    same = [{"train": {"steps": 4000}}, {"save": {"every": 100}}, {"save": {"keep": "all"}}, {"sample": {"steps": 9}}]
    assert {key(recipe) for recipe in same} == {base}
    other = [
        *[{"network": n} for n in ({"rank": 8}, {"alpha": 8}, {"type": "dora"}, {"modules": "attention"})],
        *[{"train": {k: v}} for k, v in (("lr", 1e-5), ("seed", 1), ("loss", "mae"), ("ema", {"decay": 0.9}))],
        {"train": {"preservation": {"blank": {"enabled": True}}}},
        {"save": {"dtype": "fp32"}},
        {"data": {"caption_dropout": 0.1}},
        {"train": {"lr_scheduler": "cosine"}},
        {"train": {"lr_scheduler": "cosine", "steps": 4000}},  # here the total does matter
    ]
    assert len({base, *[key(recipe) for recipe in other]}) == len(other) + 1
    s = TrainSettings.from_recipe({}).slice()
    assert (
        len({run_key(s, "a", "b", 1), run_key(s, "x", "b", 1), run_key(s, "a", "x", 1), run_key(s, "a", "b", 2)}) == 4
    )


def test_manifest_digest_ignores_paths_and_sees_contents():
    item = {"name": "a", "latents": "x", "latents_sha256": "1", "embeddings": "y", "embeddings_sha256": "2"}
    base = manifest_digest([item])
    assert manifest_digest([{**item, "latents": "elsewhere", "caption": "c", "image": "z"}]) == base
    assert manifest_digest({"items": [{**item, "weight": 1, "repeats": 1, "is_reg": False}]}) == base
    changes = [{"latents_sha256": "9"}, {"embeddings_sha256": "9"}, {"weight": 2}, {"repeats": 2}, {"is_reg": True}]
    assert len({base, *[manifest_digest([{**item, **c}]) for c in changes]}) == 6


def test_steps_with_a_checkpoint():
    settings = TrainSettings.from_recipe({"train": {"steps": 7}, "save": {"every": 3}})
    assert settings.checkpoint_steps() == [3, 6, 7] and settings.checkpoint_steps(6) == [3, 6]


def test_randomness_is_a_function_of_its_name():
    assert torch.equal(randomness.noise(1, 5, (16, 4, 4)), randomness.noise(1, 5, (16, 4, 4)))
    others = [randomness.noise(2, 5, (16,)), randomness.noise(1, 6, (16,)), randomness.normals(1, "x", (16,), 5)]
    assert not any(torch.equal(randomness.noise(1, 5, (16,)), other) for other in others)
    assert sorted(randomness.permutation(1, "order", 30, 0)) == list(range(30))
    assert list(randomness.permutation(1, "order", 30, 0)) != list(randomness.permutation(1, "order", 30, 1))


@pytest.mark.parametrize("seed", range(8))
def test_keys_are_the_digest_to_the_last_bit(seed):
    """Also where a word is 2^63 or more, which NumPy makes a float64 of as soon as the other one is less."""
    for purpose in ("noise", "sigma", "order", "caption-dropout"):
        digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
        key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
        philox = np.random.Philox(counter=[0, 7, 0, 0], key=np.array(key, dtype=np.uint64))
        assert philox.state["state"]["key"].tolist() == key
        assert randomness.raw(seed, purpose, 4, 7).tolist() == philox.random_raw(4).tolist()


def test_randomness_is_stable_across_releases():
    """Frozen values: if these change, every character is retrained, and recipe number `train` must be raised."""
    assert randomness.raw(42, "noise", 2, 7).tolist() == FROZEN_WORDS
    assert randomness.noise(42, 7, (3,)).tolist() == pytest.approx(FROZEN_NOISE, abs=1e-6)


FROZEN_WORDS = [6860120287964478556, 6100193841038640900]
FROZEN_NOISE = [-0.3910674, -0.4640892, 1.3510708]


def test_noise_is_standard_normal():
    x = randomness.noise(3, 0, (16, 128, 128)).double()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01 and abs(x.pow(4).mean() - 3) < 0.05
    y = randomness.noise(3, 1, (16, 128, 128)).double()
    assert abs((x * y).mean()) < 0.01
    u = randomness.uniforms(3, "u", 100_000)
    assert 0 < u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.01


def test_noise_speed_is_no_bottleneck():
    import time

    start = time.process_time()
    for i in range(5):
        randomness.noise(1, i, (16, 64, 64))
    assert (time.process_time() - start) / 5 < 0.1


def sigmas(kind, bias="balanced", count=4000):
    return np.array([timesteps.sigma(1, i, kind, bias) for i in range(count)])


def test_sigma_distributions():
    assert sigmas("linear").mean() == pytest.approx(0.5, abs=0.02)
    assert sigmas("linear").std() == pytest.approx(12**-0.5, abs=0.01)
    logits = np.log(sigmas("sigmoid") / (1 - sigmas("sigmoid")))
    assert logits.mean() == pytest.approx(0, abs=0.05) and logits.std() == pytest.approx(1, abs=0.03)
    s = sigmas("linear")
    assert np.allclose(sigmas("shift"), 3 * s / (1 + 2 * s))
    assert np.array_equal(sigmas("weighted"), s)


def test_bias_moves_the_noise_level():
    for kind in ("linear", "sigmoid", "shift"):
        low, mid, high = (sigmas(kind, b).mean() for b in ("low_noise", "balanced", "high_noise"))
        assert low < mid - 0.1 and high > mid + 0.1
    # ai-toolkit's cubes: sigma = 1 - u^3 and u^3 on the linear schedule, with means 3/4 and 1/4.
    assert sigmas("linear", "high_noise").mean() == pytest.approx(0.75, abs=0.02)
    assert sigmas("linear", "low_noise").mean() == pytest.approx(0.25, abs=0.02)


def test_bell_weights():
    values = [timesteps.loss_weight((i + 0.5) / 1000, "weighted") for i in range(1000)]
    assert np.mean(values) == pytest.approx(1.0, abs=0.01) and max(values) == pytest.approx(1.522, abs=0.01)
    for sigma, weight in ((1.0, 0.906), (0.5, 0.925), (0.002, 0.446), (0.0, 0.446)):
        assert timesteps.loss_weight(sigma, "weighted") == pytest.approx(weight, abs=0.005)
    assert timesteps.loss_weight(0.3, "sigmoid") == 1.0


def test_histogram_and_bands():
    assert timesteps.histogram([0.0, 0.04, 0.05, 1.0]) == [2, 1, *[0] * 16, 0, 1]
    assert [timesteps.band(s) for s in (0.0, 0.25, 0.74, 0.75, 1.0)] == [0, 1, 2, 3, 3]


def test_losses():
    a, b = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.5]])
    assert losses.per_item(a, b, "mse").tolist() == pytest.approx([5.0, 0.125])
    assert losses.per_item(a, b, "mae").tolist() == pytest.approx([2.0, 0.25])
    huber = [(math.hypot(1, 0.01) + math.hypot(3, 0.01)) / 2 - 0.01, (math.hypot(0.5, 0.01) + 0.01) / 2 - 0.01]
    assert losses.per_item(a, b, "huber").tolist() == pytest.approx(huber, rel=1e-4)
    assert losses.per_item(a.bfloat16(), b.bfloat16(), "mse").dtype == torch.float32
    bare = b.clone().requires_grad_()
    losses.preservation(a.requires_grad_(), bare).sum().backward()
    assert bare.grad is None and a.grad is not None


def test_buckets_never_scale_up():
    assert bucket(1898, 1898, 1024) == (1024, 1024) and bucket(1898, 1898, 512) == (512, 512)
    assert buckets(256, 256, (128, 192, 256)) == [(128, 128), (192, 192), (256, 256)]
    assert buckets(600, 600, (512, 768, 1024)) == [(512, 512), (592, 592)]
    for size in ((1920, 1080), (1080, 1920), (333, 777), (100, 5000), (16, 16), (1024, 1000)):
        for resolution in (256, 512, 1024):
            w, h = bucket(*size, resolution)
            assert w % 16 == 0 and h % 16 == 0 and w <= max(size[0], 16) and h <= max(size[1], 16)
            assert w * h <= min(size[0] * size[1], resolution**2)
            left, top, right, bottom = cover_box(*size, (w, h))
            assert left >= -1e-6 and top >= -1e-6 and (right - left) / (bottom - top) == pytest.approx(w / h)
    with pytest.raises(UserError, match="too small"):
        bucket(8, 100, 512)


def test_every_image_has_a_bucket_that_is_found_again():
    """However narrow, and whatever the resolution: it fits the image, the resolution and the transformer."""
    sides = (16, 17, 31, 64, 65, 100, 333, 1000, 1280, 4096, 8200, 20000)
    for width, height in itertools.product(sides, sides):
        for resolution in (32, 64, 80, 512, 1024, 2048):
            w, h = bucket(width, height, resolution)
            assert w % 16 == 0 and h % 16 == 0 and 16 <= w <= width and 16 <= h <= height
            assert w * h <= resolution**2 and max(w, h) // 16 <= 512  # positions of the transformer
            names = {f"{a}x{b}": None for a, b in buckets(width, height, (resolution, 512))}
            assert bucket_of(names, resolution) is not None and bucket_of(names, 512) is not None


def test_a_strip_is_named_before_it_is_cropped_to_nothing():
    assert bucket(64, 1280, 64) == (16, 256) and problem(64, 1280, [64, 512]) is None
    assert problem(1898, 1898, [512, 768, 1024]) is None and problem(1920, 1080, [128, 192, 256]) is None
    assert "64x9000 is so narrow that only 11% of it would be seen at 16x256; crop" in problem(64, 9000, [64, 512])
    assert "a side below 16 pixels" in problem(15, 900, [512]) and problem(64, 9000, []) is None


def test_the_check_of_the_data_set_names_strips(tmp_path):
    for name, size in (("strip", (64, 4000)), ("fine", (640, 640))):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / f"{name}.png")
    names = {name: f"{name}.png" for name in ("strip", "fine")}
    items = [lint.Item(name, None, lint.facts(tmp_path / file), "", file) for name, file in names.items()]
    settings = {"trigger": "m4ra", "shots": [], "minimum": 64, "resolutions": [64, 512]}
    found = [f for f in lint.lint(items, settings) if f.level != "note"]
    assert [(f.level, f.where) for f in found] == [("warning", "strip.png")] and "so narrow" in found[0].what
