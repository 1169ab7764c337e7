"""The whole workflow on a tiny random base: every file is made, nothing is made twice, and a kill loses nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import small_project
import torch
from cli_helpers import call, said
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_project import TARGET, edit, snakemake, write_yaml
from tiny_run import RECIPE, build

from charloom.config.project import load
from charloom.core.canonical import file_digest
from charloom.workflow import delivery


def digests(folder: Path) -> dict[str, str]:
    """Of all that must come out the same however often it is made."""
    kinds = (
        "checkpoints/*",
        "samples/*/*.png",
        "dataset/*",
        "latents/*",
        "embeddings/*",
        "scores*/*",
        "strengths*",
        "strengths/*",
        "final.safetensors",
    )
    files = [path for kind in kinds for path in sorted((folder / "results/mara").glob(kind))]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = small_project.make(tmp_path_factory.mktemp("end-to-end") / "project")
    shutil.rmtree(folder / small_project.BASE["path"])
    shutil.copytree(tiny_base, folder / small_project.BASE["path"])
    base = {**small_project.BASE, "adapters": {}, "run_ahead": 0}
    recipe = {**base["recipe"], "sample": {"width": 64, "height": 64}, "training_adapter": "none"}
    write_yaml(folder / "config/bases/mini.yaml", {**base, "recipe": recipe})
    edit(folder / "config/config.yaml", recipe=RECIPE, device="cpu")
    build(folder)
    return folder


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project, tmp_path / "project"))


def test_every_file_is_there(project: Path) -> None:
    results = project / "results/mara"
    for name in ("final.safetensors", "report.html", "validation.json", "scores.csv", "prompts.html", "reference.png"):
        assert (results / name).stat().st_size > 0, name
    assert sorted(path.name for path in (results / "checkpoints").iterdir()) == [
        f"step-{step:06d}.safetensors" for step in (2, 4, 6)
    ]
    # Two prompts after 0 steps (the base alone), 2, 4 and 6.
    assert len(list(results.glob("samples/*/[0-9]*.png"))) == 8
    chosen = json.loads((results / "validation.json").read_text())["step"]
    checkpoint = results / f"checkpoints/step-{chosen:06d}.safetensors"
    with safe_open(checkpoint, "pt") as trained, safe_open(results / "final.safetensors", "pt") as final:
        assert sorted(trained.keys()) == sorted(final.keys())
        assert all(torch.equal(trained.get_tensor(key), final.get_tensor(key)) for key in trained.keys())
        header = final.metadata()
        assert trained.metadata().items() - {("modelspec.title", "mara")} <= header.items()
    assert header["modelspec.title"] == "Mara" and header["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert json.loads(header["charloom.sample"])["prompt"].startswith("a medium shot photo of m4ra")
    verified = json.loads((results / "verification.json").read_text())
    assert (verified["step"], verified["by"], verified["ok"], verified["problems"]) == (chosen, "validation", True, [])
    assert verified["sha256"] == file_digest(checkpoint) and verified["loaders"]
    # Neither a date nor a place.
    assert "modelspec.date" not in header and str(project) not in str(header) and "/" not in header["charloom.base"]


def test_strengths_are_drawn_as_previews_are(project: Path) -> None:
    results = project / "results/mara"
    names = [
        f"{strength}-{prompt}.png" for strength in ("0.60", "0.70", "0.80", "0.90", "1.00") for prompt in ("01", "02")
    ]
    assert sorted(path.name for path in (results / "strengths").iterdir()) == names
    sweep = json.loads((results / "strengths.json").read_text())
    assert [row["strength"] for row in sweep["strengths"]] == [0.6, 0.7, 0.8, 0.9, 1.0]
    assert sweep["recommended"] is None and "Not scored: identity and obedience" in sweep["why"][0]  # judge: none
    # The prompts' own strengths are 1 and 0.8.
    samples = results / f"samples/step-{sweep['step']:06d}"
    for name, own in (("01", "1.00-01.png"), ("02", "0.80-02.png")):
        assert (results / "strengths" / own).read_bytes() == (samples / f"{name}.png").read_bytes()
    with Image.open(results / "strengths.png") as strip:
        assert strip.width > strip.height


def test_progress_is_in_the_log(project: Path) -> None:
    log = "\n".join(path.read_text() for path in (project / "results/mara/logs/train_segment").iterdir())
    assert re.search(r"step \d/6  loss \d\.\d+ .* ETA ", log)
    assert list((project / "results/mara/benchmarks/train_segment").glob("*.tsv"))


def test_nothing_is_done_twice(project: Path) -> None:
    assert "Nothing to be done" in build(project)


def test_lost_results_come_out_of_the_store(copy: Path) -> None:
    before = digests(copy)
    shutil.rmtree(copy / "results")
    text = build(copy)
    assert "loading torch" not in text and "encoding up to" not in text and "pictures of" not in text
    assert digests(copy) == before


def test_settings_there_and_back_again_cost_nothing(copy: Path) -> None:
    curve = copy / "results/mara/training/metrics.jsonl"
    before, drawn = digests(copy), curve.read_bytes()
    assert "loading torch" in build(copy, "--config", "recipe={network: {rank: 2, alpha: 2}}")
    assert digests(copy) != before and curve.read_bytes() != drawn
    assert "loading torch" not in build(copy)
    assert digests(copy) == before
    assert curve.read_bytes() == drawn  # the report draws it
    first = "results/mara/checkpoints/step-000002.safetensors"
    (copy / first).unlink()
    assert snakemake(copy, "--cores", "2", first, code=small_project.ROOT).returncode == 0
    assert curve.read_bytes() == drawn  # to its end, not to that of the checkpoint


def test_several_processes_train_to_the_bytes_of_one(copy: Path, tmp_path: Path) -> None:
    """`gpus` is not part of any key: what it makes is what would be made without it, and is found again without it."""
    wanted, made = "results/mara/checkpoints/step-000002.safetensors", []
    for gpus in (1, 2):
        folder = Path(shutil.copytree(copy, tmp_path / f"with-{gpus}"))
        recipe = {**RECIPE, "train": {**RECIPE["train"], "gradient_accumulation": 3}}
        edit(folder / "config/config.yaml", recipe=recipe, gpus=gpus)
        run = snakemake(folder, "--cores", "2", wanted, code=small_project.ROOT)
        assert run.returncode == 0, run.stderr
        assert ("training in 2 processes" in run.stderr) == (gpus == 2)
        made.append((folder / wanted).read_bytes())
    assert made[0] == made[1] != (copy / wanted).read_bytes()
    edit(folder / "config/config.yaml", gpus=1)
    again = snakemake(folder, "-n", wanted, code=small_project.ROOT)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr, again.stdout


def test_a_broken_checkpoint_is_not_shipped(copy: Path, tmp_path: Path) -> None:
    final = copy / "results/mara/final.safetensors"
    before, steps = final.read_bytes(), sorted((copy / "results/mara/checkpoints").iterdir())
    tensors = load_file(steps[-1])
    next(value for name, value in tensors.items() if name.endswith("lora_B.weight"))[0, 0] = float("nan")
    steps[-1].unlink()
    save_file(tensors, steps[-1])
    script, lock = small_project.ROOT / "scripts/verify_checkpoint.py", copy / "work/bases/mini.lock.json"
    results = copy / "results/mara"
    command = [sys.executable, script, results / "validation.json", "--results", results, "--lock", lock]
    edit(copy / "config/characters/mara.yaml", checkpoint=6)
    workflow = load(copy)
    settings, output = delivery.shipped(workflow.characters["mara"]), results / "verification.json"
    verified = output.read_bytes()
    result = subprocess.run(
        [*command, "--settings", settings, "--output", output], cwd=copy, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "step-000006.safetensors" in result.stderr and "NaN or infinity in 1 of" in result.stderr
    assert "Traceback" not in result.stderr
    assert output.read_bytes() == verified
    # Nor is one that was broken after it had been verified.
    script = small_project.ROOT / "scripts/export_final.py"
    settings = delivery.final(workflow.characters["mara"], workflow.bases["mini"])
    record = tmp_path / "verification.json"
    record.write_text(json.dumps({**json.loads(verified), "step": 6}))
    command = [sys.executable, script, record, *command[3:], "--settings", settings, "--output", final]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert result.returncode == 1 and "is not what was verified" in result.stderr, result.stderr
    assert final.read_bytes() == before


def test_a_checkpoint_that_a_disk_damaged_after_it_was_verified_is_restored(copy: Path) -> None:
    """Its dates stay, so nothing verifies it again by itself."""
    final = copy / "results/mara/final.safetensors"
    verified = json.loads((copy / "results/mara/verification.json").read_text())
    before, checkpoint = final.read_bytes(), copy / verified["file"]
    dates, data = checkpoint.stat(), bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.unlink()
    checkpoint.write_bytes(data)
    os.utime(checkpoint, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    command = ("--cores", "2", "--forcerun", "export_final", "--", TARGET)
    made = snakemake(copy, *command, code=small_project.ROOT)
    said_so = "is not what was verified; delete it and run again, which restores it"
    assert made.returncode == 1 and said_so in made.stdout + made.stderr
    checkpoint.unlink()
    made = snakemake(copy, *command, code=small_project.ROOT)
    assert made.returncode == 0, made.stderr
    assert final.read_bytes() == before


def test_a_bundle_trains_to_the_same_file_in_a_fresh_clone(
    copy: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copy / "results/mara/bundle.zip"
    made = snakemake(copy, "--cores", "2", "results/mara/bundle.zip", code=small_project.ROOT)
    assert made.returncode == 0, made.stderr[-4000:]
    assert "loading torch" not in made.stdout + made.stderr
    clone = fresh_clone(tmp_path / "clone", tiny_base)
    monkeypatch.chdir(clone)
    unpacked = call("unpack", str(bundle))
    assert unpacked.exit_code == 0, said(unpacked)
    build(clone)
    assert (clone / TARGET).read_bytes() == (copy / TARGET).read_bytes()


def fresh_clone(folder: Path, tiny_base: Path) -> Path:
    """A workflow without Mara and her base's file."""
    clone = small_project.make(folder)
    shutil.rmtree(clone / small_project.BASE["path"])
    shutil.copytree(tiny_base, clone / small_project.BASE["path"])
    for name in ("characters/mara.yaml", "bases/mini.yaml"):
        (clone / "config" / name).unlink()
    return clone


def test_a_bundle_has_all_that_a_character_file_names_from_elsewhere(
    copy: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own pictures, further sets, captions, a LoRA to start from, all outside of the folder; and a shared plan."""
    outside = tmp_path / "elsewhere"
    for name in ("mine", "others", "unseen"):
        (outside / name).mkdir(parents=True)
    for index, shot in enumerate(("closeup-01", "medium-01", "fullbody-01")):
        small_project.picture(outside / f"mine/{shot}.png", (150, 140), seed=index)
    (outside / "mine/medium-01.txt").write_text("m4ra as I see her\n")
    (copy / "config/captions/mara").mkdir(parents=True)
    (copy / "config/captions/mara/closeup-01.txt").write_text("m4ra, near\n")
    for index, name in enumerate(("others/a-1", "unseen/b-1")):
        small_project.picture(outside / f"{name}.png", (120, 96), seed=8 + index)
        (outside / f"{name}.txt").write_text("a photo of a woman\n")
    start, ink = outside / "first run.safetensors", outside / "ink.safetensors"
    for path in (start, ink):
        shutil.copy(copy / "results/mara/checkpoints/step-000004.safetensors", path)
    write_yaml(copy / "config/plans/three.yaml", {"shots": small_project.CHARACTER["shots"]})
    edit(
        copy / "config/characters/mara.yaml",
        images={"source": "folder", "path": str(outside / "mine")},
        shots="three",
        crop={"right": 20, "bottom": 10, "minimum": 64},
        datasets=[
            {"name": "others", "path": str(outside / "others"), "regularization": True, "crop": {"right": 5}},
            {"name": "unseen", "path": str(outside / "unseen"), "holdout": True},
        ],
        recipe={"network": {"init": str(start)}, "train": {"steps": 2}, "sample": {"strengths": []}},
        gallery=[{"prompt": "{trigger} at sea", "width": 64, "height": 64, "steps": 1, "styles": [{"file": str(ink)}]}],
    )
    made = snakemake(copy, "--cores", "2", "results/mara/bundle.zip", code=small_project.ROOT)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-4000:]
    with zipfile.ZipFile(copy / "results/mara/bundle.zip") as file:
        assert file.read("mara-start.safetensors") == start.read_bytes()
        texts = [file.read(name) for name in file.namelist() if not name.endswith((".png", ".safetensors"))]
        assert "the styles of the gallery (ink)" in file.read("README.md").decode()
    assert not [text for text in texts if str(tmp_path).encode() in text or b"elsewhere" in text]
    clone = fresh_clone(tmp_path / "clone", tiny_base)
    outside.rename(tmp_path / "gone")
    monkeypatch.chdir(clone)
    unpacked = call("unpack", str(copy / "results/mara/bundle.zip"))
    assert unpacked.exit_code == 0, said(unpacked)
    assert load(clone).characters["mara"].init == Path("resources/loras/mara-start.safetensors")
    build(clone)
    assert (clone / TARGET).read_bytes() == (copy / TARGET).read_bytes()


def test_a_gallery_is_drawn_and_bundled(copy: Path) -> None:
    """Three scenes, one of them with a style on top; what is stored is not drawn again."""
    results = copy / "results/mara"
    shutil.copy(results / "checkpoints/step-000002.safetensors", copy / "ink.safetensors")
    inked = {"prompt": "{trigger} at home, <b>", "styles": [{"file": "ink.safetensors", "strength": 0.5}]}
    prompts = ["{trigger} at sea", inked, {"prompt": "{trigger} on a hill", "width": 64, "strength": 0.5}]
    edit(copy / "config/characters/mara.yaml", gallery={"steps": 2, "width": 96, "height": 80, "prompts": prompts})
    target = "results/mara/gallery/index.html"
    made = snakemake(copy, "--cores", "2", target, code=small_project.ROOT)
    assert made.returncode == 0, made.stderr[-4000:]
    said = made.stdout + made.stderr
    assert said.count("gallery-0") >= 3 and "loading torch" not in said  # nothing is trained for it
    with Image.open(results / "gallery/02.png") as inked, Image.open(results / "gallery/03.png") as small:
        assert inked.size == (96, 80) and small.size == (64, 80)
        assert "m4ra at home, <b> <lora:mara:1> <lora:ink:0.5>\nSteps: 2, " in inked.info["parameters"]
        assert "Seed: 43, Size: 96x80, Model: mini" in inked.info["parameters"] and "workflow" in inked.info
    page = (copy / target).read_text()
    assert page.count("data:image/webp") == 3 and "m4ra at home, &lt;b&gt;" in page and "ink at 0.5" in page
    before = {path.name: path.read_bytes() for path in (results / "gallery").glob("*.png")}
    newest = max((copy / "work/store/sample").rglob("*.png"), key=lambda path: path.stat().st_mtime)
    newest.unlink()
    shutil.rmtree(results / "gallery")
    (results / "gallery").mkdir()
    Image.new("RGB", (8, 8)).save(results / "gallery/04.png")  # of a scene that is gone
    bundled = snakemake(copy, "--cores", "2", "results/mara/bundle.zip", code=small_project.ROOT)
    assert bundled.returncode == 0, bundled.stderr[-4000:]
    assert (bundled.stdout + bundled.stderr).count("2 steps, ") == 1  # the one that was lost
    assert {path.name: path.read_bytes() for path in (results / "gallery").glob("0[123].png")} == before
    with zipfile.ZipFile(results / "bundle.zip") as file:
        names = set(file.namelist())
        assert {"gallery/index.html", "gallery/01.png", "gallery/03.png"} <= names and "gallery/04.png" not in names
        listed = file.read("gallery-prompts.txt").decode()
        assert "02  96x80, 2 steps, seed 43, strength 1, ink at 0.5\nm4ra at home, <b>\n" in listed
        assert b"ink.safetensors" not in file.read("config/characters/mara.yaml")
    again = snakemake(copy, "-n", "mara", code=small_project.ROOT)
    assert "draw_gallery" not in again.stdout + again.stderr


def test_a_further_set_and_class_captions_are_trained_on(copy: Path) -> None:
    """A regularisation set with a default caption, and differential output preservation, from files to a checkpoint."""
    goal = "results/mara/checkpoints/step-000002.safetensors"
    before = digests(copy)[goal]
    (copy / "others").mkdir()
    for index, name in enumerate(("a-1.png", "a-2.jpg")):
        Image.new("RGB", (120, 80), (90 * index, 80, 160)).save(copy / "others" / name)
    (copy / "others/a-1.txt").write_text("a photo of a woman\n")
    entry = {"name": "others", "path": "others", "regularization": True, "default_caption": "somebody", "repeats": 2}
    recipe = {"train": {"preservation": {"differential": {"enabled": True, "class": "girl"}}}}
    edit(copy / "config/characters/mara.yaml", datasets=[{**entry, "resolutions": [64]}], recipe=recipe)
    result = snakemake(copy, "--cores", "2", goal, code=small_project.ROOT)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stderr.count("texts on cpu") == 1  # captions and class captions in one start
    items = {item["name"]: item for item in json.loads((copy / "results/mara/dataset.json").read_text())["items"]}
    assert [items[name]["caption"] for name in ("others/a-1", "others/a-2")] == ["a photo of a woman", "somebody"]
    assert [name for name in items if "class_embeddings" in items[name]] == [n for n in items if "/" not in n]
    with safe_open(copy / items["medium-01"]["class_embeddings"], "pt") as file:
        assert file.metadata()["caption"] == items["medium-01"]["caption"].replace("m4ra", "girl")
    with safe_open(copy / items["others/a-2"]["latents"], "pt") as file:
        assert list(file.keys()) == ["64x64"]
    assert digests(copy)[goal] != before


def test_more_steps_go_on_from_where_it_stopped(copy: Path) -> None:
    before = digests(copy)
    text = build(copy, "--config", "recipe={train: {steps: 8}}")
    steps = [int(step) for step in re.findall(r"step (\d+)/8  loss", text)]
    assert steps and min(steps) > 6
    after = digests(copy)
    # Another checkpoint is shipped, and so swept over strengths.
    kept = [name for name in before if "final" not in name and "strengths" not in name]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_a_killed_run_goes_on_and_comes_out_the_same(copy: Path) -> None:
    """kill -9 of everything at the first sign of a checkpoint; the rest is made by the next call."""
    before = digests(copy)
    shutil.rmtree(copy / "results")
    for kind in ("checkpoint", "state", "metrics", "sample"):
        shutil.rmtree(copy / "work/store" / kind, ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "-s", str(small_project.ROOT / "Snakefile"), "--cores", "2", TARGET]
    environment = {**os.environ, "PYTHONPATH": str(small_project.ROOT)}
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((copy / "work/store").glob("checkpoint/*/[0-9a-f]*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    unlocked = snakemake(copy, "--unlock", TARGET, code=small_project.ROOT)
    assert unlocked.returncode == 0, unlocked.stderr
    build(copy)
    assert digests(copy) == before


def test_a_failing_job_keeps_what_was_shipped(copy: Path) -> None:
    before = {path: path.read_bytes() for path in (copy / "results/mara").glob("*.*")}
    own = copy / "config/captions/mara/closeup-01.txt"
    own.parent.mkdir(parents=True)
    own.write_text("a caption without the word that matters")
    result = snakemake(copy, "--cores", "2", TARGET, code=small_project.ROOT)
    assert result.returncode == 1
    assert "config/captions/mara/closeup-01.txt: the trigger m4ra is missing" in result.stderr
    kept = {path for path in before if path.name != "lint.json"}
    assert all(path.read_bytes() == before[path] for path in kept)
