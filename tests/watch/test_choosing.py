"""Writing the checkpoint into a character's file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from charloom.core.errors import UserError
from charloom.watch.choosing import choose, edited
from charloom.watch.editing import digest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "config/characters").glob("*.yaml")), ids=lambda path: path.stem)
def test_of_a_shipped_file_one_line_changes(path):
    before = path.read_bytes()
    after = edited(before, 250, path.name)
    old, new = before.decode().splitlines(), after.decode().splitlines()
    different = [line for line in new if line not in old]
    assert len(different) == 1 and different[0].startswith("checkpoint: 250")
    assert len(new) - len(old) in (0, 1)
    assert yaml.safe_load(after) == yaml.safe_load(before) | {"checkpoint": 250}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# top\nname: A # why\ncheckpoint: auto  # x\ny: 1\n", "# top\nname: A # why\ncheckpoint: 250  # x\ny: 1\n"),
        ("name: A", "name: A\ncheckpoint: 250\n"),
        ("name: A\r\ncheckpoint: 'auto'\r\nx: 1\r\n", "name: A\r\ncheckpoint: 250\r\nx: 1\r\n"),
        ("checkpoint:   100\nname: A\n", "checkpoint:   250\nname: A\n"),
        ("name: A\ntext: |\n  checkpoint: auto\n", "name: A\ntext: |\n  checkpoint: auto\ncheckpoint: 250\n"),
        ("{name:   A}\r\n# end\r\n", "{name:   A, checkpoint: 250}\r\n# end\r\n"),
        ("name:   A\ncheckpoint:  # why\n\n# end\n", "name:   A\ncheckpoint: 250  # why\n\n# end\n"),
        ("shots:\n- checkpoint: auto\n", "shots:\n- checkpoint: auto\ncheckpoint: 250\n"),
    ],
)  # fmt: skip
def test_everything_else_stays_to_the_byte(before, after):
    assert edited(before.encode(), 250, "a.yaml") == after.encode()


@pytest.mark.parametrize("before", ["{name: A, checkpoint: auto}", "{name: A}", "name: A\n...\n", "checkpoint:\n"])
def test_unusual_files_mean_the_right_thing(before):
    assert yaml.safe_load(edited(before.encode(), 250, "a.yaml"))["checkpoint"] == 250
    windows = edited(before.replace("\n", "\r\n").encode(), 250, "a.yaml")
    assert windows.count(b"\n") == windows.count(b"\r\n") or "\n" not in before


@pytest.mark.parametrize("before", [b"name: [", b"- a\n", b"\xff", b"just words"])
def test_what_is_no_character_file_is_refused_in_one_line(before):
    with pytest.raises(UserError, match="a.yaml") as caught:
        edited(before, 250, "a.yaml")
    assert "\n" not in str(caught.value)


def test_what_would_be_written_anew_is_refused():
    with pytest.raises(UserError, match="cannot be edited without changing more"):
        edited(b"name:   A\n...\n# why\n", 250, "a.yaml")


def test_a_file_that_has_changed_is_not_touched(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: A\n")
    seen = digest(path.read_bytes())
    path.write_text("name: B\n")
    with pytest.raises(UserError, match="has changed in the meantime and was not edited"):
        choose(path, 250, seen)
    assert path.read_text() == "name: B\n" and os.listdir(tmp_path) == ["a.yaml"]


def test_permissions_and_links_are_kept(tmp_path):
    real, link = tmp_path / "real.yaml", tmp_path / "a.yaml"
    real.write_text("name: A\n")
    real.chmod(0o640)
    link.symlink_to(real)
    assert choose(link, 250, digest(real.read_bytes())) == digest(b"name: A\ncheckpoint: 250\n")
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640 and "250" in real.read_text()
