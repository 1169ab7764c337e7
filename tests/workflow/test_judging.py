"""The rules of the judge ``auto`` and of drift: what is planned, what the scripts write, what failures cost."""

from __future__ import annotations

import json
from pathlib import Path

import judge_models
import pytest
import small_project
from small_project import edit, picture, planned, run_script

BASE = "config/bases/mini.yaml"
SLICE = {"identity": "auto", "trigger": "m4ra", "prompts": ["a photo of m4ra, kitchen"], "line": "", "recipe": 1}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small_project.add_code(small_project.make(tmp_path / "project"))


def test_only_the_judge_auto_locks_and_studies(project: Path) -> None:
    assert not {"lock_judge", "study_references", "score_drift"} & set(planned(project))
    edit(project / BASE, judge="auto")
    jobs = planned(project)
    assert (jobs["lock_judge"], jobs["study_references"], jobs["score_checkpoint"]) == (1, 1, 2)


def test_drift_draws_the_last_checkpoint_and_the_base(project: Path) -> None:
    before = planned(project)
    edit(project / "config/config.yaml", recipe={**small_project.CONFIG["recipe"], "validation": {"drift": "last"}})
    jobs = planned(project)
    # Two prompts, without the trigger by the base and the checkpoint, at many steps by the checkpoint alone.
    assert (jobs["sample_drift"], jobs["score_drift"]) == (6, 2)
    assert jobs["sample_checkpoint"] == before["sample_checkpoint"]
    assert jobs["encode_text"] == before["encode_text"] + 2


def test_a_model_of_the_judge_needs_one_place(project: Path) -> None:
    edit(project / BASE, judge="auto", judge_models={"vlm": {"repo": "owner/name"}})
    result = small_project.snakemake(project, "-n", small_project.TARGET)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "config/bases/mini.yaml: judge_models.vlm.revision: is missing" in result.stderr


@pytest.mark.slow
def test_the_scripts_lock_study_score_and_choose(tmp_path: Path) -> None:
    """With a tiny DINOv2, whatever else is installed; a GPU that is missing costs nothing."""
    results = tmp_path / "results/mara"
    for folder, names, seed in (
        ("dataset", "abcd", 1),
        ("samples/step-000050", ["01"], 1),
        ("samples/step-000000", ["01"], 2),
    ):
        (results / folder).mkdir(parents=True)
        for index, name in enumerate(names):
            picture(results / folder / f"{name}.png", (96 + 9 * index, 96), seed=seed)
    items = [{"name": name, "caption": "a photo of m4ra, studio", "image": name} for name in "abcd"]
    (results / "dataset.json").write_text(json.dumps({"items": items}))

    def run(script: str, settings: object, *arguments: str) -> str:
        made = run_script(script, "--settings", json.dumps(settings), "--store", "store", *arguments, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        return made.stderr

    models = {"dinov2": {"path": str(judge_models.dinov2(tmp_path / "dinov2"))}}
    run("lock_judge", {"name": "mini", "models": models}, "--output", "lock.json")
    lock = json.loads((tmp_path / "lock.json").read_text())
    lock["instruments"] = {"dinov2": lock["instruments"]["dinov2"]}
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    common = ("--results", "results/mara", "--device", "cuda:7")
    shown = run(
        "study_references", SLICE, *common, "--lock", "lock.json", "--base-samples",
        "results/mara/samples/step-000000/01.png", "--output", "results/mara/judge.json",
    )  # fmt: skip
    assert "judging on the CPU" in shown and "identity by dinov2" in shown
    prompts = [{"name": "01", "text": SLICE["prompts"][0], "seed": 42, "scale": 1.0}]
    settings = {"character": "mara", "trigger": "m4ra", "judge": "auto", "prompts": prompts, "recipe": 1}
    output = ("--output", "results/mara/scores/step-000050.json")
    run("score_checkpoint", settings, *common, "--judge", "results/mara/judge.json", "--step", "50", *output)
    choice = {"character": "mara", "steps": [50], "candidates": [50], "last": 50, "keep": "all"}
    run(
        "choose_checkpoint", choice, "--scores", "results/mara/scores", "--validation", "validation.json", "--table",
        "scores.csv",
    )  # fmt: skip
    result = json.loads((tmp_path / "validation.json").read_text())
    judge = json.loads((results / "judge.json").read_text())
    assert result["limits"]["stranger"] == judge["limits"]["stranger"]
    assert result["instruments"] == judge["why"] and result["not_scored"] == ["obedience"]
    assert "obedience is not scored" in result["remedies"][0]
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert any(",identity," in line and ",dinov2," in line for line in lines)
