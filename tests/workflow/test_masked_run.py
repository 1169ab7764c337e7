"""A whole run with a captioner and with masks, on a tiny random base: from pictures alone to a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import judge_models
import pytest
import small_project
import torch
from PIL import Image
from safetensors.torch import load_file
from small_project import edit, picture, snakemake, write_yaml
from tiny_run import RECIPE

from charloom.core.layout import Results
from charloom.workflow import describing

pytestmark = pytest.mark.slow
MARA = "config/characters/mara.yaml"


def test_masks_and_a_captioner_go_all_the_way(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """White masks train what no masks train, half masks train something else, and only what must runs again."""
    folder = small_project.make(tmp_path / "project")
    monkeypatch.chdir(folder)
    shutil.rmtree(small_project.BASE["path"])
    shutil.copytree(tiny_base, small_project.BASE["path"])
    recipe = {**small_project.BASE["recipe"], "training_adapter": "none"}
    write_yaml(folder / "config/bases/mini.yaml", {**small_project.BASE, "adapters": {}, "recipe": recipe})
    edit(folder / "config/config.yaml", recipe=RECIPE, device="cpu")
    judge_models.vision_language(folder / "captioner")
    Path("pics").mkdir()
    Path("white").mkdir()
    Path("half").mkdir()
    for seed, shot in enumerate(small_project.CHARACTER["shots"]):
        picture(Path(f"pics/{shot['name']}.png"), (140, 130), seed)
        Image.new("L", (140, 130), 255).save(f"white/{shot['name']}.png")
        mask = Image.new("L", (140, 130))
        mask.paste(255, (0, 0, 70, 130))
        mask.save(f"half/{shot['name']}.png")
    own = {"source": "folder", "path": "pics", "count": 3}
    edit(Path(MARA), images=own, captions={"captioner": {"model": "captioner", "longest": 16}, "accept": "auto"})
    made = Results("results/mara")

    def written(folder: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in sorted((made.root / folder).glob("*"))}

    def trained(**images: str) -> dict[str, torch.Tensor]:
        edit(Path(MARA), images={**own, **images})
        done = snakemake(folder, "--cores", "1", "-p", str(made.checkpoint(2)), code=small_project.ROOT)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return load_file(made.checkpoint(2))

    plain = trained()
    assert written("masks") == {}
    assert all(describing.text_of(made.raw_caption(shot["name"])) for shot in small_project.CHARACTER["shots"])
    assert json.loads(made.lint.read_text())["errors"] == 0
    before = [written(folder) for folder in ("latents", "captions", "dataset", "embeddings")]
    white = trained(masks="white")
    assert len(written("masks")) == 3
    assert [written(folder) for folder in ("latents", "captions", "dataset", "embeddings")] == before
    assert all(item["mask_weight"] == 0.1 for item in json.loads(made.manifest.read_text())["items"])
    assert all(torch.equal(plain[name], white[name]) for name in plain)
    half, masks = trained(masks="half"), written("masks")
    assert any(not torch.equal(plain[name], half[name]) for name in plain)
    edit(Path(MARA), recipe={"data": {"mask_weight": 0.5}})
    other = trained(masks="half")
    assert written("masks") == masks
    assert all(item["mask_weight"] == 0.5 for item in json.loads(made.manifest.read_text())["items"])
    assert any(not torch.equal(other[name], half[name]) for name in half)
