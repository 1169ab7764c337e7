"""The main job as a newcomer runs it, on the shipped miniature: the LoRA must draw Leyla, and still obey.

Two thirds of her recipe's steps, after which she is drawn nearly as well as at the end. Fixed seeds, two pictures for
each sample prompt, judged by the probe against her own drawn pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from charloom.config.project import load
from charloom.judge import backend

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "scripts", "profiles", "envs", "config", "resources")
SEEDS = (42, 1042)
SHORTER = "recipe={train: {steps: 400}}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leyla")
    for name in PARTS:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, folder / name)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "results/leyla/bundle.zip", "--config", SHORTER]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def judged(project: Path) -> dict[str, dict[str, float]]:
    """Mean metrics of the base alone and of the shipped LoRA, over all sample prompts and seeds."""
    import contextlib

    from charloom.core.tensors import read_safetensors
    from charloom.lora.adapter import load_into
    from charloom.zimage import sampler, weights

    results = project / "results/leyla"
    leyla = load(project, overrides={}).characters["leyla"]
    folder = ROOT / "resources/bases/paperdoll"
    judge = backend.open_backend("paperdoll", folder / "probe.safetensors")
    items = json.loads((results / "dataset.json").read_text())["items"]
    references = [
        backend.load_picture(results / "dataset" / f"{item['name']}.png", item["caption"], name=item["name"])
        for item in items
    ]
    levels = judge.study(references)
    model, vae = weights.load_transformer(folder), weights.load_vae(folder)
    prompts = [prompt for prompt in leyla.sample_prompts for _ in SEEDS]
    embeds = [read_safetensors(results / f"embeddings/_prompt-{p.name}.safetensors")[0]["embeds"] for p in prompts]
    seeds = [seed + int(p.name) for p, seed in zip(prompts, SEEDS * len(leyla.sample_prompts), strict=True)]
    means = {"own pictures": dict(levels)}
    for name, lora in (("base", None), ("lora", results / "final.safetensors")):
        with load_into(model, lora, 1.0) if lora else contextlib.nullcontext():
            images = sampler.sample(model, vae, embeds, width=256, height=256, seeds=seeds)
        pictures = []
        for index, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            path = project / f"{name}-{index:02d}.png"
            Image.fromarray(image).save(path)
            pictures.append(backend.load_picture(path, prompt.text, name=prompt.name, seed=seeds[index]))
        rows = backend.score(judge, levels, "leyla", 0, pictures)["rows"]
        metrics = {row["metric"] for row in rows}
        means[name] = {m: float(np.mean([row["value"] for row in rows if row["metric"] == m])) for m in metrics}
    print(json.dumps(means, indent=2))
    return means


def test_the_newcomer_gets_file_grid_and_report(project: Path) -> None:
    results = project / "results/leyla"
    for name in ("final.safetensors", "comparison.png", "report.html", "prompts.html", "validation.json",
                 "bundle.zip", "comfyui/portrait.json", "gallery/index.html"):  # fmt: skip
        assert (results / name).stat().st_size > 1000, name
    assert len(list((results / "dataset").glob("*.png"))) == 30
    with (
        Image.open(results / "source/closeup-01.png") as source,
        Image.open(results / "dataset/closeup-01.png") as crop,
    ):
        assert source.size == (2048, 2048) and crop.size == (1898, 1898)


def test_the_lora_draws_leyla_and_the_base_alone_does_not(judged: dict[str, dict[str, float]]) -> None:
    assert judged["own pictures"]["identity"] > 0.8
    assert judged["base"]["identity_relative"] <= 0.5
    assert judged["lora"]["identity_relative"] >= IDENTITY


def test_prompts_are_obeyed_as_well_as_by_the_base(judged: dict[str, dict[str, float]]) -> None:
    assert judged["lora"]["obedience"] >= judged["base"]["obedience"] - 0.05


def test_the_scenes_of_the_gallery_are_hers_and_what_was_asked_for(project: Path) -> None:
    results = project / "results/leyla"
    leyla = load(project, overrides={}).characters["leyla"]
    judge = backend.open_backend("paperdoll", ROOT / "resources/bases/paperdoll/probe.safetensors")
    items = json.loads((results / "dataset.json").read_text())["items"]
    own = [
        backend.load_picture(results / "dataset" / f"{item['name']}.png", item["caption"], name=item["name"])
        for item in items
    ]
    levels = judge.study(own)
    scenes = [
        backend.load_picture(results / "gallery" / f"{scene.name}.png", scene.text, name=scene.name, seed=scene.seed)
        for scene in leyla.gallery
    ]
    assert len(scenes) == 7
    rows = backend.score(judge, levels, "leyla", 0, scenes)["rows"]
    means = {
        metric: float(np.mean([row["value"] for row in rows if row["metric"] == metric]))
        for metric in ("obedience", "identity_relative")
    }
    print(means)
    # Long prompts are hard for so small a base: of the captions' words alone it obeys more.
    assert means["obedience"] >= 0.85 and means["identity_relative"] >= 0.7


IDENTITY = 0.8
"""Share of what her own pictures reach; 0.85 was measured, and 0.88 with all steps."""
