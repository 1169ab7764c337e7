"""Parts of many characters, planned one after the other: the same jobs as in one call."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from small_project import ROOT, edit, make, snakemake

from charloom.config.project import load
from charloom.core.errors import UserError

NAMES = ("ada", "bea", "cleo", "mara", "zoe")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make(tmp_path)
    characters = tmp_path / "config/characters"
    for name in set(NAMES) - {"mara"}:
        shutil.copy(characters / "mara.yaml", characters / f"{name}.yaml")
        edit(characters / f"{name}.yaml", trigger=f"x{name}x")
    return tmp_path


def commands(folder: Path, *arguments: str) -> set[str]:
    """The commands of every job that is planned for ``all``."""
    done = snakemake(folder, "-n", "-p", "--cores", "1", *arguments, code=ROOT)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^Shell command: (run .*)$", done.stdout + done.stderr, flags=re.MULTILINE))


def test_shards_make_together_what_one_call_makes(project: Path) -> None:
    whole = commands(project)
    parts = [commands(project, "--config", f"shard={part}/2") for part in (1, 2)]
    shared = {one for one in whole if re.match("run (lock|prepare)_base", one)}
    page = {one for one in whole if one.startswith("run write_index")}
    assert len(page) == 1 and len(shared) == 2
    assert parts[0] | parts[1] == whole - page
    assert parts[0] & parts[1] == shared


def test_the_page_of_all_characters_is_not_replaced_by_one_of_a_part(project: Path) -> None:
    done = snakemake(project, "-n", "--config", "shard=1/2", "--", "results/index.html", code=ROOT)
    assert done.returncode and "is about all characters; make it without shard" in done.stdout + done.stderr


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_every_character_is_in_one_shard(project: Path, parts: int) -> None:
    found = [list(load(project, {"shard": f"{part}/{parts}"}).characters) for part in range(1, parts + 1)]
    assert sorted(sum(found, [])) == sorted(NAMES)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_a_shard_reads_no_other_files(project: Path) -> None:
    (project / "config/characters/bea.yaml").write_text("trigger: [")
    assert list(load(project, {"shard": "1/5"}).characters) == ["ada"]
    assert list(load(project, {"shard": "2/2", "characters": ["zoe", "mara", "ada"]}).characters) == ["mara"]


@pytest.mark.parametrize("target", ["mara", "results/mara/final.safetensors", "results/zoe/final.safetensors"])
def test_a_target_of_another_shard_is_told_where_it_belongs(project: Path, target: str) -> None:
    done = snakemake(project, "-n", "--config", "shard=2/3", "--", target, code=ROOT)
    if "zoe" in target:
        assert done.returncode == 0, done.stderr
        return
    line = f"error: nothing makes {target} here: mara belongs to shard 1/3, and this is 2/3; set shard=1/3, or leave"
    assert done.returncode and line in done.stdout + done.stderr
    with pytest.raises(UserError, match="^mara belongs to shard 1/3"):
        load(project, {"shard": "2/3"}).character("mara")


@pytest.mark.parametrize(
    ("shard", "line"),
    [
        ("3/2", "config/config.yaml: shard: 3/2 is none of 5 characters; count from 1/2 to 2/2"),
        ("6/6", "config/config.yaml: shard: 6/6 is none of 5 characters; count from 1/5 to 5/5"),
        ("0/2", "--config: shard: the text '0/2' is not valid; expected a part of the characters, as 2/10"),
        (2, "--config: shard: must be a text, and 2 is a number; put it in quotes"),
    ],
)
def test_a_shard_that_is_none_is_said_in_a_line(project: Path, shard: object, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load(project, {"shard": shard})
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(line)
