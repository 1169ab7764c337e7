"""Training samples: order, sizes, captions, weights, and broken files."""

from __future__ import annotations

import json
import warnings
from collections import Counter

import pytest
import torch

from charloom.core.errors import UserError
from charloom.core.tensors import write_safetensors
from charloom.train.data import CorruptFile, TrainingData, bucket_of, read_checked
from charloom.train.keys import manifest_digest
from charloom.train.settings import TrainSettings

LATENTS = "latents/shot-02.safetensors"


def settings(train=None, data=None):
    train = {"batch_size": 1, "steps": 40, **(train or {})}
    return TrainSettings.from_recipe(
        {"train": train, "data": {"resolutions": [32, 48], "caption_dropout": 0.0, **(data or {})}}
    )


def seen(data, steps, attribute="name"):
    return [getattr(draw, attribute) for step in range(1, steps + 1) for draw in data.draws(step)]


def test_every_epoch_shows_every_item_once_in_another_order(make_dataset):
    data = TrainingData(make_dataset(), settings())
    names = seen(data, 16)
    epochs = [names[i : i + 4] for i in range(0, 16, 4)]
    assert all(sorted(epoch) == [f"shot-0{i}" for i in range(1, 5)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert names == seen(TrainingData(data.root / "dataset.json", settings()), 16)


def test_samples_do_not_depend_on_the_layout_of_batches(make_dataset):
    path = make_dataset()
    whole = TrainingData(path, settings({"batch_size": 4}))
    parts = TrainingData(path, settings({"batch_size": 1, "gradient_accumulation": 4}))
    mixed = TrainingData(path, settings({"batch_size": 2, "gradient_accumulation": 2}))
    for step in (1, 2, 5):
        noises = []
        for data in (whole, parts, mixed):
            batches = list(data.batches(step))
            assert all(len(b.captions) <= data.settings.train.batch_size for b in batches)
            by_index = {d.index: (d.name, d.sigma, n) for b in batches for d, n in zip(b.draws, b.noise, strict=True)}
            noises.append(by_index)
        for index, (name, sigma, noise) in noises[0].items():
            assert all(o[index][0] == name and o[index][1] == sigma for o in noises)
            assert all(torch.equal(o[index][2], noise) for o in noises)


def test_batches_are_of_one_shape_and_padded_length(make_dataset):
    data = TrainingData(make_dataset(captions=(5, 31, 33, 64, 65)), settings({"batch_size": 4}))
    lengths = set()
    for step in range(1, 11):
        for batch in data.batches(step):
            padded = {-(-len(c) // 32) for c in batch.captions}
            assert len(padded) == 1 and batch.latents.shape == batch.noise.shape
            lengths |= padded
    assert lengths == {1, 2, 3}


def test_preparing_ahead_gives_the_same_batches(make_dataset):
    data = TrainingData(make_dataset(), settings({"batch_size": 2}))
    for (a, first), (b, second) in zip(data.stream(range(3, 9), True), data.stream(range(3, 9), False), strict=True):
        assert a == b and len(first.batches) == len(second.batches)
        for (_, x), (_, y) in zip(first.batches, second.batches, strict=True):
            assert torch.equal(x.noise, y.noise) and torch.equal(x.latents, y.latents) and torch.equal(x.sigma, y.sigma)
    assert list(data.stream(range(5, 5), True)) == []


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_processes_share_a_step_in_the_order_of_its_places(make_dataset, count):
    data = TrainingData(make_dataset(), settings({"batch_size": 1, "gradient_accumulation": 5}))
    for step in (1, 4):
        whole = data.share(step)
        shares = [data.share(step, rank, count) for rank in range(count)]
        rounds = [len(share.batches) for share in shares]
        assert len(set(rounds)) == 1  # all take part in every exchange
        found = {place: batch for share in shares for place, batch in share.batches if batch}
        assert list(sorted(found)) == list(range(5)) and all(share.draws == whole.draws for share in shares)
        assert [found[place].draws[0].index for place in range(5)] == [draw.index for draw in whole.draws]
        filled = [sum(1 for share in shares if share.batches[i][1]) for i in range(rounds[0])]
        assert filled == [shares[0].filled(place) for place, _ in shares[0].batches]


def test_repeats_and_weight(make_dataset):
    path = make_dataset(captions=(5, 5), items=[{"repeats": 3}, {"weight": 0.25}])
    data = TrainingData(path, settings())
    assert Counter(seen(data, 8)) == {"shot-01": 6, "shot-02": 2}
    weights = {draw.name: draw.weight for step in range(1, 9) for draw in data.draws(step)}
    assert weights == {"shot-01": 1.0, "shot-02": 0.25}


def test_weighted_timesteps_weigh_the_loss(make_dataset):
    path = make_dataset()
    plain = TrainingData(path, settings({"timestep_type": "linear"}))
    bell = TrainingData(path, settings({"timestep_type": "weighted"}))
    assert seen(plain, 8, "sigma") == seen(bell, 8, "sigma")
    assert set(seen(plain, 8, "weight")) == {1.0} and len(set(seen(bell, 8, "weight"))) == 8


def test_regularisation_takes_every_second_sample_and_no_trigger(make_dataset):
    path = make_dataset(items=[{}, {}, {"is_reg": True}, {"is_reg": True}])
    data = TrainingData(path, settings(data={"caption_dropout": 1.0, "dropout_caption": "trigger"}))
    assert seen(data, 6, "is_reg") == [False, True] * 3
    assert set(seen(data, 8)[1::2]) == {"shot-03", "shot-04"}
    lengths = [len(draw.caption) for step in range(1, 5) for draw in data.draws(step)]
    assert lengths == [10, 8] * 2  # trigger alone for the character, empty for the others


def test_every_image_is_trained_at_every_resolution_and_never_scaled_up(make_dataset):
    data = TrainingData(make_dataset(sizes=((32, 32), (48, 48))), settings(data={"resolutions": [32, 48, 1024]}))
    pairs = Counter((d.name, 8 * d.latents.shape[-1]) for step in range(1, 25) for d in data.draws(step))
    # Two rounds of 4 images and 3 sizes, of which the largest is beyond them.
    assert pairs == {(f"shot-0{i}", side): times for i in range(1, 5) for side, times in ((32, 2), (48, 4))}
    assert bucket_of(["64x48", "48x64", "16x16"], 48) == "16x16"
    assert bucket_of(["64x48", "16x16", "64x48.flip_x"], 64) == "64x48"
    too_small = TrainingData(make_dataset(sizes=((48, 48),), name="large"), settings(data={"resolutions": [32]}))
    with pytest.raises(UserError, match="data.resolutions"):
        too_small.draws(1)


@pytest.mark.parametrize(("kind", "length"), [("trigger", 10), ("empty", 8)])
def test_caption_dropout(make_dataset, kind, length):
    path = make_dataset(captions=(20, 20))
    data = TrainingData(path, settings(data={"caption_dropout": 0.25, "dropout_caption": kind}))
    lengths = Counter(len(d.caption) for step in range(1, 401) for d in data.draws(step))
    assert set(lengths) == {20, length} and 60 <= lengths[length] <= 140
    without = TrainingData(path, settings())
    assert {len(d.caption) for step in range(1, 401) for d in without.draws(step)} == {20}
    # Nothing but the caption changes.
    assert seen(data, 50, "sigma") == seen(without, 50, "sigma") and seen(data, 50) == seen(without, 50)


def test_flips_are_separate_latents(make_dataset):
    path = make_dataset(sizes=((32, 32),), flips=("x", "y", "xy"))
    with pytest.warns(UserWarning, match="flips"):
        data = TrainingData(path, settings(data={"flip_x": True}))
    plain = TrainingData(path, settings())
    kinds = Counter()
    for step in range(1, 101):
        a, b = data.draws(step)[0], plain.draws(step)[0]
        assert a.name == b.name and a.sigma == b.sigma
        kinds["same" if torch.equal(a.latents, b.latents) else "flipped"] += 1
        assert torch.equal(a.latents, b.latents) or torch.equal(a.latents, b.latents.flip(-1))
    assert 30 <= kinds["flipped"] <= 70
    with pytest.warns(UserWarning):
        both = TrainingData(make_dataset(name="none"), settings(data={"flip_x": True, "flip_y": True}))
    with pytest.raises(UserError, match="which data.flip_. needs"):
        seen(both, 8)


def test_items_may_have_settings_of_their_own(make_dataset):
    own = {"resolutions": [32], "caption_dropout": 1.0, "flip_y": True}
    path = make_dataset(captions=(20, 20), flips=("x", "y", "xy"), items=[{}, own])
    with pytest.warns(UserWarning, match="flips"):
        data = TrainingData(path, settings(data={"dropout_caption": "trigger"}))
    plain = TrainingData(make_dataset(captions=(20, 20), name="plain"), settings())
    flipped, sides = 0, Counter()
    for step in range(1, 61):
        got, other = data.draws(step)[0], plain.draws(step)[0]
        assert (got.sigma, got.weight) == (other.sigma, other.weight)
        sides[got.name, 8 * got.latents.shape[-1]] += 1
        kept = any(
            torch.equal(got.latents, t)
            for n, t in data._files[f"latents/{got.name}.safetensors"].items()
            if "." not in n
        )
        if got.name == "shot-01":
            assert kept and len(got.caption) == 20
        else:
            assert len(got.caption) == 10
            flipped += not kept
    assert sides == {("shot-01", 32): 15, ("shot-01", 48): 15, ("shot-02", 32): 30} and 5 <= flipped <= 25
    # A regularisation image may be mirrored without a word.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainingData(make_dataset(items=[{}, {"is_reg": True, "flip_x": True}]), settings())


def test_what_an_item_has_of_its_own_makes_another_run(make_dataset):
    digests = {
        manifest_digest(json.loads(make_dataset(captions=(5, 5), items=[{}, own], variants=False).read_text()))
        for own in ({}, {"resolutions": [32]}, {"caption_dropout": 0.0}, {"flip_x": True}, {"flip_y": True})
        + ({"weight": 2}, {"repeats": 2}, {"is_reg": True}, {"class_embeddings_sha256": "0"})
    }
    assert len(digests) == 9


def test_class_captions_are_the_items_own(make_dataset):
    path = make_dataset(captions=(5, 20), items=[{}, {"is_reg": True}])
    data = TrainingData(path, settings(data={"caption_dropout": 1.0}))
    expected = read_checked(path.parent / "embeddings/shot-01.class.safetensors", None)["embeds"]
    assert torch.equal(data.class_caption(0), expected) and len(expected) == 6
    with pytest.raises(UserError, match="item shot-02 has no class caption"):
        data.class_caption(1)


def test_sigma_histogram_is_of_what_was_seen(make_dataset):
    data = TrainingData(make_dataset(), settings({"batch_size": 2}))
    values = seen(data, 10, "sigma")
    assert sum(data.sigma_histogram(10)) == 20
    assert data.sigma_histogram(10)[10] == sum(0.5 <= v < 0.55 for v in values)


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "bytes":
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(bytes(content))
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("part", ["latents", "embeddings"])
@pytest.mark.parametrize("how", ["missing", "bytes", "truncated"])
def test_broken_files_are_named_and_never_used(make_dataset, part, how):
    path = make_dataset(captions=(5,))
    broken = path.parent / part / "shot-01.safetensors"
    damage(broken, how)
    data = TrainingData(path, settings())
    with pytest.raises(CorruptFile, match=f"{part}/shot-01.safetensors.*rebuilt") as error:
        data.draws(1)
    assert error.value.path == broken


def test_nan_is_found_even_when_the_hash_fits(make_dataset):
    from charloom.core.canonical import file_digest

    path = make_dataset(captions=(5,))
    broken = path.parent / "latents" / "shot-01.safetensors"
    write_safetensors(broken, {"32x32": torch.full((16, 4, 4), torch.nan)}, {})
    manifest = json.loads(path.read_text())
    manifest["items"][0]["latents_sha256"] = file_digest(broken)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptFile, match="NaN"):
        TrainingData(path, settings()).draws(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such manifest"),
        ("{", "not a data set manifest"),
        ('[{"name": "a", "latents": "x"}]', "item a has no latents_sha256"),
        ("[]", "no image to train on"),
    ],
)
def test_wrong_manifests_are_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=message):
        TrainingData(tmp_path / "dataset.json", settings())


def test_missing_variant_is_named(make_dataset):
    data = TrainingData(make_dataset(variants=False), settings(data={"caption_dropout": 1.0}))
    with pytest.raises(UserError, match="variant 'empty' is missing"):
        data.draws(1)
