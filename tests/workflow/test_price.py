"""The formulas of time and memory against every recorded measurement, and what a plan shows of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_project
import torch
from cli_helpers import root  # noqa: F401
from yaml import safe_load

from charloom.cli import doctor, pricing
from charloom.cli.planning import Group
from charloom.config import yaml
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.core.layout import WORK
from charloom.workflow import devices, price

Z_IMAGE = small_project.ROOT / "tests/fixtures/z-image-turbo"
RECORDED = small_project.ROOT / "benchmarks/results"
BUDGETS = {"default": 9.0, "roomy": 32.0, "swap": 6.5, "16 GiB card": 14.5}


def recipe(**changes: Any) -> dict[str, Any]:
    """Leyla's on the real base."""
    workflow = load(small_project.ROOT, overrides={"base": "z-image-turbo", "recipe": changes})
    return workflow.characters["leyla"].recipe


def steps() -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (RECORDED / "train_step.json").read_text().splitlines()]
    return [line for line in lines if line.get("configuration") in BUDGETS]


def test_every_configuration_that_was_measured_is_compared() -> None:
    assert {line["configuration"] for line in steps()} == set(BUDGETS) and len(steps()) >= 13


def test_memory_within_a_tenth() -> None:
    for name, budget in BUDGETS.items():
        lines = [line for line in steps() if line["configuration"] == name]
        measured = max(line["peak_gib"] for line in lines)
        reckoned = price.training(recipe(), budget)
        assert reckoned.fits
        assert reckoned.peak == pytest.approx(measured, rel=0.1), name


def test_seconds_within_a_fifth() -> None:
    for line in steps():
        reckoned = price.step_seconds(recipe(), line["size"], BUDGETS[line["configuration"]])
        assert reckoned == pytest.approx(line["seconds"], rel=0.2), (line["configuration"], line["size"])


@pytest.mark.parametrize("size", [8, 10, 12, 16, 24])
def test_cards_made_small(size: int) -> None:
    """Memory within a tenth, seconds within a fifth, as docs/planning.md says."""
    rows = [row for row in json.loads((RECORDED / "limited_cards.json").read_text()) if row["size_gib"] == size]
    given = pricing.overrides(["--profile", f"profiles/gpu-{size}gb"], small_project.ROOT)
    asked = load(small_project.ROOT, overrides=given).characters["leyla"].recipe
    budget = pricing.budget_of(asked, size, pricing.beside(size))
    reckoned = price.training(asked, budget)
    assert reckoned.fits
    edges = asked["data"]["resolutions"]
    seconds = sum(price.step_seconds(asked, edge, budget) for edge in edges) / len(edges)
    for measured in rows:
        assert reckoned.peak == pytest.approx(measured["allocated_gib"]["measured"], rel=0.1)
        assert seconds == pytest.approx(measured["seconds_per_step"]["measured"], rel=0.2)


def test_the_plan_of_a_small_card_is_that_of_its_largest_pictures() -> None:
    """How many blocks are swapped is decided once; small pictures do not get more of them on the GPU."""
    given = yaml.merge(recipe(), {"memory": 6.0})
    assert price.training(given, 6.0).swapped
    assert price.gpu_memory(given, 6.0)["train"] == price.training(given, 6.0).peak


def test_whole_runs_within_a_fifth() -> None:
    runs = [run for run in json.loads((RECORDED / "whole_run.json").read_text()) if "jobs" in run]
    assert runs
    for run in runs:
        jobs = {rule: one["jobs"] for rule, one in run["jobs"].items()}
        measured = sum(one["seconds"] for one in run["jobs"].values())
        found = price.stages(jobs, recipe(), run["steps"], 14.5, {})
        assert {one.rule for one in found} == set(jobs)
        assert sum(one.seconds for one in found) == pytest.approx(measured, rel=0.2)
        trained = next(one for one in found if one.rule == "train_segment")
        assert trained.seconds == pytest.approx(run["jobs"]["train_segment"]["seconds"], rel=0.2)


def test_parameters_are_those_of_the_model() -> None:
    from charloom.lora.attach import Network  # noqa: F401 (the shapes below are its targets)
    from charloom.zimage.shapes import module_shapes

    config = json.loads((Z_IMAGE / "transformer/config.json").read_text())
    shapes = {name: shape for name, shape in module_shapes(config).items() if name.startswith("layers.")}
    model = price.MODEL
    assert model.adapter(32, "default") == 32 * sum(sum(shape) for shape in shapes.values())
    weights = sum(out * into for out, into in shapes.values()) + 30 * 4 * model.dim
    assert model.block * 30 == weights


def test_what_is_never_quantised_is_counted() -> None:
    from transformers import AutoConfig, Qwen3Model

    from charloom.kernels import quantize
    from charloom.zimage import weights

    def parameters(module: Any) -> tuple[int, int]:
        every = sum(one.numel() for one in module.parameters())
        return every, every - sum(module.get_submodule(name).weight.numel() for name in quantize.eligible(module))

    transformer, model = weights.empty_transformer(Z_IMAGE), price.MODEL
    assert parameters(transformer) == (model.total, model.wide)
    linears = [one for one in quantize.eligible(transformer) if one.startswith("layers.")]
    assert sum(transformer.get_submodule(one).weight.numel() for one in linears) == model.layers * model.linears
    with torch.device("meta"):
        encoder = Qwen3Model(AutoConfig.from_pretrained(Z_IMAGE / "text_encoder"))
    assert parameters(encoder) == (model.text_encoder, model.text_wide)


def test_the_ladder_takes_what_changes_nothing_first() -> None:
    roomy, tight, tighter = (price.training(recipe(), budget) for budget in (40.0, 14.5, 7.0))
    assert (roomy.recomputing, roomy.swapped) == (0, 0)
    assert tight.recomputing and not tight.swapped
    assert tighter.swapped and tighter.fits
    assert price.smallest_change(recipe(), 6.5) == []
    least = price.training(recipe(), 0.5)
    assert not least.fits and least.swapped == 30
    change = price.smallest_change(recipe(), least.peak - 0.05)
    assert change and change[0].startswith("quantization: {transformer: nf4}")
    words = [words.split(":")[0] for words, _ in price.ladder(recipe(train={"batch_size": 2}))]
    assert list(dict.fromkeys(words)) == ["train", "quantization", "network", "data"]
    for words, given in price.ladder(recipe()):
        assert price.training(yaml.merge(recipe(), given), 0.5).peak < least.peak, words
    assert price.smallest_change(recipe(), 0.2) is None


def test_what_cannot_fit_is_refused_with_the_smallest_change() -> None:
    least = price.training(recipe(), 0.5).peak
    with pytest.raises(UserError, match=r"plan: leyla: training needs .*nf4.* smallest change that fits"):
        pricing._refuse("leyla", recipe(), least - 0.05)
    pricing._refuse("leyla", recipe(), least + 0.05)


def test_what_previews_need_is_what_the_engine_asks_for() -> None:
    from charloom.engine import memory, previews

    assert previews.ROOM == int(price.ROOM * memory.GIB)
    assert (memory.MARGIN / memory.GIB, memory.FRAGMENTATION) == (price.MARGIN, price.FRAGMENTATION)
    for precision in ("float8", "bf16"):
        model = previews.empty_transformer(Z_IMAGE, precision).to(torch.bfloat16)
        least = price.drawing(recipe(sample={"precision": precision})) * memory.GIB
        budget = memory.FRAGMENTATION * least - memory.MARGIN
        assert previews.fits(model, int(budget) + 1) and not previews.fits(model, int(budget) - 1)
    assert price.drawing(recipe(sample={"precision": "auto"})) == price.drawing(recipe(sample={"precision": "float8"}))


@pytest.mark.parametrize(
    ("rule", "changes", "remedy"),
    [
        ("sample_checkpoint", {"memory": 14.0, "sample": {"precision": "bf16"}}, r"\{sample: \{precision: float8\}\}"),
        ("sample_strength", {"memory": 14.0, "quantization": {"transformer": "nf4"}}, r"it changes previews alone$"),
        ("sample_checkpoint", {"memory": 8.0}, r"recipe: \{sample: \{disable: true\}\}"),
        ("draw_reference", {"memory": 8.0}, "use a larger GPU, or pictures of your own"),
        (
            "draw_reference",
            {"memory": 14.0, "sample": {"precision": "bf16"}},
            "the reference and all pictures that are",
        ),
        ("draw_gallery", {"memory": 8.0}, "take gallery: out of the character file"),
        ("draw_picture", {"memory": 8.0}, None),  # a pipeline of the user's
        ("sample_checkpoint", {"memory": 8.7}, None),
        ("sample_checkpoint", {"low_vram": True}, None),
        ("encode_latents", {"memory": 6.0}, None),
    ],
)
def test_drawing_that_cannot_fit_is_refused(rule: str, changes: dict[str, Any], remedy: str | None) -> None:
    """Blocks in main memory are for training alone: without previews' own check, a run would end after training."""
    if remedy is None:
        pricing._refuse_drawing("leyla", recipe(**changes), {rule: 1}, None)
        return
    with pytest.raises(UserError, match=rf"^plan: leyla: drawing needs \d+\.\d GiB .*{remedy}"):
        pricing._refuse_drawing("leyla", recipe(**changes), {rule: 1}, None)


def test_a_card_limits_drawing_too() -> None:
    with pytest.raises(UserError, match="may use 7.5 GiB"):
        pricing._refuse_drawing("leyla", recipe(), {"sample_checkpoint": 1}, 8.0)
    pricing._refuse_drawing("leyla", recipe(), {"sample_checkpoint": 1}, 10.0)


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", ["aa01"], 4.0),
        ("cuda", ["bb02", "aa01"], 4.0),  # a job may get either
        ("cuda:1", ["aa01", "bb02"], 16.0),
        ("auto", ["bb02"], 16.0),
        ("auto", ["cc03"], None),  # a part of a GPU
        ("cpu", ["aa01"], None),
    ],
)
def test_the_card_is_one_that_jobs_may_get(
    device: str, visible: list[str], expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``nvidia-smi`` knows nothing of CUDA_VISIBLE_DEVICES, which the driver has applied to what is ``visible``."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU-aa-01, 4096\nGPU-bb-02, 16384\n'\n")
    program.chmod(0o755)
    monkeypatch.setattr(pricing.shutil, "which", lambda name: str(program))
    monkeypatch.setattr(devices, "found", lambda: visible)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    assert pricing.card(device) == expected


def test_main_memory_counts_copies_for_previews_and_what_prepares_the_base() -> None:
    train = ["train_segment"]
    weights = price.weights("float8", price.MODEL.total, price.MODEL.wide) / price.GIB
    waiting = 2 * 2 * 30 * price.tokens(1024) * 3840 / price.GIB  # inputs and attentions of blocks that recompute
    assert price.main_memory(recipe(), 14.5, train) == pytest.approx(4 + 2 * weights + waiting)
    assert price.main_memory(recipe(), 40.0, train) == pytest.approx(4 + 2 * weights)
    for changes in ({"sample": {"disable": True}}, {"sample": {"precision": "bf16"}}):
        # Nothing is drawn by the trainer.
        assert price.main_memory(recipe(**changes), 14.5, train) == pytest.approx(4 + waiting), changes
    assert price.main_memory(recipe(sample={"disable": True}), 14.5, [*train, "prepare_base"]) == 16


def test_a_smaller_number_format_does_not_make_previews_larger() -> None:
    words, change = next(one for one in price.ladder(recipe()) if "nf4" in one[0])
    assert words == "quantization: {transformer: nf4}, sample: {precision: float8}"
    assert price.drawing(yaml.merge(recipe(), change)) == price.drawing(recipe())
    none_drawn = recipe(sample={"disable": True, "precision": "auto"})
    assert all("precision" not in words for words, _ in price.ladder(none_drawn))


@pytest.mark.parametrize("budget", [2.0, 4.0, 6.0])
def test_what_a_refusal_proposes_is_not_refused(budget: float) -> None:
    given = recipe(train={"batch_size": 4})
    assert not price.training(given, budget).fits
    change = safe_load(f"{{{', '.join(price.smallest_change(given, budget) or [])}}}")
    changed = yaml.merge(given, change)
    assert price.training(changed, budget).fits
    assert changed["sample"]["disable"] or price.drawing(changed) <= budget


def test_a_plan_states_the_price(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(pricing, "card", lambda device: None)
    found = [Group("leyla", "train_segment", 12), Group("leyla", "encode_latents", 30), Group("", "lock_base", 1)]
    given = {"base": "z-image-turbo", "recipe": {"memory": 14.5}}
    text = "\n".join(pricing.lines(root, "leyla", found, given))
    assert text.startswith("time on an H100: ") and "expect hours" in text and "download 33 GB" in text
    all_of_it = [*found, Group("", "prepare_base", 1), Group("leyla", "sample_checkpoint", 9)]
    prepared = pricing.lines(root, "leyla", all_of_it, given)
    assert "main memory 18 GiB (16 if previews wait for the end of training)" in "\n".join(prepared)
    assert "training 14." in text and "blocks recompute" in text and len(text.splitlines()) == 4
    assert "previews" not in text  # none are planned
    assert "texts" not in text  # nor is a text encoded
    few = [Group("leyla", "write_report", 1), Group("leyla", "export_final", 1)]
    (root / WORK.lock("z-image-turbo")).parent.mkdir(parents=True)
    (root / WORK.lock("z-image-turbo")).touch()
    assert "GiB" not in (small := "\n".join(pricing.lines(root, "leyla", few, given))) and "disk" not in small
    redrawn = [*few, Group("leyla", "encode_text", 2), Group("leyla", "sample_checkpoint", 2)]
    assert "  GPU memory: previews 8.6 GiB, texts 5.1; main memory 4 GiB" in pricing.lines(
        root, "leyla", redrawn, given
    )
    (root / WORK.lock("z-image-turbo")).unlink()
    drawn = "\n".join(pricing.lines(root, "leyla", [*found, Group("leyla", "sample_checkpoint", 9)], given))
    assert "previews 8.6" in drawn  # what the refusal says too
    endless = pricing.lines(root, "leyla", found, {"base": "z-image-turbo", "recipe": {"memory": "auto"}})
    assert "(no limit: no GPU here, and memory is not set; the comment in a profile has" in "\n".join(endless)
    monkeypatch.setattr(pricing.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    monkeypatch.setattr(pricing.hub, "cache", lambda: root / "hub")
    short = "has 1 GB free, and {} GB are needed there (the store and the download): free some space first"
    assert short.format(43) in "\n".join(pricing.lines(root, "leyla", found, given))
    blobs = root / "hub/models--Tongyi-MAI--Z-Image-Turbo/blobs"
    blobs.mkdir(parents=True)
    with open(blobs / "a", "wb") as file:
        file.truncate(20 * 10**9)  # of which no byte is written
    assert short.format(23) in "\n".join(pricing.lines(root, "leyla", found, given))
    benchmark = root / "results/leyla/benchmarks/encode_latents/a.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\n100.0\t0:01:40\n")
    before = pricing.lines(root, "leyla", found, given)
    assert "*" not in "\n".join(before)  # measured with the miniature, for the base was never here
    (root / WORK.lock("z-image-turbo")).touch()
    after = "\n".join(pricing.lines(root, "leyla", found, given))
    assert "encode latents 50 min*" in after and "* as measured on this machine, the rest as on an H100" in after
    assert after.startswith("time: about ") and "expect hours" in after
    given["recipe"] = {"memory": 0.5}
    with pytest.raises(UserError, match="may use 0.5 GiB"):
        pricing.lines(root, "leyla", found, given)


def test_a_run_that_goes_on_is_priced_by_the_steps_that_are_missing(
    root: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pricing, "card", lambda device: None)
    counted = []
    monkeypatch.setattr(price, "stages", lambda jobs, recipe, steps, *others: counted.append(steps) or [])
    for train, missing in (({"steps": 4000}, 4), ({"steps": 3100}, 2), ({"steps": 3000}, 12)):
        given = {"base": "z-image-turbo", "recipe": {"train": train, "save": {"every": 250}}}
        pricing.lines(root, "leyla", [Group("leyla", "train_segment", missing)], given)
    assert counted == [1000, 350, 3000]


def test_profiles_and_options_count() -> None:
    options = ["leyla", "--profile", "profiles/gpu-16gb", "--config", "recipe={memory: 8}", "--cores", "1"]
    # As Snakemake takes it: --config replaces the profile's entries as a whole.
    assert pricing.overrides(options, small_project.ROOT) == {"recipe": {"memory": 8}}
    given = pricing.overrides(options[:3], small_project.ROOT)
    assert given["base"] == "z-image-turbo" and given["recipe"]["memory"] == 14.5


def test_profiles_are_what_the_forms_give() -> None:
    """If not: python tools/gpu_profiles.py"""
    place = small_project.ROOT / "tools/gpu_profiles.py"
    spec = importlib.util.spec_from_file_location("gpu_profiles", place)
    assert spec and spec.loader
    gpu_profiles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_profiles)
    made = sorted(path.name for path in (small_project.ROOT / "profiles").glob("gpu-*gb"))
    assert made == sorted(f"gpu-{size}gb" for size in gpu_profiles.SIZES)
    assert {budget: one for budget, (one, _) in gpu_profiles.MEASURED.items()}.items() <= {
        (budget, name) for name, budget in BUDGETS.items()
    }
    needed = []
    for size in gpu_profiles.SIZES:
        assert gpu_profiles.path(size).read_text() == gpu_profiles.text(size)
        given = pricing.overrides(["--profile", f"profiles/gpu-{size}gb"], small_project.ROOT)
        assert given["recipe"].get("memory", size) <= size
        asked = load(small_project.ROOT, overrides=given).characters["leyla"].recipe
        budget = pricing.budget_of(asked, size, pricing.beside(size))
        shown = f"at most {price.gpu_memory(asked, budget)['train']:.1f} GiB"
        assert shown in gpu_profiles.text(size)  # as the plan says
        needed.append(round(price.main_memory(asked, budget, ["prepare_base", "train_segment"])))
        character = load(small_project.ROOT, overrides={**given, "device": "cuda"}).characters["leyla"]
        made = {"train_segment": 1} | ({"sample_checkpoint": 1} if character.sampled_steps else {})
        pricing._refuse("leyla", character.recipe, pricing.budget_of(character.recipe, size, pricing.beside(size)))
        pricing._refuse_drawing("leyla", character.recipe, made, size)
    assert max(needed) == doctor.BESIDE_TRAINING
