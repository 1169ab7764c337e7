"""Previews that the trainer draws: their jobs only link them, many at a time."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import rebuilt
import small_project
from small_project import TARGET, snakemake

from charloom.config import schema
from charloom.config.yaml import merge
from charloom.workflow import training


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished project to edit."""
    return Path(shutil.copytree(finished, tmp_path / "project"))


def test_previews_that_the_trainer_draws_are_linked_many_at_a_time(tmp_path: Path) -> None:
    folder = small_project.make(tmp_path)

    def cores() -> dict[str, str]:
        made = snakemake(folder, "-n", "-p", "--cores", "4", TARGET, code=small_project.ROOT)
        found = re.findall(r"run sample_checkpoint .* --step (\d+) .* --threads (\d+)", made.stdout + made.stderr)
        assert found, made.stderr
        return dict(found)

    def trained(step: int) -> None:
        path = folder / f"results/mara/checkpoints/step-{step:06d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert cores() == {"000000": "4", "000050": "1", "000100": "1"}
    trained(50)
    assert cores() == {"000000": "4", "000050": "4", "000100": "1"}
    trained(100)
    assert set(cores().values()) == {"4"}


def test_they_are_also_once_the_first_checkpoint_is_there(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake asks for threads when a job may start; what matters is what the plan found."""
    monkeypatch.setenv("CHARLOOM_PYTHON", str(small_project.pretender(project)))
    drawn = Path(shutil.copytree(project / "results/mara/samples", tmp_path / "drawn"))
    rebuilt.prepared(project, "half made")
    for path in drawn.rglob("*000000*"):
        target = project / "results/mara/samples" / path.relative_to(drawn)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, target, dirs_exist_ok=True) if path.is_dir() else shutil.copy2(path, target)
    made = snakemake(project, "-p", "--cores", "4", TARGET)
    assert made.returncode == 0, made.stderr
    found = re.findall(r"run sample_checkpoint .* --step (\d+) .* --threads (\d+)", made.stdout + made.stderr)
    assert set(found) == {("000050", "1"), ("000100", "1")}


def test_checkpoints_of_other_settings_change_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie there when the plan is made, and are trained anew."""
    monkeypatch.setenv("CHARLOOM_PYTHON", str(small_project.pretender(project)))
    recipe = merge(small_project.CONFIG["recipe"], {"network": {"rank": 3}})
    small_project.edit(project / "config/config.yaml", recipe=recipe)
    made = snakemake(project, "-p", "--cores", "4", TARGET)
    assert made.returncode == 0, made.stderr
    found = re.findall(r"run sample_checkpoint .* --step (\d+) .* --threads (\d+)", made.stdout + made.stderr)
    assert set(found) == {("000050", "1"), ("000100", "1")}


@pytest.mark.parametrize(
    ("recipe", "environment", "expected"),
    [
        ({}, {}, True),
        ({"memory": 9.0}, {}, True),
        ({"memory": 8.8}, {}, True),
        ({"memory": 8.5}, {}, False),  # trains without moving weights, but leaves no room for a picture
        ({"memory": 9.0, "low_vram": True}, {}, True),
        ({"low_vram": True, "train": {"batch_size": 3}}, {}, False),
        ({"layer_offloading": True}, {}, False),
        ({"sample": {"precision": "bf16"}}, {}, False),
        ({"quantization": {"transformer": "nf4"}}, {}, False),
        ({"quantization": {"transformer": "bf16"}}, {}, True),
        ({"quantization": {"transformer": "none"}}, {}, False),
        ({}, {"CHARLOOM_PREVIEWS_APART": "1"}, False),
        ({}, {"CHARLOOM_SHARE_GPU": "1"}, False),
    ],
)
def test_when_the_trainer_is_expected_to_draw(
    monkeypatch: pytest.MonkeyPatch, recipe: dict[str, object], environment: dict[str, str], expected: bool
) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    usual = merge(schema.defaults(schema.load_schema("recipe")), {"quantization": {"transformer": "float8"}})
    one = SimpleNamespace(recipe=merge(usual, recipe))
    assert training.draws(one, gpu=True) is expected
    assert training.draws(one, gpu=False) is (not environment)
