"""Whose mistake stops whom, and what is a text: character files among others, command lines, values without quotes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import small_project
from config_project import CONFIG, MARA, problems, text
from small_project import CHARACTER, edit, write_yaml

from charloom.config.project import load, read
from charloom.core.errors import UserError
from charloom.dataset import sources


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_project.make(tmp_path)


def add(folder: Path, name: str, **changes: Any) -> None:
    """One more character, with a trigger of its own."""
    trigger = f"x{re.sub('[^a-z0-9]', '', name)}9"
    write_yaml(folder / f"config/characters/{name}.yaml", {**CHARACTER, "trigger": trigger, **changes})


def test_one_bad_character_file_stops_that_character_alone(project: Path) -> None:
    add(project, "ira")
    add(project, "mira", checkpoint=7)
    add(project, "mora", base="no-such")
    (project / "config/characters/mura.yaml").write_text("name: [")
    add(project, "Big Mara")
    add(project, 24 * "m")
    add(project, "twin", trigger="M4RA")
    workflow = read(project)
    assert set(workflow.characters) == {"ira", "mara", "twin"}, "two may share a trigger"
    assert set(workflow.broken) == {"mira", "mora", "mura", "Big Mara", 24 * "m"}
    assert load(project, ready="mara", image_problems=sources.problems).character("mara").id == "mara"
    for name, lines in workflow.broken.items():
        assert len(lines) == 1 and lines[0].startswith(f"config/characters/{name}.yaml: ")
        with pytest.raises(UserError) as caught:
            workflow.character(name)
        assert str(caught.value) == lines[0]
    with pytest.raises(UserError, match="there is no config/characters/marra.yaml; did you mean mara"):
        workflow.character("marra")


def test_a_broken_character_that_is_asked_for_by_name_is_an_error(project: Path) -> None:
    add(project, "mira", checkpoint=7)
    assert set(read(project, {"characters": ["mara"]}).characters) == {"mara"}
    with pytest.raises(UserError, match=r"mira.yaml: checkpoint: step 7"):
        read(project, {"characters": ["mara", "mira"]})
    edit(project / CONFIG, characters=["mara", "mira"])
    assert set(read(project).broken) == {"mira"}


FOREIGN = ("._mara.yaml", ".mara.yaml.swp", ".#mara.yaml", "#mara.yaml#", "mara.yaml~", "mara.yaml.bak", ".DS_Store")


@pytest.mark.parametrize("name", FOREIGN)
def test_hidden_and_foreign_files_are_nobodys_business(project: Path, name: str) -> None:
    before = load(project)
    for place in ("characters", "bases", "plans", "captions/mara"):
        (project / "config" / place).mkdir(parents=True, exist_ok=True)
        other = name.replace("yaml", "txt") if "captions" in place else name
        (project / "config" / place / other).write_bytes(b"\xff")
    assert load(project) == before
    with pytest.raises(UserError, match="minni.yaml; did you mean mini"):
        load(project, {"base": "minni"})


A_NUMBER, TRUTH = "a number", "true or false"
WRITTEN = {"007": A_NUMBER, "off": TRUTH, "1234": A_NUMBER, "1_000": A_NUMBER, "12.50": A_NUMBER, "No": TRUTH,
           "2024-01-01": "a date", "null": "nothing", "1e3": None, "0x1F": None}  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_a_text_that_yaml_reads_as_something_else_needs_quotes(project: Path, written: str) -> None:
    """The line shows it as it stands in the file, wherever that is."""
    places = {
        "name: Mara": ("name", "name"),
        "trigger: m4ra": ("trigger", "trigger"),
        "outfit: a beige pantsuit": ("shots[3].outfit", "outfit"),
        "- gold hoop earrings": ("shots[1].accessories[1]", None),
        "skin: tan": ("doll.skin", "skin"),
        "- a medium shot photo of {trigger}, laughing, wearing a red hoodie, kitchen": ("sample_prompts[1]", None),
    }
    whole = (project / MARA).read_text()
    for old, (place, key) in places.items():
        sign = "-" if key is None else f"{key}:"
        assert old in whole
        (project / MARA).write_text(whole.replace(old, f"{sign} {written}"))
        if WRITTEN[written] is None:  # a text to YAML as well
            assert not any("quotes" in line for line in read(project).broken.get("mara", ()))
            continue
        line = f"{MARA}: {place}: must be a text, and {written} is {WRITTEN[written]}; put it in quotes: "
        assert problems(project) == [f'{line}{sign} "{written}"']
        (project / MARA).write_text(whole.replace(old, f'{sign} "{written}"'))
        assert not any("quotes" in line for line in read(project).broken.get("mara", ()))


def test_quotes_are_asked_for_in_what_a_plan_is_changed_by(project: Path) -> None:
    write_yaml(project / "config/plans/few.yaml", {"shots": CHARACTER["shots"]})
    edit(project / MARA, shots={"plan": "few", "replace": {"medium-01": {"pose": "XX"}}})
    text(MARA, "pose: XX", "pose: off")(project)
    assert problems(project) == [
        f"{MARA}: shots.replace.medium-01: pose: must be a text, and off is true or false; put it in quotes: "
        'pose: "off"'
    ]


def test_keys_are_texts_however_they_look(project: Path) -> None:
    for key in ("1", "007", "off", "null", "2024-01-01"):
        write_yaml(project / MARA, {**CHARACTER, "doll": {**CHARACTER["doll"], "XX": "a"}})
        text(MARA, "XX:", f"{key}:")(project)
        assert problems(project)[0].startswith(f"{MARA}: doll.{key}: unknown key")


@pytest.mark.parametrize("name", ["no", "123_456", "1e3", "off", "007", "null"])
def test_texts_of_the_command_line_stay_texts(project: Path, name: str) -> None:
    add(project, name)
    assert set(read(project, {"characters": [name]}).characters) == {name}
    assert read(project, {"store": name}).store == name


def test_a_single_file_is_no_folder_of_a_base(project: Path) -> None:
    edit(project / "config/bases/mini.yaml", path="models/turbo.safetensors")
    assert problems(project) == [
        "config/bases/mini.yaml: path: there is no folder models/turbo.safetensors; a single file goes under "
        "transformer_file, beside repo and revision for the other parts"
    ]


def test_a_text_for_a_group_of_keys_is_told_which(project: Path) -> None:
    edit(project / MARA, identity_line="{trigger}, a woman")
    assert problems(project) == [
        "config/characters/mara.yaml: identity_line: must be a group of keys, not the text '{trigger}, a woman'; "
        "write each of its keys, full, eyes_hidden, as key: value, on a line of its own"
    ]
