"""Writing images.exclude into a character's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("ruamel.yaml", reason="needs the extra [watch]")

from charloom.core.errors import UserError  # noqa: E402
from charloom.watch.leaving_out import edited, leave_out  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "config/characters").glob("*.yaml")), ids=lambda path: path.stem)
def test_there_and_back_leaves_a_shipped_file_as_it_was(path):
    before = path.read_bytes()
    once = edited(before, ["closeup-01", "medium-02"], True, path.name)
    assert yaml.safe_load(once)["images"]["exclude"] == ["closeup-01", "medium-02"]
    assert len(set(once.splitlines()) ^ set(before.splitlines())) <= 2  # one line more, or one that is another now
    assert edited(once, ["medium-02", "closeup-01"], False, path.name) == before


BLOCK = "# top\nimages:\n  source: folder # mine\n  path: x\nname: A\n"
ITEMS = "images:\n  source: folder\n  exclude:\n    - a  # blurred\n    - b\n  path: x\n"


@pytest.mark.parametrize(
    ("before", "names", "out", "after"),
    [
        (BLOCK, ["a"], True, BLOCK.replace("# mine\n", "# mine\n  exclude: [a]\n")),
        (BLOCK.replace("\n", "\r\n"), ["a", "s/007"], True,
         BLOCK.replace("# mine\n", "# mine\n  exclude: [a, s/007]\n").replace("\n", "\r\n")),
        ("images: {source: folder, path: x}\n", ["a"], True, "images: {source: folder, exclude: [a], path: x}\n"),
        ("images: {source: folder, exclude: [a], path: x}", ["a"], False, "images: {source: folder, path: x}"),
        ("images:\n  exclude: [a]   # why\n  source: folder\n", ["007", "on"], True,
         'images:\n  exclude: [a, "007", "on"]   # why\n  source: folder\n'),
        (ITEMS, ["c"], True, ITEMS.replace("    - b\n", "    - b\n    - c\n")),
        (ITEMS, ["a"], False, ITEMS.replace("    - a  # blurred\n", "")),
        (ITEMS, ["a", "b"], False, "images:\n  source: folder\n  path: x\n"),
        (ITEMS, ["b"], True, ITEMS),
        ("images:\n  source: folder\n  exclude:\n  - a", ["b"], True,
         "images:\n  source: folder\n  exclude:\n  - a\n  - b\n"),
        ('# x\nimages:\n    source:   "folder"  # y\n    path: x\nname:   A\n', ["a"], True,
         '# x\nimages:\n    source:   "folder"  # y\n    exclude: [a]\n    path: x\nname:   A\n'),
        ("images: { source: 'folder',  path: x }\nname:   A\n", ["a"], True,
         "images: { source: 'folder', exclude: [a],  path: x }\nname:   A\n"),
        ("images:\n  path:   x # y\n\nname:   A\n", ["a"], True,
         "images:\n  path:   x # y\n  exclude: [a]\n\nname:   A\n"),
        ("images:\n  source: paperdoll", ["a"], True, "images:\n  source: paperdoll\n  exclude: [a]\n"),
    ],
)  # fmt: skip
def test_everything_else_stays_to_the_byte(before, names, out, after):
    assert edited(before.encode(), names, out, "a.yaml").decode() == after


@pytest.mark.parametrize(
    "before",
    [
        "images:\n  source: folder\n  exclude: [a, # first\n    b]\n",
        "name:   A\nimages:\n  source: folder\n  exclude: a\n",
    ],
)
def test_what_would_lose_a_comment_or_be_written_anew_is_refused(before):
    with pytest.raises(UserError, match="cannot be edited without changing more; write exclude under its images by"):
        edited(before.encode(), ["c"], True, "a.yaml")


@pytest.mark.parametrize("before", [b"name: A\n", b"images: [", b"images: x\n", b"\xff", b"- a\n"])
def test_what_is_no_character_file_is_refused_in_one_line(before):
    with pytest.raises(UserError, match="a.yaml") as caught:
        edited(before, ["a"], True, "a.yaml")
    assert "\n" not in str(caught.value)


def test_a_link_stays_one_and_its_file_keeps_its_permissions(tmp_path):
    real, link = tmp_path / "real.yaml", tmp_path / "a.yaml"
    real.write_text(BLOCK)
    real.chmod(0o640)
    link.symlink_to(real)
    leave_out(link, ["a"], True)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640 and "exclude: [a]" in real.read_text()
