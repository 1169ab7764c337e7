"""A base changed in one line: what is retrained, and what the comparison with the old result shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import small_project
from cli_helpers import call, said
from safetensors.torch import load_file, save_file
from small_project import TARGET, edit, planned, snakemake, write_yaml
from tiny_run import RECIPE, build

from charloom.core.canonical import file_digest
from charloom.core.store import Store
from charloom.workflow import history

pytestmark = pytest.mark.slow
PAGE = "results/mara/compare.html"
FEWER = {**RECIPE, "train": {"steps": 2, "lr": 1.0e-3}, "data": {"resolutions": [64]}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A finished character on one base; another one, whose scheduler and weights differ, lies beside it."""
    folder = small_project.add_code(small_project.make(tmp_path_factory.mktemp("new-base") / "project"))
    shutil.rmtree(folder / small_project.BASE["path"])
    for name in ("mini", "other"):
        shutil.copytree(tiny_base, folder / f"resources/bases/{name}")
    other = folder / "resources/bases/other"
    scheduler = other / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "shift": 6.0}))
    weights = next((other / "transformer").glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    recipe = {**small_project.BASE["recipe"], "sample": {"width": 64, "height": 64}, "training_adapter": "none"}
    base = {**small_project.BASE, "adapters": {}, "recipe": recipe}
    write_yaml(folder / "config/bases/mini.yaml", base)
    edit(folder / "config/config.yaml", recipe={**FEWER, "sample": {"every": 2, "steps": 2, "strengths": []}})
    build(folder, PAGE)
    return folder


def page(folder: Path) -> str:
    return (folder / PAGE).read_text()


def test_an_old_result_stands_beside_the_new_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No earlier result of Mara is stored" in page(project) and "<img" not in page(project)
    before = file_digest(project / TARGET)
    edit(project / "config/bases/mini.yaml", path="resources/bases/other")
    dry = planned(project)
    assert {rule: dry[rule] for rule in ("lock_base", "prepare_base", "train_segment")} == {
        "lock_base": 1,
        "prepare_base": 1,
        "train_segment": 1,
    }
    assert "make_source_image" not in dry
    monkeypatch.chdir(project)
    monkeypatch.setenv("PYTHONPATH", str(small_project.ROOT))
    # Guidance and a negative prompt, as for a base that is not distilled, reach the previews as well.
    sample = {"every": 2, "steps": 2, "strengths": [], "guidance": 2.0, "negative": "blurry"}
    edit(project / "config/config.yaml", recipe={**FEWER, "sample": sample})
    build(project, PAGE)
    assert json.loads((project / "work/bases/mini.lock.json").read_text())["shift"] == 6.0
    assert file_digest(project / TARGET) != before
    found = list(history.records(Store(project / "work/store")))
    assert {one.facts["final"] for one in found} == {before, file_digest(project / TARGET)}
    assert all(one.run for one in found) and len({one.run for one in found}) == 2
    text = page(project)
    assert text.count("<img") == 4 and "guidance 2" in text  # two prompts, before and now
    assert "resources/bases/other" in text and "resources/bases/mini" in text
    assert "drawn before alone" not in text and "drawn now alone" not in text


def test_a_plan_names_the_base_as_the_cause(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(project / "config/bases/mini.yaml", path="resources/bases/mini")
    monkeypatch.chdir(project)
    text = said(call("plan", "mara"))
    line = next(line for line in text.splitlines() if line.strip().startswith("lock base"))
    assert "path" in line, text
    assert "train segment" in text and "follows from that" in text
    # The same by Snakemake alone: what is made again, and why.
    dry = snakemake(project, "-n", TARGET, terminal="")
    assert dry.returncode == 0, dry.stderr
    lines = {line.partition("  ")[0]: line for line in map(str.strip, (dry.stdout + dry.stderr).splitlines())}
    assert "path resources/bases/other → resources/bases/mini" in lines["lock base"]
    assert lines["train segment"].endswith("follows from that")
