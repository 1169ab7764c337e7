"""A row of previews at a step that no run draws: asked for by hand, or by ``charloom try``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import small_project
from small_project import edit, snakemake, write_yaml
from tiny_run import RECIPE

from charloom.workflow import training

ROW = "results/mara/samples/step-000004/grid.png"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Saves every 2 steps and draws after 6."""
    folder = small_project.make(tmp_path_factory.mktemp("rows") / "project")
    shutil.rmtree(folder / small_project.BASE["path"])
    shutil.copytree(tiny_base, folder / small_project.BASE["path"])
    base = {**small_project.BASE, "adapters": {}}
    recipe = {**base["recipe"], "sample": {"width": 64, "height": 64}, "training_adapter": "none"}
    write_yaml(folder / "config/bases/mini.yaml", {**base, "recipe": recipe})
    edit(folder / "config/config.yaml", recipe={**RECIPE, "sample": {"every": 6, "steps": 2}}, device="cpu")
    return folder


def drawn(folder: Path, rule: str, step: int = 4) -> list[int]:
    """How many previews of a step each process of a rule has drawn, of those that have drawn any."""
    logs = [path.read_text() for path in (folder / "results/mara/logs" / rule).glob("*.log")]
    told = [re.findall(rf"step {step}: (\d+) previews? of", text) for text in logs]
    return [sum(map(int, numbers)) for numbers in told if numbers]


def test_the_trainer_of_a_trial_draws_its_row_and_one_process_a_lost_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(training.UNTIL, "4")  # as charloom try sets it
    made = snakemake(project, "--cores", "2", ROW, code=small_project.ROOT)
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]
    assert drawn(project, "train_segment") == [2] and not drawn(project, "sample_checkpoint")
    monkeypatch.delenv(training.UNTIL)
    shutil.rmtree(project / "work/store/sample")
    shutil.rmtree(project / "results/mara/samples")
    made = snakemake(project, "--cores", "2", ROW, code=small_project.ROOT)
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]
    assert drawn(project, "sample_checkpoint") == [2]
