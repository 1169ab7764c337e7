"""From a folder of captioned pictures to the first steps of training, as somebody with no more than that does it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import small_project
import yaml
from cli_helpers import call, said
from safetensors import safe_open
from small_project import edit, snakemake, write_yaml
from tiny_run import RECIPE

from charloom.config.project import load
from charloom.dataset import captions

NAMES = (
    "Mara 01.JPG", "IMG_2034.png", "day 2/Mara 01.jpg", "day 2/été à la mer.webp", "day 2/deep {er}/一张.png",
    "x.y.z.png", "-dash.png", "UPPER/CASE.Png", "it's \"quoted\" $HOME.png", "scan.tiff", "old/scan.bmp",
    "old/no words.png", "n" * 120 + ".png",
)  # fmt: skip
TIERS = ("a close-up portrait photo", "a medium shot photo", "a full body photo")


def fill(folder: Path, trigger: str = "") -> dict[str, str]:
    """Pictures of all those names, all but one with a caption; returns digests of every file."""
    for index, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small_project.picture(path, (130 + index, 140), seed=index)
        if "no words" not in name:
            who = f"{trigger}, a woman" if trigger else "a woman"
            text = f"{TIERS[index % 3]} of {who} in place {index}, neon signs behind her, hat number {index * 7}"
            path.with_suffix(".txt").write_text(text)
    (folder / ".DS_Store").touch()
    (folder / "day 2/notes.pdf").touch()
    return digests(folder)


def digests(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = small_project.make(tmp_path / "project")
    shutil.rmtree(folder / small_project.BASE["path"])
    shutil.copytree(tiny_base, folder / small_project.BASE["path"])
    base = {**small_project.BASE, "adapters": {}, "run_ahead": 1}
    recipe = {**base["recipe"], "sample": {"width": 64, "height": 64}, "training_adapter": "none"}
    write_yaml(folder / "config/bases/mini.yaml", {**base, "recipe": recipe})
    edit(folder / "config/config.yaml", recipe=RECIPE, device="cpu")
    (folder / "config/characters/mara.yaml").unlink()
    monkeypatch.chdir(folder)
    return folder


def test_a_folder_with_captions_reaches_training(project: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "my pictures"
    before = fill(pictures)
    made = call("new", "mara", "--images", str(pictures))
    assert made.exit_code == 0 and "13 pictures" in said(made) and "12 with a caption" in said(made)
    written = yaml.safe_load(Path("config/characters/mara.yaml").read_text())
    assert set(written) == {"name", "trigger", "class", "images"} and written["class"] == "woman"

    checked = call("lint", "mara")
    lines = said(checked).splitlines()
    assert checked.exit_code == 0 and any(
        line.startswith("13 captions and 13 images checked: 0 errors") for line in lines
    )
    assert [line for line in lines if line.startswith("warning: captions: 1 picture has no caption")]
    assert any(line.startswith("warning: ") and "notes.pdf: unsupported format" in line for line in lines)
    guessed = [line for line in lines if line.startswith("note: balance: guessed")]
    assert guessed and "5 close-ups, 4 medium shots, 3 of the whole figure" in guessed[0] and "behind" not in guessed[0]

    dry = snakemake(project, "-n", "results/mara/checkpoints/step-000002.safetensors", code=small_project.ROOT)
    table = dry.stdout + dry.stderr
    assert dry.returncode == 0 and "crop_watermark" not in table and "make_source_image" not in table
    for rule in ("convert_picture", "take_caption", "encode_latents", "encode_caption"):
        assert [line.split() for line in table.splitlines() if line.startswith(rule + " ")][0] == [rule, "13"], rule

    target = "results/mara/checkpoints/step-000002.safetensors"
    done = snakemake(project, "--cores", "1", target, code=small_project.ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with safe_open(target, "pt") as file:
        assert any(file.get_tensor(key).abs().max() > 0 for key in file.keys() if "lora_B" in key)
    mara = load().characters["mara"]
    texts = {name: captions.read(Path(f"results/mara/dataset/{name}.txt")) for name in mara.shot_names}
    assert all(text.startswith(f"{mara.trigger}, ") for text in texts.values()) and len(set(texts.values())) == 13
    assert [name for name, text in texts.items() if text == f"{mara.trigger}, a woman"] == ["old-no-words"]
    assert digests(pictures) == before  # originals untouched

    # One caption, then one picture: what hangs on it, and nothing else.
    (pictures / "IMG_2034.txt").write_text("a woman in another place")
    assert small(project) == {"take_caption": 1, "encode_caption": 1}
    shutil.copy(pictures / "scan.tiff", pictures / "new one.tiff")
    assert small(project) == {"take_caption": 2, "encode_caption": 2, "convert_picture": 1, "encode_latents": 1}


def small(project: Path) -> dict[str, int]:
    """Jobs that a dry run plans for single pictures."""
    rules = ("convert_picture", "take_caption", "encode_latents", "encode_caption", "crop_watermark")
    dry = snakemake(project, "-n", "results/mara/checkpoints/step-000002.safetensors", code=small_project.ROOT)
    rows = [line.split() for line in (dry.stdout + dry.stderr).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[0] in rules and row[1].isdigit()}
