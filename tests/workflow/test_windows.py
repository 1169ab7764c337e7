"""What Windows users meet, as far as another system can show it: docs/windows.md says what was run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import types
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import pytest
import small_project
import yaml

from charloom.config import image_folder, inventory, scaffold, schema
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.dataset import sources

RULES = sorted([small_project.ROOT / "Snakefile", *(small_project.ROOT / "rules").glob("*.smk")])


def test_every_rule_runs_with_bash_alone_on_the_path_in_a_folder_with_an_odd_name(tmp_path):
    """Git for Windows brings bash; nothing else may be needed. The jobs themselves are a pretender's."""
    folder = small_project.add_code(small_project.make(tmp_path / "Eigene Dateien (Müller) & Söhne"))
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "bash").symlink_to(shutil.which("bash"))
    if find_spec("snakemake_executor_plugin_slurm"):  # asks for Slurm's commands with it as soon as it is imported
        (tools / "which").symlink_to(shutil.which("which"))
    environment = {
        "PATH": str(tools),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(tmp_path),
        "CHARLOOM_TERMINAL": "plain",
        "CHARLOOM_PYTHON": str(small_project.pretender(folder)),
    }
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "mara"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / small_project.TARGET).is_file() and (folder / "results/mara/report.html").is_file()


def test_the_text_of_a_rule_is_one_call_of_its_script():
    """No tool of Unix in it, so bash is all that Windows must have."""
    for path in RULES:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"\n    shell:\n((?:        .*\n)+)", text):
            shell = " ".join(re.findall(r'"((?:[^"\\]|\\.)*)"', block))
            shell = shell.replace("2> {log:q}", "")
            # What the store has, by the tools that come with bash.
            shell = re.sub(r"^stored \S+ \S+ \|\|\s+", "", shell)
            assert shell.startswith("run ") and not re.search(r"[|;<>`]|\$\(|&&", shell), f"{path.name}: {shell}"


@pytest.mark.parametrize("name", ["con", "nul", "com1"])
def test_names_that_windows_keeps_for_itself_are_refused(tmp_path, name):
    folder = small_project.make(tmp_path)
    os.rename(folder / "config/characters/mara.yaml", folder / f"config/characters/{name}.yaml")
    with pytest.raises(UserError, match=f"Windows reserves the name {name}; choose another"):
        load(folder)


@pytest.mark.parametrize("stem", ["nul", "con", "com1", "long-name-" * 4 + "of-a-picture"])
def test_a_picture_called_like_a_device_gets_another_name(tmp_path, stem):
    """In a folder that is used as a whole, in one of a style or a set, and in an ai-toolkit job's."""
    for name in (f"{stem}.png", "com1.tar.png"):
        (tmp_path / name).touch()
    for found in (image_folder.every(tmp_path), image_folder.names(image_folder.images(tmp_path))):
        assert len(found) == 2 and all(map(schema.is_name, found)), found


@pytest.mark.parametrize(("name", "why"), [("nul", ": Windows reserves it"), ("experiments", "; take")])
def test_a_new_character_is_not_called_like_a_device_or_another_folder_of_results(name, why):
    with pytest.raises(UserError, match=f"'{name}' cannot be a file name of a character{why}"):
        scaffold.check_name(name)


def test_a_file_with_the_line_ends_of_windows_and_a_byte_order_mark_is_the_same(tmp_path):
    folder = small_project.make(tmp_path)
    path = folder / "config/characters/mara.yaml"
    before = load(folder).character("mara")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(folder).character("mara") == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (r"'C:\Bilder\Mara'", r"there is no folder C:\Bilder\Mara"),
        (r"C:\neu\test", r"there is no folder C:\neu\test"),
        (r'"C:\Users\Mara"', "line 1: \\ has a meaning of its own between double quotes; use single quotes, or / in"),
        (
            r'"C:\neu\test"',
            "images.path: holds a tab or a line break, because \\ is special between double quotes; use",
        ),
    ],
)
def test_backslashes_of_a_path_are_taken_or_explained(tmp_path, path, said):
    folder = small_project.make(tmp_path)
    character = {key: value for key, value in small_project.CHARACTER.items() if key not in ("images", "doll")}
    text = yaml.safe_dump(character)
    (folder / "config/characters/mara.yaml").write_text(f"images: {{source: folder, path: {path}}}\n{text}")
    with pytest.raises(UserError) as error:
        load(folder, ready="mara", image_problems=sources.problems)
    assert said in str(error.value)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_written_in_either_way(tmp_path, form):
    """macOS writes them as characters of their own, and keeps them so on other disks."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    typed, there = (unicodedata.normalize(one, "Mära") for one in (form, other))
    (tmp_path / there).mkdir()
    for name in (f"{there} 01.png", f"{there} 01.txt"):
        (tmp_path / there / name).touch()
    folder = inventory.placed(str(tmp_path / typed))
    assert Path(folder) == tmp_path / there
    shot = types.SimpleNamespace(name="a", file=f"{typed} 01.png")
    assert image_folder.of_shot(types.SimpleNamespace(folder=folder), shot).is_file()
    assert image_folder.caption_file(folder, shot).is_file()
    assert inventory.same(tmp_path / typed / "nobody ä.png") is None


def test_names_that_differ_in_case_alone_are_told_apart(tmp_path):
    """On disks of Windows and macOS they would be one file; ours have small letters."""
    for name in ("Mara.png", "MARA.PNG", "mara.jpg"):
        (tmp_path / name).touch()
    named = image_folder.every(tmp_path)
    assert len({name.casefold() for name in named}) == len(named) == 3 and all(name == name.lower() for name in named)


def test_no_path_is_written_with_backslashes():
    """In targets and records paths have slashes everywhere, so that results move between systems."""
    for path in Path(small_project.ROOT / "charloom").rglob("*.py"):
        assert "os.sep" not in path.read_text(encoding="utf-8"), path
