"""Class and look of a character: every text follows them, and those of a woman on photographs are as they were."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import small_project
import yaml
from small_project import edit

from charloom.config import drift, kinds, previews, scaffold
from charloom.config import yaml as reading
from charloom.config.character import Character
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.dataset import captions, lint, prompts
from charloom.dataset.lint.registry import Data
from charloom.workflow import slices

MARA = Path("config/characters/mara.yaml")
EXAMPLES = sorted(path.stem for path in (small_project.ROOT / "config/examples").glob("*.yaml"))
FEMININE = re.compile(r"\b(she|her|hers|woman|dress|sundress|gown|earrings|necklace)\b", re.IGNORECASE)
HUMAN = re.compile(r"\b(person|people|photo|photographic|hair|expression|smil\w+|laugh\w+|hips|chin)\b", re.IGNORECASE)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(small_project.make(tmp_path))
    shutil.copytree(small_project.ROOT / "config/plans", "config/plans")
    return tmp_path


def written(**data: Any) -> Character:
    """A character whose pictures a generator makes, with as little said of it as may be."""
    small_project.write_yaml(MARA, {"trigger": "m4ra", "images": {"source": "folder", "path": "pics"}, **data})
    return load().characters["mara"]


def texts(character: Character) -> list[str]:
    """Everything that is said of a character: captions, prompts of pictures, sample prompts."""
    sheet = prompts.sheet(json.loads(slices.prompt_sheet(character)))
    said = [captions.caption(character, shot) for shot in character.shots]
    return [*said, *(prompt for _, _, prompt in sheet.shots), *(prompt.text for prompt in character.sample_prompts)]


def findings(character: Character) -> list[str]:
    """What the check says about plan and captions, were they made."""
    settings = json.loads(slices.lint(character, load().bases[character.base]))
    items = [
        lint.Item(shot.name, captions.caption(character, shot), None, f"{shot.name}.txt", f"{shot.name}.png")
        for shot in character.shots
    ]
    return [str(one) for one in lint.lint(items, settings) if one.level != "note"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_speak_of_what_they_are(project: Path, name: str) -> None:
    example = small_project.ROOT / f"config/examples/{name}.yaml"
    place = "styles" if "kind: style" in example.read_text() else "characters"
    Path(f"config/{place}").mkdir(exist_ok=True)
    shutil.copy(example, f"config/{place}/{name}.yaml")
    edit(Path(f"config/{place}/{name}.yaml"), base="mini")
    one = load().projects[name]
    said = texts(one)
    assert len(said) == 2 * len(one.shots) + len(one.sample_prompts) and len(one.shots) in (24, 30)
    assert findings(one) == []
    assert not [text for text in said if re.search(r"[{}]|  |, ,|wearing ,|of ,", text)]
    told = captions.caption(one, one.shots[0])
    if one.kind != "woman" and one.kind != "style":
        assert not [text for text in said if FEMININE.search(text)]
    if one.kind == "creature":
        assert not [text for text in said if HUMAN.search(text)] and "p1nto, a fox," in told
    if one.look != "photographic":
        assert not [text for text in said if re.search(r"\bphoto", text, re.IGNORECASE)]
    if one.kind == "style":
        assert told.startswith("g0uax style, a close-up of an old fisherman")
    assert {"man": "man", "creature": "fox", "woman": "woman", "style": "painting"}[one.kind] == one.recipe["train"][
        "preservation"
    ]["differential"]["class"]


def test_there_is_an_example_of_each_kind() -> None:
    files = [yaml.safe_load((small_project.ROOT / f"config/examples/{name}.yaml").read_text()) for name in EXAMPLES]
    assert {file.get("class", file.get("kind")) for file in files} >= {"man", "creature", "woman", "style"}
    assert {file.get("look", "photographic") for file in files} >= {"photographic", "drawn", "comic"}
    assert all(file["base"] == "z-image-turbo" for file in files)


@pytest.mark.parametrize("plan", ["portrait-30", "portrait-20", "full-body-heavy"])
@pytest.mark.parametrize("kind", kinds.WITH_FACE)
def test_plans_of_people_pass_the_check_for_each_class(project: Path, plan: str, kind: str) -> None:
    one = written(**{"class": kind, "shots": plan})
    assert findings(one) == [] and one.count == len(one.shots)
    if kind != "woman":
        assert not [text for text in texts(one) if FEMININE.search(text)]
    pronoun = {"woman": "her", "man": "his", "person": "their"}[kind]
    assert any("head tipped back" in text and f" {pronoun} " in text for text in texts(one))


@pytest.mark.parametrize("plan", ["portrait-20", "full-body-heavy"])
def test_the_doll_can_draw_the_plans_of_people(project: Path, plan: str) -> None:
    from charloom.dataset.sources import paperdoll

    edit(MARA, shots=plan, images={"source": "paperdoll"})
    assert paperdoll.problems(load().characters["mara"]) == []


@pytest.mark.parametrize("own", [{"class": "man"}, {"look": "comic"}])
def test_the_doll_is_a_woman(project: Path, own: dict[str, str]) -> None:
    from charloom.dataset.sources import paperdoll

    edit(MARA, **own)
    (line,) = paperdoll.problems(load().characters["mara"])
    assert f"not {'class man' if 'class' in own else 'look comic'}; use source folder" in line


@pytest.mark.parametrize("kind", ["creature", "object"])
def test_a_mascot_has_no_face_words_and_needs_no_outfit(project: Path, kind: str) -> None:
    one = written(**{"class": kind, "noun": "owl", "shots": "mascot-24"})
    assert len(one.shots) == 24 and findings(one) == []
    assert not [text for text in texts(one) if re.sub("a (close-up|medium|full)[a-z -]*photo", "", text) != text
                and re.search(r"\b(expression|smil\w+|hair|her|his)\b", text)]  # fmt: skip
    assert not any(shot.expression for shot in one.shots) and sum(bool(shot.outfit) for shot in one.shots) <= 2
    assert one.identity_full == "{trigger}, an owl"
    bare = written(**{"class": kind, "shots": [{"name": "a", "tier": "medium", "view": "frontal view",
                                                "background": "meadow"}], "images": {
        "source": "folder", "path": "pics", "count": 1}})  # fmt: skip
    assert captions.caption(bare, bare.shots[0]).endswith(f"of m4ra, {kinds.with_article(kind)}, frontal view, meadow")


def test_a_person_needs_an_outfit(project: Path) -> None:
    shot = {"name": "a", "tier": "medium", "view": "frontal view", "background": "meadow"}
    one = written(**{"class": "man", "shots": [shot], "images": {"source": "folder", "path": "pics", "count": 1}})
    assert one.missing(one.shots[0]) == ["outfit"]


def test_what_says_nothing_is_a_person_and_what_always_was_a_woman_stays_one(project: Path) -> None:
    old = load().characters["mara"]
    assert (old.kind, old.spoken_of) == ("woman", {})
    assert old.recipe["train"]["preservation"]["differential"]["class"] == "woman"
    new = written()
    assert (new.kind, new.identity_full, new.name) == ("person", "{trigger}, a person", "Mara")
    assert new.recipe["train"]["preservation"]["differential"]["class"] == "person"
    edit(MARA, recipe={"train": {"preservation": {"differential": {"class": "lady"}}}})
    assert load().characters["mara"].recipe["train"]["preservation"]["differential"]["class"] == "lady"


@pytest.mark.parametrize("kind", kinds.CLASSES)
@pytest.mark.parametrize("look", kinds.LOOKS)
def test_sample_prompts_of_each_class_and_look(kind: str, look: str) -> None:
    made = previews.prompts(kind, look)
    assert len(set(made)) == 10 and all(text.count("{trigger}") == 1 for text in made)
    begins = [f"{tier} of " for tier in kinds.of(kind, look).tiers.values()]
    assert all(any(text.startswith(begin) for begin in begins) for text in made)
    assert not [text for text in made if re.search(r"\{(?!trigger\})", text)]
    if kind not in kinds.WITH_FACE:
        assert not [text for text in made if re.search(r"expression|smile|cheeks|hips", text)]


def test_places_are_filled_with_words() -> None:
    words = kinds.of("creature", "drawn", "owl")
    assert words.fill("a {noun} on {their} perch, {they} looks at {them}") == "an owl on its perch, it looks at it"
    assert words.fill("A {noun}; {trigger} {other}") == "An owl; {trigger} {other}"


def test_drift_speaks_of_the_class(project: Path) -> None:
    one = written(**{"class": "creature", "noun": "owl", "recipe": {"validation": {"drift": "last"}}})
    assert "of an owl," in drift.prompts(one)[0]["text"]


def test_a_class_of_a_plan_names_shots_that_exist(project: Path) -> None:
    plan = Path("config/plans/own.yaml")
    shot = {"name": "a", "tier": "medium", "view": "frontal view", "outfit": "a coat", "background": "sea"}
    small_project.write_yaml(plan, {"by_class": {"man": {"b": {"outfit": "a suit"}}}, "shots": [shot]})
    with pytest.raises(UserError, match=r"own.yaml: by_class.man.b: there is no shot called b; shots are a"):
        written(**{"class": "man", "shots": "own"})
    small_project.write_yaml(plan, {"by_class": {"man": {"a": {"outfit": None}}}, "shots": [shot]})
    assert written(**{"class": "man", "shots": "own"}).shots[0].outfit == ""
    assert written(**{"class": "woman", "shots": "own"}).shots[0].outfit == "a coat"


def test_the_balance_that_a_plan_means_is_the_one_that_is_checked(project: Path) -> None:
    one = written(**{"class": "woman", "shots": "full-body-heavy"})
    settings = json.loads(slices.lint(one))
    assert (
        settings["balance"]["full-body"] == pytest.approx(16 / 30)
        and lint.RULES["tiers"].findings(Data([], settings)) == []
    )
    del settings["balance"]
    assert any(
        "16 of 30 shots are full-body; aim for a third each" in str(found)
        for found in lint.RULES["tiers"].findings(Data([], settings))
    )


def test_one_shot_is_prompt_caption_expectation_and_doll_and_touches_nothing_else(project: Path) -> None:
    """Of every slice that belongs to one shot, only those of the shot that was edited change."""
    edit(MARA, shots="portrait-30", images={"source": "paperdoll"})

    def all_slices() -> dict[str, str]:
        one = load().characters["mara"]
        kinds_of = {"source": slices.source_image, "crop": slices.crop, "caption": slices.caption}
        return {f"{kind} {name}": of(one, name) for name in one.shot_names for kind, of in kinds_of.items()}

    def sheet() -> dict[str, str]:
        made = prompts.sheet(json.loads(slices.prompt_sheet(load().characters["mara"])))
        return {name: prompt for _, name, prompt in made.shots}

    before, told = all_slices(), sheet()
    change = {"medium-03": {"view": "side profile", "outfit": "a red hoodie"}}
    edit(MARA, shots={"plan": "portrait-30", "replace": change})
    after, now = all_slices(), sheet()
    assert {key for key in before if before[key] != after[key]} == {"source medium-03", "caption medium-03"}
    assert [name for name in told if told[name] != now[name]] == ["medium-03"]
    assert "a red hoodie" in now["medium-03"] and '"color":"red"' in after["source medium-03"]
    expected = {s["name"]: s["view"] for s in json.loads(slices.lint(load().characters["mara"]))["shots"]}
    assert expected["medium-03"] == "side profile"


@pytest.mark.parametrize("word", ["on", "null", "2024", "1e5", "0x1F", "fox: red", "no", "m4ra", "red panda", "#7"])
def test_a_new_file_holds_texts_as_they_were_given(word, tmp_path):
    path = tmp_path / "mara.yaml"
    path.write_text(scaffold.folder_file("mara", word, "pics", {"noun": word}, {"images": "12 pictures"}))
    read = reading.read_yaml(path, "mara.yaml")
    assert read["trigger"] == read["noun"] == word
