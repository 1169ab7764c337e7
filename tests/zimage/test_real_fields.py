"""The same rules and scripts on a base of the hub with the published classes and config fields: config alone asks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import real_base
import small_project
from real_base import COMMIT, REPO
from small_project import edit, snakemake, write_yaml
from tiny_run import RECIPE, build

from charloom.lora.verify import module_shapes, verify

ADAPTER = "zimage_turbo_training_adapter_v1.safetensors"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory):
    """A project made with ``base: tiny-z-image``, which lies in a filled cache of the hub; no network."""
    folder = small_project.make(tmp_path_factory.mktemp("real-fields") / "project")
    shutil.rmtree(folder / small_project.BASE["path"])
    cache = folder.parent / "hub"
    original = real_base.build(folder.parent / "base")
    real_base.fill_cache(cache, original)
    adapter = real_base.adapter(original, folder.parent / "adapters" / ADAPTER)
    real_base.fill_cache(cache, adapter.parent, "tiny/adapters", "a" * 40)
    published = (small_project.ROOT / "config/bases/z-image-turbo.yaml").read_text()
    (folder / "config/bases/mini.yaml").unlink()
    write_yaml(
        folder / "config/bases/tiny-z-image.yaml",
        {
            "repo": REPO,
            "revision": "main",
            "judge": "none",
            "adapters": {"v1": {"repo": "tiny/adapters", "file": ADAPTER}},
            "run_ahead": 1,
            "recipe": {"quantization": {"transformer": "none", "text_encoder": "none"}},
        },
    )
    (folder / "config/bases/z-image-turbo.yaml").write_text(published)
    recipe = {**RECIPE, "train": {**RECIPE["train"], "steps": 2, "optimizer": "adamw"}, "training_adapter": "v1"}
    recipe["sample"] = {"every": 2, "steps": 2, "width": 64, "height": 64}
    edit(folder / "config/config.yaml", base="tiny-z-image", recipe=recipe, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_CACHE", str(cache))
        build(folder)
        yield folder


def test_the_lock_names_the_commit_of_the_branch(project: Path) -> None:
    lock = json.loads((project / "work/bases/tiny-z-image.lock.json").read_text())
    assert (lock["repo"], lock["revision"]) == (REPO, COMMIT)
    assert lock["adapters"]["v1"]["revision"] == "a" * 40
    assert {name.split("/")[0] for name in lock["files"]} == set(lock["components"])
    assert len([name for name in lock["files"] if re.fullmatch(r"transformer/.*-of-.*\.safetensors", name)]) > 1


def test_the_adapter_of_the_hub_is_merged(project: Path) -> None:
    record = json.loads((project / "work/bases/tiny-z-image-v1-none.json").read_text())
    assert record["merged"]["modules"] == 8 and record["merged"]["delta_norm"] > 0
    log = (project / "work/logs/prepare_base/tiny-z-image-v1-none.log").read_text()
    assert "merged 8 modules" in log


def test_a_lora_comes_out(project: Path) -> None:
    final = project / "results/mara/final.safetensors"
    snapshot = Path(json.loads((project / "work/bases/tiny-z-image.lock.json").read_text())["root"])
    config = json.loads((snapshot / "transformer/config.json").read_text())
    report = verify(final, module_shapes(config), modules=16)
    assert report.ok, report
    assert len(list((project / "results/mara").glob("samples/*/[0-9]*.png"))) >= 2


def test_a_branch_that_moves_changes_nothing_until_the_lock_is_deleted(project: Path) -> None:
    ref = project.parent / f"hub/models--{REPO.replace('/', '--')}/refs/main"
    ref.write_text("f" * 40)
    try:
        assert "Nothing to be done" in build(project, "-n")
    finally:
        ref.write_text(COMMIT)


def test_a_commit_that_the_cache_lacks_is_one_line(project: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(project, tmp_path / "project"))
    edit(copy / "config/bases/tiny-z-image.yaml", revision="e" * 40)
    result = snakemake(copy, "--cores", "1", "work/bases/tiny-z-image.lock.json", code=small_project.ROOT)
    log = (copy / "work/logs/lock_base/tiny-z-image.log").read_text()
    assert result.returncode == 1 and "Traceback" not in log + result.stderr
    what = f"{REPO} at {'e' * 40}"
    assert f"error: config/bases/tiny-z-image.yaml: {what} cannot be fetched from the hub" in result.stderr


def test_the_published_base_plans_the_same_jobs(project: Path) -> None:
    def planned(base: str) -> list[str]:
        text = build(project, "-n", "--forceall", "--config", f"base={base}")
        return re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)

    # Its judge is auto, which is locked and chosen by two jobs more.
    assert [job for job in planned("z-image-turbo") if job[0] not in ("lock_judge", "study_references", "total")] == [
        job for job in planned("tiny-z-image") if job[0] != "total"
    ]
