"""The bundle: all that belongs to a character, the same bytes every time, and nothing of the machine or its owner."""

from __future__ import annotations

import json
import os
import zipfile
from email.message import Message
from pathlib import Path

import bundles
import pytest
import small_project
import yaml
from PIL import Image
from small_project import edit, with_sets

from charloom.config import project
from charloom.core import files
from charloom.core.layout import Results
from charloom.dataset.crop import crop_file
from charloom.deliver.bundle import members
from charloom.workflow import delivery


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = small_project.make(tmp_path / "project")
    monkeypatch.chdir(made)
    bundles.pretend(made)
    return made


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_everything_is_in_it(folder: Path) -> None:
    found = contents(bundles.bundle(folder)[0])
    shots = [f"dataset/{name}.{end}" for name in ("closeup-01", "medium-01", "fullbody-01") for end in ("png", "txt")]
    assert set(found) == {
        *("README.md", "LICENSE.txt", "crop.py", "manifest.json", "provenance.json", "sample-prompts.txt"),
        *("mara.safetensors", "report.html", "comparison.png", "prompts.html", "prompts.txt", "validation.json"),
        *("scores.csv", "config/characters/mara.yaml", "config/bases/mini.yaml", *shots),
        *(f"comfyui/{n}{e}" for n in ("portrait", "scenes", "character-and-style") for e in (".json", ".api.json")),
    }
    assert found["mara.safetensors"] == (folder / "results/mara/final.safetensors").read_bytes()
    readme = found["README.md"].decode()
    commands = readme.split("```sh\n")[1].split("```")[0].splitlines()
    assert commands == [  # for somebody who has no clone
        "pip install git+ADDRESS",
        "charloom init studio && cd studio",
        "charloom unpack ../bundle.zip",
        "snakemake --cores 2 results/mara/final.safetensors",
    ]
    assert "`m4ra` in a prompt" in readme and "for `ADDRESS` write" in readme
    made = json.loads(found["provenance.json"])
    assert made["training"] == {"base_digest": "4" * 64, "step": 100}
    assert made["base"]["components"] == {"transformer": "1" * 64} and made["base"]["adapters"] == {
        "v1": {"sha256": "2" * 64}
    }


def test_the_address_that_the_package_names_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Message()
    for url in ("Homepage, https://example.org/charloom", "Source Code, https://example.org/charloom.git"):
        metadata["Project-URL"] = url
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: metadata)
    workflow = project.load(folder)
    about = json.loads(delivery.bundle(workflow.characters["mara"], workflow.bases["mini"]))
    readme = members(Results("results/mara"), about, bundles.LOCK, [])["README.md"].decode()
    assert "pip install git+https://example.org/charloom.git\n" in readme and "ADDRESS" not in readme


def test_the_same_run_gives_the_same_bytes(folder: Path) -> None:
    first, _ = bundles.bundle(folder)
    for path in (folder / "results").rglob("*.*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    second, _ = bundles.bundle(folder, output="again.zip")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as file:
        names = [info.filename for info in file.infolist()]
        assert names == sorted(names) and {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in file.infolist()} == {0o100644}


def test_extras_come_along_and_hidden_files_do_not(folder: Path) -> None:
    results = folder / "results/mara"
    for name in ("strengths.json", "gallery/index.html", "gallery/01.png", "gallery/.cache/x.png", "gallery/notes.sh"):
        files.write_text(results / name, '{"recommended": 0.9}')
    path, said = bundles.bundle(folder, "results/mara/strengths.json", "results/mara/gallery/index.html")
    found = contents(path)
    assert {"strengths.json", "gallery/index.html", "gallery/01.png"} <= set(found), said
    assert not [name for name in found if "/." in name or name.endswith(".sh")]
    assert b"gallery/index.html" in found["README.md"] and b"strengths.json`; recommended: 0.9" in found["README.md"]


def test_its_report_links_to_nothing_that_is_not_in_it(folder: Path) -> None:
    page = (
        '<a href="#use">Use</a> <a href="gallery/index.html">Gallery</a> <a href="samples/01.png">Prompt 01</a>'
        '<button data-r="0" data-file="samples/01.png"><button data-r="1" data-file="dataset/medium-01.png">'
        '<li><a href="final.safetensors">final.safetensors</a>: the LoRA</li>'
        '<li><a href="lint.json">lint.json</a>: what was found</li><a class="file">Open the file</a>'
    )
    (folder / "results/mara/report.html").write_text(page)
    assert contents(bundles.bundle(folder)[0])["report.html"].decode() == (
        '<a href="#use">Use</a> Gallery Prompt 01'
        '<button data-r="0"><button data-r="1" data-file="dataset/medium-01.png">'
        '<li><a href="mara.safetensors">final.safetensors</a>: the LoRA</li><a class="file">Open the file</a>'
    )


def test_no_path_of_the_machine_is_in_it(folder: Path) -> None:
    text = b"\n".join(contents(bundles.bundle(folder)[0]).values()).decode("utf-8", "replace")
    assert str(folder) not in text and "/somebody/else" not in text


@pytest.mark.parametrize("what", ["project", "token"])
def test_a_path_or_a_token_in_a_text_is_refused_by_name(folder: Path, what: str) -> None:
    secret = {"project": f"see {folder}/config", "token": "hf_" + "a1B2" * 8}[what]
    (folder / "results/mara/dataset/medium-01.txt").write_text(f"a photo of m4ra, {secret}")
    path, said = bundles.bundle(folder)
    words = {"project": "holds the path of your project folder", "token": "holds what looks like a secret, hf_a1B…"}[
        what
    ]
    assert not path.exists() and f"error: dataset/medium-01.txt: {words}" in said
    assert "Traceback" not in said and "a1B2a1B2" not in said


def test_pictures_of_a_folder_are_cropped_once_and_their_folder_is_not_told(folder: Path, tmp_path: Path) -> None:
    private = tmp_path / "Anna's private pictures"
    private.mkdir()
    for shot in bundles.project.load(folder).characters["mara"].shot_names:
        small_project.picture(private / f"{shot}.png", (300, 300))
    with_sets(folder, crop={"right": 8, "bottom": 4, "minimum": 64})
    edit(folder / "config/characters/mara.yaml", images={"source": "folder", "path": str(private), "count": 3},
         crop={"right": 50, "bottom": 50, "minimum": 64})  # fmt: skip
    bundles.pretend(folder)
    found = contents(bundles.bundle(folder)[0])
    character = yaml.safe_load(found["config/characters/mara.yaml"])
    assert character["images"] == {"source": "folder", "path": "resources/characters/mara", "count": 3}
    assert character["crop"] == {"right": 0, "bottom": 0, "minimum": 64}
    assert character["datasets"][0]["path"] == "resources/datasets/mara/others"
    assert character["datasets"][0]["crop"] == {"right": 0, "bottom": 0, "minimum": 64}
    assert {"dataset/others/a-1.png", "dataset/others/a-2.txt"} <= set(found)
    assert not [name for name, content in found.items() if b"private" in content]


def test_a_crop_of_nothing_gives_the_same_bytes_so_latents_stay_the_same(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera of somebody"
    small_project.picture(tmp_path / "x.png", (300, 200))
    with Image.open(tmp_path / "x.png") as image:
        image.save(tmp_path / "x.jpg", exif=exif)
    crop_file(tmp_path / "x.jpg", tmp_path / "1.png", right=30, bottom=20, minimum=64)
    crop_file(tmp_path / "1.png", tmp_path / "2.png", right=0, bottom=0, minimum=64)
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert b"somebody" not in (tmp_path / "1.png").read_bytes()


def test_a_base_somewhere_on_the_disk_becomes_one_below_resources(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "models"
    (folder / "resources/bases/mini").rename(outside)
    edit(folder / "config/bases/mini.yaml", path=str(outside), adapters={"v1": str(outside / "adapter.safetensors")})
    base = yaml.safe_load(contents(bundles.bundle(folder)[0])["config/bases/mini.yaml"])
    assert base["path"] == "resources/bases/mini" and base["adapters"] == {
        "v1": "resources/bases/mini/adapter.safetensors"
    }


def test_the_crop_script_runs_on_its_own(folder: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    script = tmp_path / "crop.py"
    script.write_bytes(contents(bundles.bundle(folder)[0])["crop.py"])
    (tmp_path / "in").mkdir()
    small_project.picture(tmp_path / "in/a.png", (300, 200))
    command = [sys.executable, "-I", str(script), "in", "out", "--right", "10", "--bottom", "20"]
    subprocess.run(command, cwd=tmp_path, check=True, env={"PATH": ""})
    with Image.open(tmp_path / "out/a.png") as image:
        assert image.size == (290, 180)


def test_the_character_file_of_the_bundle_means_the_same(folder: Path, tmp_path: Path) -> None:
    """Whatever config.yaml and the base's file say elsewhere."""
    other = small_project.make(tmp_path / "other")
    edit(other / "config/config.yaml", recipe={"train": {"steps": 300}}, crop={"right": 7})
    found = contents(bundles.bundle(folder)[0])
    (other / "config/characters/mara.yaml").write_bytes(found["config/characters/mara.yaml"])
    here, there = (project.load(root).characters["mara"] for root in (folder, other))
    assert (here.recipe, here.crop, here.shots, here.base) == (there.recipe, there.crop, there.shots, there.base)
