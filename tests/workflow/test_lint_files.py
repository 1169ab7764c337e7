"""The command ``charloom lint``: the user's own files as they are now, by their own names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_project
from PIL import Image, ImageFilter
from small_project import edit
from typer.testing import CliRunner

from charloom.cli.main import app
from charloom.config import notices
from charloom.config.project import load
from charloom.core.errors import Stopped
from charloom.report import gather
from charloom.report import page as html
from charloom.workflow import looking, slices

MARA = Path("config/characters/mara.yaml")


def noise(path: Path, seed: int, size: tuple[int, int] = (300, 320)) -> Path:
    generator = np.random.default_rng(seed)
    image = Image.fromarray(generator.integers(0, 256, (24, 26, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize(size, Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mara with pictures of her own, which have names of their own, and a further set."""
    monkeypatch.chdir(small_project.make(tmp_path))
    shots = [dict(shot) for shot in small_project.CHARACTER["shots"]]
    shots[1]["file"] = "Mara 02.png"
    for seed, name in enumerate(("closeup-01", "Mara 02", "fullbody-01")):
        noise(Path("pics", f"{name}.png"), seed)
        Path("pics", f"{name}.txt").write_text(f"a photo of m4ra, pose {seed}")
    for seed, name in enumerate(("a", "b")):
        noise(Path("more", f"{name}.png"), seed + 10)
        Path("more", f"{name}.txt").write_text(f"a photo of m4ra in place {seed}")
    images = {"source": "folder", "path": "pics", "count": 3}
    edit(MARA, shots=shots, images=images, datasets=[{"name": "more", "path": "more"}])
    return tmp_path


def lint(name: str = "mara", *options: str, code: int = 0) -> list[str]:
    result = CliRunner().invoke(app, ["lint", name, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result.output.splitlines()


def said(lines: list[str]) -> list[str]:
    """Findings about files; those about the plan of three shots are always there."""
    return [line for line in lines if line.startswith(("error: ", "warning: ")) and "/" in line.split(": ")[1]]


def test_nothing_needs_to_be_made(project: Path) -> None:
    assert said(lint()) == []
    assert not Path("results").exists()
    assert "5 captions and 5 images checked: 0 errors" in "\n".join(lint())
    assert lint("mara", "--no-ocr") == lint()


@pytest.mark.parametrize("place", ["pics/Mara 02", "more/b"])
def test_what_is_broken_is_named_as_the_user_knows_it_and_what_is_mended_is_gone(project: Path, place: str) -> None:
    picture, text = Path(f"{place}.png"), Path(f"{place}.txt")
    sound, words = picture.read_bytes(), text.read_text()
    picture.write_bytes(sound[:300])
    text.write_bytes(b"\xff\xfe\xff")
    wrong = said(lint(code=1))
    assert [line.split(": ")[:2] for line in wrong] == [["error", str(text)], ["error", str(picture)]]
    assert "is not UTF-8 text" in wrong[0] and "is not a picture that can be read" in wrong[1]
    picture.write_bytes(sound)
    text.write_text(words)
    assert said(lint()) == []


def test_made_copies_are_not_asked(project: Path) -> None:
    for name in ("closeup-01", "medium-01", "fullbody-01", "more/a", "more/b"):
        noise(Path(f"results/mara/dataset/{name}.png"), 1, (10, 10))
        Path(f"results/mara/dataset/{name}.txt").write_text("nobody")
    assert said(lint()) == []


def test_pictures_of_sets_are_checked_like_those_of_the_plan(project: Path) -> None:
    with Image.open("more/a.png") as image:
        clear, blurred = image.convert("RGBA"), image.filter(ImageFilter.GaussianBlur(20))
    clear.putalpha(120)
    clear.save("more/clear.png")
    blurred.save("more/blurred.png")
    noise(Path("more/small.png"), 20, (60, 300))
    Path("more/twin.png").write_bytes(Path("pics/closeup-01.png").read_bytes())
    Image.new("RGBA", (300, 300)).save("more/void.png")
    for name in ("clear", "blurred", "small", "twin", "void"):
        Path(f"more/{name}.txt").write_text(f"a photo of m4ra {name}")
    found = dict(line.split(": ", 1)[1].split(": ", 1) for line in said(lint(code=1)))
    for where, what in {
        "more/clear.png": "was transparent and stands on white now",
        "more/blurred.png": "looks blurred",
        "more/small.png": "60x300 is less than the minimum of 64",
        "more/void.png": "is completely transparent",
        "pics/closeup-01.png, more/twin.png": "are the same image",
        "more/a.png, more/clear.png": "are almost the same image",  # in other tones
    }.items():
        assert what in found.pop(where), where
    assert not found


def test_what_the_run_would_refuse_is_refused(project: Path) -> None:
    """Nothing is cut off the user's own pictures, unless somebody says so; lint then says it too."""
    assert load().characters["mara"].crop == {"right": 0, "bottom": 0, "minimum": 64}
    edit(Path("config/config.yaml"), crop={"right": 250, "minimum": 64})
    lines = lint(code=1)
    assert [line.partition(" leaves ")[2][:6] for line in lines if "leaves" in line] == ["50x320"] * 3
    edit(Path("config/config.yaml"), crop={"right": 100, "minimum": 64})
    lines = lint()
    assert "note: crop: 100 pixels at the right are cut off each of your images" in "\n".join(lines)
    cut = slices.crop(load().characters["mara"], "medium-01")
    script = str(small_project.ROOT / "scripts/crop_watermark.py")
    command = [sys.executable, script, "pics/Mara 02.png", "--output", "o.png", "--settings", cut]
    environment = {"PYTHONPATH": str(small_project.ROOT), "PATH": ""}
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0


def test_drawn_pictures_are_checked_once_they_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.make(tmp_path))
    assert "3 images are not drawn yet" in "\n".join(lint())
    noise(Path("results/mara/dataset/medium-01.png"), 1, (100, 100))
    lines = lint(code=1)
    assert "2 images are not drawn yet" in "\n".join(lines)
    assert any("medium-01.png: 100x100 has a side below 1024 pixels" in line for line in lines)


def test_files_that_nothing_reads_are_named(project: Path) -> None:
    for name in ("pics/old.psd", "pics/.DS_Store", "more/a.jpg", "more/b.caption", "config/captions/mara/x.tags"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    named = {line.split(": ")[1] for line in said(lint())}
    assert named == {"pics/old.psd", "more/a.jpg", "more/b.caption", "config/captions/mara/x.tags"}


def test_a_file_of_config_is_as_good_as_a_name(project: Path) -> None:
    assert lint("config/characters/mara.yaml") == lint("mara")


def test_prompts_are_counted_too(project: Path) -> None:
    edit(MARA, sample_prompts=["{trigger} in a kitchen", "a photo of {trigger}" + "，一只猫" * 300])
    line = next(line for line in lint() if "tokens" in line)
    assert line.startswith("warning: sample_prompts[2]: has about ")


def test_the_rule_names_the_same_files(project: Path) -> None:
    person, dataset = load().characters["mara"], Path("results/mara/dataset")
    for index, name in enumerate(person.image_names):
        noise(dataset / f"{name}.png", index)
        (dataset / f"{name}.txt").write_text(f"a photo of m4ra {name}\n")
    (dataset / "medium-01.txt").write_text("nobody\n")
    (dataset / "more/b.png").write_bytes(b"nothing")
    settings = slices.lint(person, load().bases["mini"])
    command = [sys.executable, str(small_project.ROOT / "scripts/lint_dataset.py"), "--results", str(dataset.parent)]
    command += ["--settings", settings, "--store", "store", "--output", "lint.json", "--log", "log"]
    environment = {"PYTHONPATH": str(small_project.ROOT), "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: mara: ")]
    assert [line.split(": ")[2] for line in errors] == ["more/b.png", "pics/Mara 02.txt"]


def test_facts_are_kept_by_content_and_crop(project: Path) -> None:
    from charloom.core.store import Store

    store, path = Store("kept"), Path("pics/closeup-01.png")
    whole = looking.kept_facts(path, store)
    cut = looking.kept_facts(path, store, {"right": 10, "bottom": 0, "minimum": 8})
    assert (whole["size"], cut["size"]) == ([300, 320], [290, 320])
    os.utime(path, (1, 1))
    assert looking.kept_facts(path, store) == whole and len(list(Path("kept").rglob("*.json"))) == 2


# what the base cannot do


def bases_and(project: Path, **base: Any) -> tuple[Any, Any]:
    edit(Path("config/bases/mini.yaml"), **base)
    workflow = load()
    return workflow.characters["mara"], workflow.bases["mini"]


def test_own_pictures_on_a_miniature_are_said_first(project: Path) -> None:
    edit(Path("config/bases/mini.yaml"), miniature=True)
    first = lint()[0]
    assert first.startswith("warning: base mini is a miniature that draws paper dolls and nothing else")
    assert "z-image-turbo" in first and "config/characters/mara.yaml" in first
    workflow = load()
    settings = json.loads(slices.report(workflow.characters["mara"], workflow.bases["mini"]))
    material = gather.Material("mara", "Mara", "m4ra", "mini", {"step": 1}, notices=settings["notices"])
    page = html.page(material)
    assert page.index("is a miniature") < page.index("<header")


def test_a_fitting_base_and_machine_need_no_words(project: Path) -> None:
    person, base = bases_and(project)
    assert notices.notices(person, base, has_gpu=True) == []
    assert "notices" not in json.loads(slices.report(person, base))
    (line,) = notices.notices(person, base, has_gpu=False)
    assert "wants a GPU" in line and "download" not in line and line.endswith("a GPU of 8 GB or more, better 16")
    hub = {**small_project.BASE, "repo": "a/b", "revision": "c", "download_gb": 33}
    del hub["path"]
    small_project.write_yaml(Path("config/bases/mini.yaml"), hub)
    person, base = load().characters["mara"], load().bases["mini"]
    assert "after a download of 33 GB" in notices.notices(person, base, has_gpu=False)[0]


def test_a_dora_is_said_to_be_for_charloom_alone(project: Path) -> None:
    edit(Path("config/characters/mara.yaml"), recipe={"network": {"type": "dora"}})
    workflow = load()
    person, base = workflow.characters["mara"], workflow.bases["mini"]
    (line,) = notices.notices(person, base, has_gpu=True)
    assert "full effect in charloom alone" in line
    assert "charloom convert results/mara/final.safetensors OUT.safetensors --to diffusers" in line
    assert json.loads(slices.report(person, base))["notices"] == [line]
    edit(Path("config/characters/mara.yaml"), recipe={"network": {"type": "lokr"}})
    assert "notices" not in json.loads(slices.report(load().characters["mara"], base))


def test_the_shipped_bases_say_what_they_are() -> None:
    people = load(small_project.ROOT)
    assert people.bases["paperdoll"].miniature
    assert notices.notices(people.characters["leyla"], people.bases["paperdoll"], has_gpu=False) == []


@pytest.mark.parametrize(
    ("device", "visible", "tool", "there"),
    [
        ("auto", None, True, True),
        ("auto", None, False, False),
        ("auto", "", True, False),
        ("auto", "-1", True, False),
        ("auto", "0", True, True),
        ("cpu", None, True, False),
        ("cuda:1", None, False, True),
        ("mps", None, False, True),
    ],
)
def test_gpus_are_told_by_their_drivers(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, tool: bool, there: bool
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(notices.platform, "system", lambda: "Linux")
    monkeypatch.setattr(notices.shutil, "which", lambda name: "/bin/nvidia-smi" if tool else None)
    monkeypatch.setattr(notices.Path, "exists", lambda self: False)
    assert notices.has_gpu(device) is there
    if device == "cuda:1":
        assert notices.has_gpu(device, here=True) is tool


@pytest.mark.parametrize(
    ("files", "hip", "there"),
    [
        (["/dev/dxg"], "None", False),
        (["/dev/dxg", "/usr/lib/wsl/lib/libcuda.so.1"], "None", True),
        (["/dev/kfd"], "None", False),
        (["/dev/kfd"], "'6.4'", True),
    ],
)
def test_a_device_that_torch_cannot_use_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], hip: str, there: bool
) -> None:
    """WSL beside any maker's card, and a processor of AMD's that draws."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "version.py").write_text(f"cuda: Optional[str] = None\nhip: Optional[str] = {hip}\n")
    torch = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(notices.importlib.util, "find_spec", lambda name: torch)
    monkeypatch.setattr(notices.platform, "system", lambda: "Linux")
    monkeypatch.setattr(notices.shutil, "which", lambda name: None)
    monkeypatch.setattr(notices.Path, "exists", lambda self: str(self) in files)
    assert notices.has_gpu() is there


def test_the_record_and_the_page_say_what_the_lines_say(project: Path) -> None:
    with Image.open("pics/closeup-01.png") as image:
        image.filter(ImageFilter.GaussianBlur(20)).save("pics/closeup-01.png")
    edit(MARA, lint={"allow": [{"rule": "tiers"}, {"rule": "blur", "where": "closeup-01", "why": "fog"}]})
    result = CliRunner().invoke(app, ["lint", "mara", "--json"])
    record = json.loads(result.output)
    assert [finding["rule"] for finding in record["allowed"]] == ["blur"]
    assert record["allowed"][0]["pictures"] == ["closeup-01"] and record["allowed"][0]["evidence"]["sharpness"] < 12
    assert [finding["what"] for finding in record["findings"] if finding["rule"] == "allow"] == [
        "nothing is found that it allows (tiers)"
    ]
    assert {one["name"]: one["role"] for one in record["pictures"]}["more/a"] == "set"
    assert {rule["name"] for rule in record["rules"]} >= {"blur", "twins"}
    assert "results/mara/lint.html: written" in CliRunner().invoke(app, ["lint", "mara", "--html"]).output
    page = Path("results/mara/lint.html").read_text()
    assert page.count("data:image/webp") >= 5 and "a photo of m4ra in place 1" in page


def test_a_rule_that_does_not_exist_is_one_line(project: Path) -> None:
    edit(MARA, lint={"allow": [{"rule": "bluur"}]})
    (line,) = [line for line in lint(code=1) if "bluur" in line]
    assert "lint.allow[1].rule" in line and "did you mean blur?" in line


def test_a_changed_picture_is_looked_at_and_no_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    original = looking.pictures.read
    monkeypatch.setattr(
        looking.pictures, "read", lambda path, *more: looked.append(Path(path)) or original(path, *more)
    )
    seen = {"faces": (lambda: True, lambda pixels: [{"box": [0, 0, 1, 1], "score": 1.0}] * 2, 480, 1)}
    monkeypatch.setattr(looking, "DETECTORS", seen)
    assert sum("shows 2 faces" in line for line in lint()) == 5 and len(looked) == 5
    lint()
    assert len(looked) == 5
    noise(Path("more/a.png"), 77)
    lint()
    assert looked[5:] == [Path("more/a.png")]
    # Another detector looks at all of them, but what was measured stays.
    monkeypatch.setattr(looking, "DETECTORS", {"faces": (*seen["faces"][:3], 2)})
    kept = len(list(Path("work/store/image-facts").rglob("*.json")))
    lint()
    assert len(looked) == 11 and len(list(Path("work/store/image-facts").rglob("*.json"))) == kept


def test_a_detector_that_cannot_be_imported_is_done_without(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that needs OpenCV, on a machine without libGL."""

    def look(pixels: object) -> list[dict]:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(looking, "DETECTORS", {"text": (lambda: True, look, 480, 1)})
    monkeypatch.setattr(looking, "broken", {})
    (line,) = [line for line in lint() if "libGL" in line]
    assert line.startswith("note: pictures are not looked at for text: ") and line.endswith(
        "; reinstall it, or uninstall it"
    )


def test_a_damaged_entry_is_made_again(project: Path) -> None:
    lint()
    for entry in Path("work/store/image-facts").rglob("*.json"):
        entry.chmod(0o644)
        entry.write_text('{"size": [')
    assert said(lint()) == []
    for entry in Path("work/store/image-facts").rglob("*.json"):
        entry.chmod(0o644)
        entry.write_text(entry.read_text().replace('"size":[', '"size":[1'))  # which can still be read
    assert said(lint()) == [] and list(Path("work/store/image-facts").rglob("*.damaged"))


def test_a_check_that_is_stopped_ends_with_the_picture_that_it_is_at() -> None:
    stop, seen = threading.Event(), []

    def look() -> None:
        seen.append(1)
        stop.set()

    with pytest.raises(Stopped):
        looking.gathered({str(number): look for number in range(1000)}, threads=2, stop=stop)
    assert len(seen) <= 2
    assert looking.gathered({"a": lambda: 1}, stop=threading.Event()) == {"a": 1}
