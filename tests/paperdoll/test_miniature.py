"""The shipped miniature base: loads in stock diffusers, stays small, and does what its card says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline

from charloom.paperdoll import attributes, language
from charloom.paperdoll.attributes import TABLES
from charloom.paperdoll.draw import draw
from charloom.paperdoll.probe import Probe
from charloom.zimage import sampler, text, vae, weights

FOLDER = Path(__file__).resolve().parents[2] / "resources/bases/paperdoll"


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe.load(FOLDER / "probe.safetensors")


@pytest.fixture(scope="module")
def people() -> list[tuple[attributes.Identity, attributes.Scene]]:
    rng = random.Random(77)
    return [(attributes.random_identity(rng), attributes.random_scene(rng)) for _ in range(120)]


@pytest.fixture(scope="module")
def drawn(people) -> np.ndarray:
    return np.stack([np.asarray(draw(*person, 256, seed=900 + i)) for i, person in enumerate(people)])


def test_everything_fits_into_25_megabytes():
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.name != "probe.safetensors"]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    assert (FOLDER / "probe.safetensors").stat().st_size <= 3_000_000


def test_the_stock_pipeline_draws_the_same_picture():
    pipeline = ZImagePipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompt = "a medium shot photo of a woman, frontal view, wearing a red hoodie, beach"
    embeds = text.encode(*weights.load_text_encoder(FOLDER), [prompt])
    images = sampler.sample(
        weights.load_transformer(FOLDER), weights.load_vae(FOLDER), embeds, width=128, height=128, seeds=[3]
    )
    noise = sampler.initial_noise(3, 16, 128, 128)[None]
    stock = pipeline(
        prompt, height=128, width=128, num_inference_steps=8, guidance_scale=0.0, latents=noise, output_type="np"
    ).images
    assert np.abs(images.astype(int) - (stock * 255).round().astype(int)).max() <= 2


def test_autoencoder_reconstructs_above_28_db(drawn):
    model = weights.load_vae(FOLDER)
    pixels = vae.from_uint8(torch.from_numpy(drawn[:8].copy()))
    error = (vae.decode(model, vae.encode(model, pixels)) - pixels).pow(2).mean(dim=(1, 2, 3)) / 4
    assert (-10 * torch.log10(error)).mean() >= 28


def test_probe_reads_drawn_pictures(probe, people, drawn):
    read = probe.read(drawn)["attributes"]
    right: dict[str, list[bool]] = {key: [] for key in TABLES}
    for index, (identity, scene) in enumerate(people):
        for key in TABLES:
            if attributes.visible(scene, identity)[key]:
                value = getattr(identity if key in attributes.IDENTITY_VALUES else scene, key)
                right[key].append(TABLES[key][read[key][index].argmax()] == value)
    share = {key: float(np.mean(values)) for key, values in right.items()}
    for key, value in share.items():
        assert value >= 0.95, (key, share)


def test_one_person_is_nearer_to_herself_than_to_strangers(probe):
    rng = random.Random(5)
    people = [attributes.random_identity(rng) for _ in range(6)]
    scenes = [attributes.normalise(attributes.random_scene(rng)) for _ in range(5)]
    images = np.stack([np.asarray(draw(p, s, 256, seed=i)) for p in people for i, s in enumerate(scenes)])
    vectors = probe.read(images)["identity"].reshape(6, 5, -1).mean(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    singles = probe.read(images)["identity"].reshape(6, 5, -1)
    same = np.einsum("pse,pe->ps", singles, vectors).mean()
    others = [singles[a] @ vectors[b] for a in range(6) for b in range(6) if a != b]
    assert same > 0.75
    assert np.mean(others) < 0.35


def test_training_adapter_fits_and_changes_the_base():
    from charloom.lora import adapter

    model = weights.load_transformer(FOLDER)
    before = {name: p.clone() for name, p in model.named_parameters()}
    merged = adapter.merge(model, FOLDER / "training_adapter.safetensors")
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(changed) == merged.modules == 64
    assert all(name.startswith("layers.") for name in changed)


def test_the_card_was_measured():
    measured = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))
    assert measured["shipped"]["obedience"]["256"]["prompts"] == 500


def test_prompts_are_followed_and_a_trigger_alone_changes_nothing(probe):
    rng = random.Random(123)
    prompts, people = [], []
    for _ in range(12):
        identity, scene = attributes.random_identity(rng), attributes.random_scene(rng)
        people.append((identity, scene))
        prompts.append(language.describe(identity, scene, "l3yla"))
    tokenizer, encoder = weights.load_text_encoder(FOLDER)
    model, autoencoder = weights.load_transformer(FOLDER), weights.load_vae(FOLDER)
    reads = []
    for trigger in ("l3yla", "qm7ra"):
        embeds = text.encode(tokenizer, encoder, [prompt.replace("l3yla", trigger) for prompt in prompts])
        images = sampler.sample(model, autoencoder, embeds, width=256, height=256, seeds=list(range(12)))
        reads.append({k: v.argmax(-1) for k, v in probe.read(images)["attributes"].items()})
    for key, floor in {"tier": 0.9, "background": 0.9, "color": 0.9, "outfit": 0.8, "expression": 0.7}.items():
        seen = [i for i, (identity, scene) in enumerate(people) if attributes.visible(scene, identity)[key]]
        right = [TABLES[key][reads[0][key][i]] == getattr(people[i][1], key) for i in seen]
        assert np.mean(right) >= floor, (key, right)
    alike = [np.mean(reads[0][key] == reads[1][key]) for key in attributes.SCENE_VALUES]
    assert np.mean(alike) >= 0.95
