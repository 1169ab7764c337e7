"""Captions by the grammar, by hand and by default; the prompt sheet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_project
from small_project import run_script

from charloom.config.character import Character, Shot
from charloom.config.project import load
from charloom.dataset import captions, prompts
from charloom.report import prompt_sheet
from charloom.workflow import slices

# captions


def test_captions_follow_the_grammar(mara: Character) -> None:
    assert [captions.caption(mara, shot) for shot in mara.shots] == [
        "a close-up portrait photo of m4ra, a woman with curly black hair and green eyes, frontal view, soft smile, "
        "wearing a white t-shirt, gold hoop earrings, light gray studio background",
        "a medium shot photo of m4ra, a woman with curly black hair, side profile, arms crossed, serious expression, "
        "wearing a black hoodie, white studio background",
        "a full body photo of m4ra, a woman with curly black hair, seen from behind, standing with arms at her sides, "
        "wearing a beige pantsuit, beach",
    ]


@pytest.mark.parametrize(
    ("changes", "visible"),
    [
        ({}, True),
        ({"view": "three-quarter view"}, True),
        ({"view": "side profile"}, False),
        ({"view": "seen from behind"}, False),
        ({"accessories": ("sunglasses",)}, False),
        ({"expression": "serene expression with closed eyes"}, False),
    ],
)
def test_eyes_are_named_only_where_they_are_seen(changes: dict, visible: bool) -> None:
    shot = Shot(
        **{"name": "a", "tier": "medium", "view": "frontal view", "outfit": "a hoodie", "background": "b", **changes}
    )
    assert captions.eyes_visible(shot) is visible


def test_a_caption_by_hand_wins(mara: Character, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("m4ra,\n  in my words \n", encoding="utf-8-sig")
    settings = ["--settings", slices.caption(mara, "closeup-01")]
    assert run_script("write_caption", *settings, "--output", "a.txt", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a.txt").read_text().startswith("a close-up portrait photo of m4ra")
    assert (
        run_script("write_caption", "--user-file", "own.txt", *settings, "--output", "b.txt", cwd=tmp_path).returncode
        == 0
    )
    assert (tmp_path / "b.txt").read_text() == "m4ra, in my words\n"
    own.write_text(" \n")
    failed = run_script("write_caption", "--user-file", "own.txt", *settings, "--output", "b.txt", cwd=tmp_path)
    assert failed.stderr == "error: own.txt: is empty; write a caption, or set default_caption\n"
    assert (tmp_path / "b.txt").read_text() == "m4ra, in my words\n"


def test_a_caption_beside_the_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.make(tmp_path))
    Path("photos").mkdir()
    shots = [dict(shot) for shot in small_project.CHARACTER["shots"]]
    shots[1]["file"] = "My 2.JPG"
    for name in ("closeup-01.txt", "My 2.txt", "medium-01.txt", "reference.txt"):
        Path("photos", name).write_text("m4ra")
    changes = {"images": {"source": "folder", "path": "photos", "count": 3}, "shots": shots}
    small_project.edit(Path("config/characters/mara.yaml"), **changes)
    person = load(".").characters["mara"]
    files = [person.caption_file(shot) for shot in person.shots]
    assert files == [Path("photos/closeup-01.txt"), Path("photos/My 2.txt"), None]
    assert [(entry.where, entry.what.partition(",")[0]) for entry in person.unused_files()] == [
        ("photos/medium-01.txt", "no picture has this name")
    ]
    own = Path("config/captions/mara/closeup-01.txt")
    own.parent.mkdir(parents=True)
    own.write_text("m4ra")
    assert person.caption_file(person.shots[0]) == own
    own.unlink()
    small_project.edit(Path("config/characters/mara.yaml"), images={"source": "paperdoll", "count": 3})
    person = load(".").characters["mara"]
    assert person.caption_file(person.shots[0]) is None and "unused" not in slices.lint(person)


# the prompt sheet


def test_the_appearance_is_in_every_prompt_and_the_trigger_in_none(mara: Character) -> None:
    sheet = prompts.sheet(json.loads(slices.prompt_sheet(mara)))
    assert len(sheet.shots) == 3
    assert all(mara.appearance in prompt and "m4ra" not in prompt for _, _, prompt in sheet.shots)
    assert "standing with arms at her sides, wearing a beige pantsuit, beach" in sheet.shots[2][2]
    text, page = prompts.as_text(sheet), prompt_sheet.as_html(sheet)
    assert [line for line in text.splitlines() if line.startswith("# ")][1:] == [
        "# closeup-01",
        "# medium-01",
        "# fullbody-01",
    ]
    assert page.count("<article ") == 4 and page.count(">Copy</button>") == 4
    assert "m4ra" not in page and "http" not in page and "%NAME%" not in page


def test_the_sheet_escapes_what_users_write(mara: Character) -> None:
    settings = json.loads(slices.prompt_sheet(mara))
    page = prompt_sheet.as_html(
        prompts.sheet({**settings, "name": "<b>", "appearance": "a & <script>alert(1)</script>"})
    )
    assert "<script>alert" not in page and "&lt;b&gt;: prompt sheet" in page


def test_without_a_concept_the_sheet_has_no_reference(mara: Character) -> None:
    sheet = prompts.sheet({**json.loads(slices.prompt_sheet(mara)), "concept": ""})
    assert prompts.as_text(sheet).startswith("# closeup-01\n")
    assert prompt_sheet.as_html(sheet).count("<article ") == 3
