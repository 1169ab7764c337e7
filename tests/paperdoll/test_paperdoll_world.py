"""The drawn world: the same picture for the same arguments, and words that mean what is drawn."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from charloom.paperdoll import attributes, language
from charloom.paperdoll.attributes import IDENTITY_VALUES, SCENE_VALUES, Identity, Scene
from charloom.paperdoll.draw import draw, stamp_watermark


def pixels(identity: Identity, scene: Scene, size: int = 96, seed: int = 1) -> np.ndarray:
    return np.asarray(draw(identity, scene, size, seed=seed)).astype(int)


def test_drawing_is_deterministic_and_leaves_the_global_generator_alone():
    state = random.getstate()
    first = pixels(Identity(), Scene())
    assert np.array_equal(first, pixels(Identity(), Scene()))
    assert random.getstate() == state
    assert not np.array_equal(first, pixels(Identity(), Scene(), seed=2))


@pytest.mark.parametrize("size", [64, 192, 256])
def test_any_size_has_the_same_composition(size):
    small = np.asarray(draw(Identity(), Scene(tier="medium"), size, seed=5).resize((32, 32))).astype(int)
    large = np.asarray(draw(Identity(), Scene(tier="medium"), 512, seed=5).resize((32, 32))).astype(int)
    assert np.abs(small - large).mean() < 6


@pytest.mark.parametrize("key", sorted(IDENTITY_VALUES))
def test_every_identity_value_changes_a_close_up(key):
    drawn = [pixels(dataclasses.replace(Identity(), **{key: value}), Scene()) for value in IDENTITY_VALUES[key]]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one - other).max() > 30


@pytest.mark.parametrize("key", sorted(set(SCENE_VALUES) - {"tier", "view"}))
def test_every_scene_value_changes_the_picture(key):
    scene = Scene(tier="full-body" if key in ("arms", "stance") else "close-up")
    drawn = [pixels(Identity(), dataclasses.replace(scene, **{key: value})) for value in SCENE_VALUES[key]]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one - other).max() > 30


def test_identity_and_scene_are_independent():
    rng = random.Random(3)
    pairs = [(attributes.random_identity(rng), attributes.random_scene(rng)) for _ in range(4000)]
    for identity_key, scene_key in (("skin", "background"), ("hair_style", "outfit"), ("lips", "color")):
        a = np.array([IDENTITY_VALUES[identity_key].index(getattr(i, identity_key)) for i, _ in pairs])
        b = np.array([SCENE_VALUES[scene_key].index(getattr(s, scene_key)) for _, s in pairs])
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


def test_watermark_lies_in_the_corner_that_is_cropped():
    image = draw(Identity(), Scene(), 2048, seed=0)
    changed = np.abs(np.asarray(stamp_watermark(image)).astype(int) - np.asarray(image).astype(int)).max(axis=2) > 0
    rows, columns = np.nonzero(changed)
    assert len(rows) > 500
    assert rows.min() >= 2048 - 150 and columns.min() >= 2048 - 150


def test_a_caption_names_what_can_be_seen_and_nothing_else():
    rng = random.Random(0)
    for _ in range(1500):
        identity, scene = attributes.random_identity(rng), attributes.random_scene(rng)
        text = language.describe(identity, scene, language.random_trigger(rng))
        found = language.parse(text)
        seen = attributes.visible(scene)
        for key in SCENE_VALUES:
            value = getattr(scene, key)
            expected = value if seen[key] and value != "none" else None
            assert found.get(key) == expected, (key, text)
        assert found["hair_style"] == identity.hair_style
        assert found["hair_color"] == identity.hair_color
        assert ("eye_color" in found) == seen["eye_color"]


def test_what_a_lora_must_learn_has_no_words():
    rng = random.Random(1)
    words = " ".join(
        language.training_caption(attributes.random_identity(rng), attributes.random_scene(rng), rng)
        for _ in range(2000)
    )
    for word in ("skin", "olive", "porcelain", "brows", "lips", "freckles", "face"):
        assert f" {word}" not in words


def test_a_scene_comes_back_from_its_words():
    rng = random.Random(2)
    for _ in range(300):
        scene = attributes.normalise(attributes.random_scene(rng))
        again = language.scene_from(language.describe(Identity(), scene))
        if attributes.visible(scene)["outfit"]:
            assert again == scene


def test_random_triggers_are_short_and_no_words():
    rng = random.Random(4)
    for _ in range(500):
        trigger = language.random_trigger(rng)
        assert 3 <= len(trigger) <= 6 and any(c.isdigit() for c in trigger)
