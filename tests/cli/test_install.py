"""charloom without a clone: the wheel, `init`, what an update remakes, and `doctor`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import small_project
import torch
from cli_helpers import ROOT, call, said

from charloom.cli import doctor
from charloom.config import folder as folders
from charloom.core import last_run, versions
from charloom.core.errors import UserError
from charloom.core.versions import RECIPES
from charloom.workflow import updates

# init


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """What a small version of charloom ships."""
    home = tmp_path / "shipped"
    for name in ("config/config.yaml", "config/bases/tiny.yaml", "config/characters/leyla.yaml",
                 "config/characters/nika.yaml", "profiles/default/config.yaml", "resources/base.bin",
                 "docs/cluster.md"):  # fmt: skip
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"{name}, first version")
    monkeypatch.setattr(folders, "home", lambda: home)
    return home


def test_a_new_folder_has_what_a_run_needs_and_one_example(shipped, tmp_path):
    folder = tmp_path / "studio"
    made = folders.create(folder)
    assert "Snakefile" in made.written and (folder / "config/characters/leyla.yaml").is_file()
    assert not (folder / "config/characters/nika.yaml").exists()
    with pytest.raises(UserError, match=r"not empty \(to bring it up to date: charloom init --update .*; choose"):
        folders.create(folder)
    assert (folders.create(tmp_path / "all", examples=True), (tmp_path / "all/config/characters/nika.yaml").is_file())[
        1
    ]


def test_an_update_replaces_what_the_user_has_not_changed_and_nothing_else(shipped, tmp_path):
    folder = tmp_path / "studio"
    folders.create(folder)
    (folder / "config/config.yaml").write_text("mine")
    (folder / "config/characters/leyla.yaml").unlink()
    (folder / "config/characters/mara.yaml").write_text("mine too")
    for name in ("config/config.yaml", "config/bases/tiny.yaml", "config/characters/leyla.yaml", "docs/cluster.md"):
        (shipped / name).write_text("second version")
    (shipped / "config/bases/new.yaml").write_text("new")
    made = folders.update(folder)
    assert (made.updated, made.kept, made.written) == (
        ["config/bases/tiny.yaml", "docs/cluster.md"],
        ["config/config.yaml"],
        ["config/bases/new.yaml"],
    )
    assert (folder / "config/config.yaml").read_text() == "mine"
    assert (folder / "config/bases/tiny.yaml").read_text() == "second version"
    assert not (folder / "config/characters/leyla.yaml").exists()
    again = folders.update(folder)
    assert not (again.updated or again.written)


@pytest.mark.parametrize("what", ["nothing", "clone"])
def test_only_a_workflow_folder_is_updated(tmp_path, what):
    if what == "clone":
        (tmp_path / "config").mkdir()
        (tmp_path / "config/config.yaml").touch()
        (tmp_path / "rules").mkdir()
    with pytest.raises(UserError, match="git pull" if what == "clone" else "charloom init"):
        folders.update(tmp_path)


# the wheel


def test_an_installed_wheel_lays_out_a_folder_and_plans_a_run_in_it(tmp_path):
    source = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        if not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheel"), str(source)], **run)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-compile", "--target", str(site), str(wheel)], **run)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    outside = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    command = [sys.executable, "-c", "from charloom.cli.main import app; app()"]
    made = subprocess.run([*command, "init", "studio"], **outside)
    assert made.returncode == 0 and "cd studio" in made.stdout, made.stderr
    outside["cwd"] = tmp_path / "studio"
    done = subprocess.run([sys.executable, "-m", "snakemake", "--cores", "1", "results/leyla/prompts.html"], **outside)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "studio/results/leyla/prompts.html").is_file()
    planned = subprocess.run([sys.executable, "-m", "snakemake", "-n"], **outside)
    assert planned.returncode == 0 and "train" in planned.stdout + planned.stderr, planned.stderr
    assert str(ROOT) not in (tmp_path / "studio/Snakefile").read_text()
    for page in ("docs/cluster.md", "CHANGELOG.md", "docs/README.md"):  # which messages and pages name
        assert (tmp_path / "studio" / page).is_file()


# what an update makes again


def test_every_recipe_number_has_words():
    assert set(updates.MADE_AGAIN) == set(updates.current()) > set(RECIPES)
    others = [name for name, value in vars(versions).items() if isinstance(value, int)]
    assert len(updates.current()) == len(RECIPES) + len(others) + 2  # training's own two
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    assert all(f"rule {name}:" in rules for name in updates.RULES.values())


def test_an_update_says_what_is_made_again_of_whom(tmp_path, monkeypatch):
    record, whole = tmp_path / "versions.json", {"export_final", "write_report"}
    assert updates.lines(["leyla", "mara"], record) == []
    updates.remember({"leyla": whole, "mara": whole, "nika": {"write_prompts"}}, record)
    assert updates.lines(["leyla", "mara", "nika"], record) == []
    choice, report = RECIPES["choice"], RECIPES["report"]
    monkeypatch.setitem(RECIPES, "choice", choice + 1)
    monkeypatch.setitem(RECIPES, "report", report + 1)
    monkeypatch.setattr(updates, "RECIPE_WITH_DROPOUT", updates.RECIPE_WITH_DROPOUT + 1)
    head, *said = updates.lines(["leyla", "mara", "nika"], record)
    assert (
        "updated" in head and said[0] == f"  leyla, mara: the choice of the checkpoint (choice {choice} → {choice + 1})"
    )
    assert len(said) == 3 and any("network.dropout" in line for line in said)
    # Leyla's file is made anew, without the report: mara's notice stays, and so does that of leyla's report.
    updates.remember({"leyla": {"export_final"}}, record)
    assert updates.lines(["leyla"], record)[1:] == [f"  leyla: reports (report {report} → {report + 1})"]
    assert len(updates.lines(["mara"], record)) == 4
    record.write_text("{broken")
    assert updates.lines(["leyla"], record) == []


def test_a_finished_call_keeps_the_numbers_of_whom_it_made(finished):
    kept = json.loads((finished / updates.RECORD).read_text())
    assert list(kept) == ["mara"]
    asked_for_itself = {recipe for recipe in updates.RULES if recipe not in kept["mara"]}
    assert kept["mara"] == {name: one for name, one in updates.current().items() if name not in asked_for_itself}
    assert "gallery" in asked_for_itself and {"choice", "training", "training with dropout"} <= set(kept["mara"])


def test_a_record_from_before_counts_for_everybody(tmp_path):
    record = tmp_path / "versions.json"
    record.write_text(json.dumps({**updates.current(), "grid": 0}))
    names = [f"m{number}" for number in range(7)]
    (line,) = updates.lines(names, record)[1:]
    assert line.startswith("  m0, m1, m2, m3, m4 and 2 more: preview grids (grid 0 →")
    updates.remember({"m0": {"export_final"}}, record)
    assert updates.lines(["m0"], record) == [] and len(updates.lines(["m1"], record)) == 2


def test_only_who_is_asked_for_is_spoken_of():
    names = ["leyla", "mara"]
    assert updates.asked(names, ["snakemake", "-n", "results/mara/final.safetensors"]) == ["mara"]
    assert updates.asked(names, ["snakemake", "leyla", "mara"]) == names == updates.asked(names, ["snakemake", "-n"])


# doctor


def findings(monkeypatch, tmp_path, hub=False) -> dict[str, doctor.Finding]:
    monkeypatch.chdir(tmp_path)
    return {one.what: one for one in doctor.examine(Path("."), hub)}


def test_a_machine_without_a_gpu_runs_the_miniature(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = findings(monkeypatch, tmp_path)
    assert found["GPU"].verdict == doctor.NOTE and "miniature" in found["GPU"].found
    assert found["workflow"].remedy == "make one: charloom init FOLDER"
    assert not any(one.verdict == doctor.PROBLEM for one in found.values()), found


@pytest.mark.parametrize(
    "size, verdict, words",
    [(16.0, doctor.OK, "profiles/gpu-16gb"), (24.0, doctor.OK, "profiles/gpu-24gb"), (4.0, doctor.PROBLEM, "8 GiB")],
)
def test_a_gpu_gets_its_profile(monkeypatch, tmp_path, size, verdict, words):
    about = types.SimpleNamespace(name="Some GPU", total_memory=int(size * 2**30), major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    one = findings(monkeypatch, tmp_path)["GPU 0"]
    assert one.verdict == verdict and words in str(one)


@pytest.mark.parametrize("gpu", [True, False])
def test_what_the_default_recipe_needs_on_a_gpu_is_a_note(monkeypatch, tmp_path, gpu):
    def version(package, real=doctor.importlib.metadata.version):
        if package in ("bitsandbytes", "dlib-bin"):
            raise doctor.importlib.metadata.PackageNotFoundError
        return real(package)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    monkeypatch.setattr(doctor.notices, "has_gpu", lambda: gpu)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    found = findings(monkeypatch, tmp_path)
    for package, extra in (("bitsandbytes", "cuda"), ("dlib-bin", "photo")):
        one = found[package]
        assert (
            one.verdict == (doctor.NOTE if gpu else doctor.ABSENT) and f"pip install 'charloom[{extra}]'" in one.remedy
        )


@pytest.mark.parametrize(
    ("build", "remedy"), [(None, "pip uninstall -y torch"), ("13.0", "driver to one for CUDA 13.0")]
)
def test_a_gpu_that_torch_cannot_use_is_a_problem(monkeypatch, tmp_path, build, remedy):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: types.SimpleNamespace(stdout="580.1\n"))
    one = findings(monkeypatch, tmp_path)["GPU"]
    assert one.verdict == doctor.PROBLEM and "driver 580.1" in one.found and remedy in one.remedy


def test_an_extra_that_is_broken_is_not_ok(monkeypatch, tmp_path):
    (tmp_path / "pillow_heif.py").write_text("raise ImportError('libheif.so.1: cannot open shared object file')")
    (tmp_path / "pillow_heif-1.0.dist-info").mkdir()
    (tmp_path / "pillow_heif-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: pillow-heif\nVersion: 1.0\n"
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    del sys.modules["pillow_heif"]
    monkeypatch.setattr("charloom.core.misfits._why", {})
    monkeypatch.syspath_prepend(tmp_path)
    one = findings(monkeypatch, tmp_path)["pillow-heif"]
    assert one.verdict == doctor.NOTE
    assert "1.0, cannot be imported (libheif.so.1" in one.found and "pip install" in one.found


def test_a_torchvision_that_does_not_fit_torch_is_named(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    one = findings(monkeypatch, tmp_path)["torchvision"]
    assert one.verdict == doctor.NOTE and "nms does not exist" in one.found and "release for torch 2." in one.remedy


def test_the_store_of_the_last_run_is_looked_at(monkeypatch, tmp_path):
    monkeypatch.delenv("CHARLOOM_STORE", raising=False)
    small_project.make(tmp_path)
    last_run.remember(["mara"], {"store": "shared"}, [], tmp_path)
    stores = [one for one in doctor.examine(tmp_path, hub=False) if one.what == "store"]
    assert [str(one).rpartition("/")[2] for one in stores] == [
        "store: 0.0 GB", "shared, of the last run, does not exist on this machine",
    ]  # fmt: skip
    assert {one.verdict for one in stores} == {doctor.OK}
    (workflow,) = [one for one in doctor.examine(tmp_path, hub=False) if one.what == "workflow"]
    assert workflow.found == "1 character, 0 styles"
    (tmp_path / "shared").mkdir()
    assert any(str(one) == f"store: {tmp_path}/shared: 0.0 GB" for one in doctor.examine(tmp_path, hub=False))


@pytest.mark.parametrize(
    ("total", "remedy"),
    [
        (7.6, "preparing Z-Image-Turbo needs 16 GiB"),
        (15.3, "previews of Z-Image-Turbo wait"),  # 16 GB with integrated graphics
        (15.46, "previews of Z-Image-Turbo wait"),
        (31.2, ""),
    ],
)
def test_a_machine_of_16_gb_can_prepare_the_base(monkeypatch, tmp_path, total, remedy):
    memory = types.SimpleNamespace(total=total * 2**30, available=4 * 2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    one = findings(monkeypatch, tmp_path)["main memory"]
    assert one.remedy.startswith(remedy) and one.verdict == (doctor.NOTE if remedy else doctor.OK)


def test_what_goes_onto_one_disk_is_added(monkeypatch, tmp_path):
    monkeypatch.setattr("charloom.base.hub.cache", lambda: tmp_path / "hub")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=40e9))
    one = findings(monkeypatch, tmp_path)["disk of this folder and the hub's cache"]
    assert one.verdict == doctor.NOTE and "about 43 GB" in one.remedy  # each alone would fit


@pytest.mark.parametrize(
    ("total", "verdict", "words"),
    [(8.0, doctor.NOTE, "needs 16 GiB"), (15.6, doctor.NOTE, "they need 18 GiB"), (24.0, doctor.OK, "")],
)
def test_main_memory_is_compared_with_what_the_plan_says(monkeypatch, tmp_path, total, verdict, words):
    import psutil

    there = types.SimpleNamespace(total=total * 2**30, available=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    one = findings(monkeypatch, tmp_path)["main memory"]
    assert one.verdict == verdict and words in one.remedy


def test_a_hub_out_of_reach_is_a_note_with_a_remedy(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    one = findings(monkeypatch, tmp_path, hub=True)["hub"]
    assert one.verdict == doctor.NOTE and "does not answer" in one.found and "HF_ENDPOINT" in one.remedy


def test_the_command_prints_a_line_each_and_fails_on_a_problem(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    two = [
        doctor.Finding("x", "none", doctor.ABSENT),
        doctor.Finding("GPU", "[none]", doctor.PROBLEM, "buy one"),
        doctor.Finding("disk", "large"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda root, hub: iter(two))
    result = call("doctor", "--offline")
    assert result.exit_code == 1 and "problem GPU: [none]; buy one" in said(result)
    assert "–       x: none" in said(result)
    as_json = call("doctor", "--json")
    assert json.loads(as_json.output)["problems"] == 1 and as_json.exit_code == 1
