"""Every number that is Turbo's comes from the base: shift, guidance, negative prompt, steps, names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_project
from diffusers import FlowMatchEulerDiscreteScheduler

from charloom.base import locks
from charloom.config import drift
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.deliver import comfyui
from charloom.lora import finished
from charloom.report import snippets
from charloom.train.settings import TrainSettings
from charloom.workflow import delivery, samples, slices, training
from charloom.zimage import flow

HERE = small_project.ROOT


def of(base: str) -> tuple[Any, Any]:
    workflow = load(HERE, overrides={"base": base})
    return workflow.characters["leyla"], workflow.bases[base]


def lock(folder: Path, store: Path) -> dict[str, Any]:
    return locks.lock({"name": "mini", "path": str(folder), "adapters": {}}, Store(store))


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def schedule(folder: Path, **changes: Any) -> None:
    path = folder / locks.SCHEDULER
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_not_distilled_is_drawn_with_guidance_and_trained_without_an_adapter() -> None:
    for name, steps, guidance in (("z-image", 30, 4.0), ("z-image-deturbo", 25, 3.0), ("z-image-turbo", 8, 1.0)):
        character, base = of(name)
        sample = character.recipe["sample"]
        assert (sample["steps"], sample["guidance"]) == (steps, guidance)
        assert (character.recipe["training_adapter"] == "none") == (guidance > 1) == (not base.adapters)
    character, base = of("z-image")
    assert base.revision == "main" and character.negative_prompt
    assert slices.texts(character)["_negative"] == character.negative_prompt
    assert "_negative" not in slices.variants(character)
    turbo, _ = of("z-image-turbo")
    assert "_negative" not in slices.texts(turbo)


def test_only_a_distilled_base_is_asked_for_many_steps() -> None:
    """Whether Turbo is still Turbo: 30 steps are what others take anyway."""
    for base, kinds in (("z-image-turbo", {"class", "steps"}), ("z-image", {"class"}), ("z-image-deturbo", {"class"})):
        workflow = load(HERE, overrides={"base": base, "recipe": {"validation": {"drift": "all"}}})
        assert {one["kind"] for one in drift.prompts(workflow.characters["leyla"])} == kinds, base


@pytest.mark.parametrize("shift", [3.0, 6.0])
def test_the_shift_is_the_schedulers_own(folder: Path, tmp_path: Path, shift: float) -> None:
    schedule(folder, shift=shift)
    made = lock(folder, tmp_path / "store")
    assert locks.shift(made) == shift and ("shift" in made) == (shift != 3.0)
    theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    theirs.set_timesteps(sigmas=[1 - i / 30 for i in range(30)])
    assert flow.sample_sigmas(30, locks.shift(made)) == pytest.approx(theirs.sigmas.tolist(), abs=1e-6)


def test_a_scheduler_that_cannot_be_followed_is_one_line(folder: Path, tmp_path: Path) -> None:
    schedule(folder, use_dynamic_shifting=True)
    with pytest.raises(UserError, match="scheduler_config.json: use_dynamic_shifting is not supported"):
        lock(folder, tmp_path / "store")
    (folder / locks.SCHEDULER).write_text("[]")
    with pytest.raises(UserError, match="is not a scheduler configuration"):
        lock(folder, tmp_path / "store")


def test_a_picture_depends_on_the_shift_and_on_the_negative_prompt(tmp_path: Path) -> None:
    made = tmp_path / "embeddings"
    made.mkdir()
    for name in ("_prompt-01", "_empty"):
        (made / f"{name}.safetensors").write_text(name)
    base = {"components": {"transformer": "t", "vae": "v"}}
    settings: dict[str, Any] = {"width": 64, "height": 64, "seed": 1, "scale": 1.0, "steps": 8, "guidance": 4.0}

    def wanted(lock: dict[str, Any], **more: Any) -> samples.Wanted | None:
        return samples.Previews(tmp_path, lock, Store(tmp_path / "store")).wanted(0, "01", {**settings, **more})

    plain = wanted(base)
    assert plain and plain.negative == made / "_empty.safetensors"
    other = wanted({**base, "shift": 6.0})
    assert other and other.key != plain.key
    assert wanted(base, negative_prompt="blurry") is None  # its embedding is missing
    (made / "_negative.safetensors").write_text("blurry")
    negative = wanted(base, negative_prompt="blurry")
    assert negative and negative.negative == made / "_negative.safetensors"
    assert len({plain.key, other.key, negative.key}) == 3
    turbo = wanted(base, guidance=1.0)
    assert turbo and turbo.negative is None


def test_training_depends_on_the_shift_only_where_noise_is_drawn_by_it() -> None:
    def settings(shift: float, kind: str) -> TrainSettings:
        recipe = {"train": {"timestep_type": kind}, "network": {}, "data": {}, "save": {}}
        return training.settings_of({"recipe": recipe}, every=5, last=10, shift=shift)

    assert settings(6.0, "sigmoid").slice() == settings(3.0, "sigmoid").slice()
    assert settings(6.0, "shift").slice() != settings(3.0, "shift").slice()
    assert "shift" not in settings(3.0, "shift").slice()["train"]


def test_the_training_levels_of_shift_are_those_of_the_base() -> None:
    from charloom.train import timesteps

    assert timesteps.sigma_at(0.5, "shift", 6.0) == pytest.approx(6 * 0.5 / (1 + 5 * 0.5))
    assert timesteps.sigma_at(0.5, "shift") == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert timesteps.sigma_at(0.5, "linear", 6.0) == 0.5


def test_what_leaves_the_workflow_says_how_the_base_is_drawn() -> None:
    character, base = of("z-image")
    about = {"shift": 6.0, **json.loads(delivery.comfyui(character, base))}
    nodes = {node["_meta"]["title"]: node["inputs"] for node in comfyui.workflow("portrait", about).as_api().values()}
    assert nodes["z-image"]["unet_name"] == "z_image_bf16.safetensors"
    assert nodes["Shift"]["shift"] == 6.0
    assert (nodes["Sampler"]["steps"], nodes["Sampler"]["cfg"]) == (30, 4.0)
    assert nodes["Negative prompt"]["text"] == character.negative_prompt
    text = snippets.character("leyla", "l3yla", snippets.Drawing("Tongyi-MAI/Z-Image", 30, 4.0, 64, 64, 1, "blurry"))
    assert "guidance_scale=3," in text and 'negative_prompt="blurry",' in text
    header = finished.header({}, "", {**json.loads(delivery.final(character, base)), "shift": 6.0}, None, "")
    assert "30 steps, cfg 4" in header["modelspec.usage_hint"] and "shift 6" in header["modelspec.usage_hint"]
    assert header["modelspec.architecture"] == "z-image/lora"
    assert "architecture" not in json.loads(delivery.final(*of("z-image-turbo")))
