"""Masks in training: exactness, flips, batches with and without one, and what they cost who has none."""

from __future__ import annotations

import json

import pytest
import torch
from train_helpers import job_of, recipe, trainer  # noqa: F401 (trainer is a fixture)

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.tensors import read_safetensors, write_safetensors
from charloom.engine.inputs import Inputs, Term
from charloom.train import losses
from charloom.train.data import TrainingData
from charloom.train.keys import manifest_digest
from charloom.train.settings import TrainSettings


def give_masks(manifest, value, weight=0.25, names=None):
    """Give items of a manifest a mask; ``value`` makes one of (h, w)."""
    made = json.loads(manifest.read_text())
    for item in made["items"]:
        if names and item["name"] not in names:
            continue
        latents = read_safetensors(manifest.parent / item["latents"])[0]
        masks = {name: value(*tensor.shape[1:]) for name, tensor in latents.items() if "." not in name}
        path = manifest.parent / f"{item['name']}.mask.safetensors"
        write_safetensors(path, masks, {})
        item |= {"mask": path.name, "mask_sha256": file_digest(path), "mask_weight": weight}
    manifest.write_text(json.dumps(made))
    return manifest


def left_half(height, width):
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1.0
    return mask


def settings(**data):
    return TrainSettings.from_recipe(recipe(data={"caption_dropout": 0.0, **data}))


def test_a_mask_of_ones_changes_no_bit(trainer):  # noqa: F811
    for kind in ("mse", "huber"):
        recipe_ = recipe(train={"loss": kind})
        plain = trainer(recipe_)
        before = manifest_digest(json.loads(trainer.manifest.read_text()))
        text = trainer.manifest.read_text()
        give_masks(trainer.manifest, torch.ones, weight=0.0)
        assert manifest_digest(json.loads(trainer.manifest.read_text())) != before, "another run"
        masked = trainer(recipe_)
        assert set(plain) == set(masked) and all(torch.equal(plain[name], masked[name]) for name in plain)
        trainer.manifest.write_text(text)


def test_a_mask_changes_what_is_learnt(trainer):  # noqa: F811
    plain = trainer(recipe())
    give_masks(trainer.manifest, left_half)
    masked = trainer(recipe())
    assert any(not torch.equal(plain[name], masked[name]) for name in plain)


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_the_loss_with_a_mask_is_the_weighted_mean(kind):
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(3, 4, 6, 5, generator=generator) for _ in range(2))
    person = (torch.rand(3, 1, 6, 5, generator=generator) > 0.4).float()
    mask = person + 0.25 * (1 - person)
    plain = {
        "mse": lambda d: d**2,
        "mae": lambda d: d.abs(),
        "huber": lambda d: (d**2 + losses.HUBER_C**2) ** 0.5 - losses.HUBER_C,
    }[kind]((prediction - target).double())
    whole = mask.double().expand_as(plain)
    expected = (plain * whole).sum((1, 2, 3)) / whole.sum((1, 2, 3))
    found = losses.per_item(prediction, target, kind, mask)
    assert torch.allclose(found.double(), expected, rtol=1e-5)
    # What is outside does not count at all with weight 0.
    outside = person.expand_as(prediction) == 0
    other = torch.where(outside, torch.randn(prediction.shape, generator=generator), prediction)
    assert torch.equal(losses.per_item(prediction, target, kind, person), losses.per_item(other, target, kind, person))


def test_weights_are_the_items_own_and_flips_turn_them(make_dataset):
    path = give_masks(make_dataset(flips=("x",)), left_half)
    data = TrainingData(path, settings(flip_x=True))
    seen = set()
    for step in range(1, 20):
        for batch in data.batches(step):
            assert batch.mask is not None and batch.mask.shape == (len(batch.draws), 1, *batch.latents.shape[2:])
            for row, draw in enumerate(batch.draws):
                latents = data._tensors(data.items[draw.item], "latents")
                (name,) = [key for key, tensor in latents.items() if torch.equal(tensor, draw.latents)]
                plain = 0.25 + 0.75 * left_half(*draw.latents.shape[1:])
                flipped = name.endswith(".flip_x")
                assert torch.equal(batch.mask[row, 0], plain.flip(1) if flipped else plain)
                seen.add(flipped)
    assert seen == {True, False}


def test_samples_without_a_mask_count_everywhere(make_dataset):
    path = give_masks(make_dataset(), left_half, names=("shot-01",))
    data = TrainingData(path, settings())
    both = [batch for step in range(1, 30) for batch in data.batches(step) if len(batch.draws) == 2]
    mixed = [batch for batch in both if batch.mask is not None]
    assert mixed and any(batch.mask is None for batch in both)
    for batch in mixed:
        for row, draw in enumerate(batch.draws):
            assert bool((batch.mask[row] == 1).all()) == (draw.name != "shot-01")


def test_a_mask_of_another_size_is_one_line(make_dataset):
    path = make_dataset()
    give_masks(path, left_half)
    made = json.loads(path.read_text())
    mask = path.parent / made["items"][0]["mask"]
    write_safetensors(mask, {"16x16": torch.ones(2, 2)}, {})
    for item in made["items"]:
        item |= {"mask": mask.name, "mask_sha256": file_digest(mask)}
    path.write_text(json.dumps(made))
    with pytest.raises(UserError, match="has no mask '.*': delete it and run again"):
        TrainingData(path, settings()).draws(1)


def test_a_recorded_step_gets_its_mask(make_dataset):
    """Inputs that are taken apart into tensors and put together again are the same, with terms and mask or without."""
    tensors = [torch.full((2, n), float(n)) for n in range(1, 14)]
    terms = (Term(*tensors[6:9], 0.5), Term(*tensors[9:12], 2.0))
    for made in (Inputs(*tensors[:6]), Inputs(*tensors[:6], terms), Inputs(*tensors[:6], terms, tensors[12]),
                 Inputs(*tensors[:6], (), tensors[12])):  # fmt: skip
        again = made.filled(tuple(tensor + 1 for tensor in made.tensors))
        assert (again.mask is None) == (made.mask is None) and len(again.terms) == len(made.terms)
        assert all(torch.equal(a, b + 1) for a, b in zip(again.tensors, made.tensors, strict=True))
        assert [term.multiplier for term in again.terms] == [term.multiplier for term in made.terms]
