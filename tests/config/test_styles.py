"""Styles: what their files may contain, whom their pictures show, and which rules apply only to them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_project
import yaml
from small_project import edit, picture, snakemake, write_yaml

from charloom.config.project import load, read
from charloom.core.errors import UserError
from charloom.dataset import captions, lint, picture_files, proposals, sources
from charloom.dataset.lint import Item
from charloom.workflow import board, caption_slices, delivery, slices

INK = "config/styles/ink.yaml"
STYLE: dict[str, Any] = {
    "kind": "style",
    "name": "Ink",
    "images": {"source": "paperdoll", "look": "ink", "count": 6},
    "sample_prompts": [
        "a medium shot photo of a woman, laughing, kitchen",
        {"prompt": "a full body photo of a woman, beach", "scale": 0.8},
    ],
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = small_project.make(tmp_path)
    write_yaml(folder / INK, STYLE)
    return folder


def drawn_in(folder: Path, **changes: Any) -> Path:
    """The style with pictures of a folder, of which one has no caption."""
    (folder / "pictures").mkdir()
    for name in ("A boat", "hill", "cup"):
        picture(folder / f"pictures/{name}.png", (96, 80), seed=len(name))
    (folder / "pictures/A boat.txt").write_text("a boat on a lake, 1nk")
    (folder / "pictures/hill.txt").write_text("a hill, 1nk")
    edit(folder / INK, images={"source": "folder", "path": "pictures"}, trigger="1nk",
         sample_prompts=["a house, {trigger}", "a house"], **changes)  # fmt: skip
    return folder


def test_a_picture_that_is_left_out_of_a_style_has_words_and_can_be_taken_back(project: Path) -> None:
    drawn_in(project)
    edit(project / INK, images={"source": "folder", "path": "pictures", "exclude": ["cup", "hill"]})
    ink = load(project).styles["ink"]
    assert board.words_of(board.kept(ink, "cup"), "cup", project).problem == ""
    assert board.words_of(board.kept(ink, "hill"), "hill", project).text == "a hill, 1nk"


def test_a_picture_of_a_planned_style_lands_under_the_name_that_its_shot_names(project: Path) -> None:
    """Its folder holds the pictures of a plan, as a character's does, not whatever there is."""
    (project / "pictures").mkdir()
    boat = {"name": "boat", "tier": "medium", "subject": "a boat", "file": "x.png"}
    shots = [boat, {"name": "cup", "tier": "medium", "subject": "a cup"}]
    images = {"source": "folder", "path": "pictures", "count": 2}
    edit(project / INK, images=images, trigger="1nk", shots=shots, appearance="in ink", sample_prompts=["a {trigger}"])
    ink = load(project).styles["ink"]
    assert not picture_files.adds(ink) and picture_files.place(ink, "boat").there is None
    assert len(sources.problems(ink)) == 2 and "x.png" in sources.problems(ink)[0]
    assert board.sheet(ink)[1].keys() == {"boat", "cup"}
    picture(project / "pictures/x.png", (96, 80), seed=1)
    assert picture_files.place(ink, "boat").there == Path("pictures/x.png")


def test_a_style_of_pictures_that_are_still_to_be_drawn_has_a_plan(project: Path) -> None:
    """Prompts for a generator, captions without a word on how it is drawn, and for the rest it is a style like any."""
    shots = [
        {"name": "closeup-01", "tier": "close-up", "subject": "an old fisherman", "background": "harbour"},
        {"name": "medium-01", "tier": "medium", "subject": "a bowl of ramen"},
    ]
    planned = {
        "kind": "style", "name": "Wash", "trigger": "w4sh", "look": "painted", "appearance": "wet washes",
        "images": {"source": "folder", "path": "pictures", "count": 2}, "shots": shots,
        "sample_prompts": ["a lighthouse on a cliff, {trigger} style", "a lighthouse on a cliff"],
    }  # fmt: skip
    write_yaml(project / "config/styles/wash.yaml", planned)
    (project / "pictures").mkdir()
    for name in ("closeup-01", "medium-01"):
        picture(project / f"pictures/{name}.png", (96, 80), seed=len(name))
    workflow = load(project)
    style = workflow.styles["wash"]
    assert style.is_style and style.has_sheet and not workflow.styles["ink"].has_sheet
    said = [captions.caption(style, shot) for shot in style.shots]
    assert said == [
        "w4sh style, a close-up of an old fisherman, harbour",
        "w4sh style, a medium shot of a bowl of ramen",
    ]
    settings = json.loads(slices.lint(style))
    assert settings["kind"] == "style" and "class" not in settings
    assert style.strengths == [] and style.judged_by("auto") == "look"
    dry = snakemake(project, "-n", "wash", code=small_project.ROOT)
    rows = {line.split()[0] for line in dry.stdout.splitlines() if len(line.split()) == 2}
    assert dry.returncode == 0 and {"write_prompts", "convert_picture", "train_segment"} <= rows, dry.stderr
    # A character file says nothing of styles.
    character = {key: value for key, value in planned.items() if key != "kind"}
    write_yaml(project / "config/characters/wush.yaml", {**character, "class": "style"})
    (line,) = read(project).broken["wush"]
    assert "class: a style has a file of its own; move this one to config/styles/wush.yaml, with kind: style" in line


def test_a_style_may_have_a_captioner_and_levels_of_its_own(project: Path) -> None:
    drawn_in(project, recipe={"data": {"default_caption": "a drawing"}}, lint={"levels": {"few": "ignore"}})
    edit(project / INK, captions={"captioner": {"model": "x", "base_url": "https://me:secret@host/v1"}})
    with pytest.raises(UserError, match="ink.yaml: captions.captioner.base_url: holds a password") as caught:
        load(project)
    assert "secret" not in str(caught.value)
    edit(project / INK, captions={"captioner": {"model": "x", "base_url": "https://host/v1"}, "accept": "auto"})
    style = load(project).styles["ink"]
    assert caption_slices.described(style) == caption_slices.taken(style) == ["cup"]
    assert "how it is drawn" in json.loads(caption_slices.captioner(style))["prompt"]
    assert json.loads(slices.lint(style))["lint"] == {"levels": {"few": "ignore"}}


@pytest.mark.parametrize("trigger", [{}, {"trigger": "1nk"}])
def test_what_a_captioner_says_is_taken_with_and_without_a_trigger(project: Path, trigger: dict[str, str]) -> None:
    write_yaml(project / INK, {**STYLE, **trigger, "sample_prompts": ["a house, {trigger}" if trigger else "a house"]})
    settings = caption_slices.clean_settings(load(project).styles["ink"], "001")
    made = proposals.propose("001", "The image shows a boat on a lake.", "", settings)
    assert made.good and made.text.endswith("a boat on a lake") and ("1nk" in made.text) == bool(trigger), made


def test_a_style_stands_beside_the_characters_and_is_made_only_when_asked_for(project: Path) -> None:
    workflow = load(project)
    assert list(workflow.characters) == ["mara"] and list(workflow.styles) == ["ink"]
    assert workflow.names == ["mara", "ink"] and workflow.character("ink").is_style
    everything = snakemake(project, "-n", code=small_project.ROOT)
    assert everything.returncode == 0 and "ink" not in everything.stdout + everything.stderr
    asked = snakemake(project, "-n", "ink", code=small_project.ROOT)
    text = asked.stdout + asked.stderr
    assert asked.returncode == 0, text
    jobs = {name: int(number) for name, number in re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)}
    wanted = {"make_source_image": 6, "write_caption": 6, "train_segment": 2, "score_checkpoint": 2, "export_final": 1}
    assert {name: jobs.get(name) for name in wanted} == wanted
    assert not {"write_prompts", "sample_strength", "study_references", "sample_drift"} & set(jobs)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("bundle.zip", "a style has no bundle"),
        ("strengths.json", "a style has no strength sweep"),
        ("gallery/index.html", "a style has no gallery"),
    ],
)
def test_what_a_style_does_not_have_is_refused_in_one_line(project: Path, file: str, words: str) -> None:
    result = snakemake(project, "-n", f"results/ink/{file}", code=small_project.ROOT)
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("error: ")]
    assert result.returncode and len(lines) == 1 and lines[0].startswith(f"error: results/ink/{file}: {words}")


def test_a_strength_sweep_of_no_strengths_is_refused_before_anything_is_drawn(project: Path) -> None:
    edit(project / "config/characters/mara.yaml", recipe={"sample": {"strengths": []}})
    result = snakemake(project, "-n", "results/mara/strengths.json", code=small_project.ROOT)
    assert result.returncode and "results/mara/strengths.json: no strengths" in result.stdout + result.stderr


def test_every_picture_shows_somebody_else_somewhere_else_and_its_caption_says_so(project: Path) -> None:
    edit(project / INK, images={**STYLE["images"], "count": 40})
    style = load(project).styles["ink"]
    source = sources.get("paperdoll")
    assert sources.problems(style) == []
    how = [source.settings(style, shot) for shot in style.shots]
    assert len({json.dumps(one["identity"]) for one in how}) == 40
    for part, key in (("identity", "hair_color"), ("identity", "skin"), ("scene", "background"), ("scene", "tier")):
        most = Counter(one[part][key] for one in how).most_common(1)[0][1]
        assert most <= (3 if key == "background" else 20), (
            f"{key}: one value in {most} of 40 pictures would be learnt with the look"
        )
    assert len({one["scene"]["background"] for one in how}) == 14, "no place is missing"
    said = [captions.caption(style, shot) for shot in style.shots]
    composed = [json.loads(slices.caption(style, shot.name)) for shot in style.shots]
    assert composed == [{"caption": text} for text in said]
    assert len(set(said)) == 40 and not any("ink" in text.split() or "sepia" in text for text in said)
    for one, text in zip(how, said, strict=True):
        assert one["look"] == "ink" and one["scene"]["background"].split()[0] in text
    others = load(project).styles["ink"]
    edit(project / INK, images={**STYLE["images"], "count": 40, "seed": 1})
    assert [source.settings(others, s) for s in others.shots] == how
    other = load(project).styles["ink"]
    assert not [s for s in other.shots if source.settings(other, s) in how]


def test_a_look_changes_how_a_picture_is_made_and_not_what_it_shows(project: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    style, mara = load(project).styles["ink"], load(project).characters["mara"]
    source = sources.get("paperdoll")
    how = {**source.settings(style, style.shots[0]), "size": 128}
    source.make(how, [], tmp_path / "inked.png")
    source.make({key: value for key, value in how.items() if key != "look"}, [], tmp_path / "plain.png")
    inked, plain = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("inked", "plain"))
    assert inked.shape == plain.shape and np.abs(inked - plain).mean() > 10
    spread = (inked.max(axis=2) - inked.min(axis=2))[:12, :12], (plain.max(axis=2) - plain.min(axis=2))[:12, :12]
    assert spread[0].max() < 90, "the ground is paper and sepia"
    assert "look" not in source.settings(mara, mara.shots[0]), "nothing changes for characters"


def test_the_trigger_of_a_style_is_optional_and_stands_in_what_it_draws(project: Path) -> None:
    edit(project / INK, trigger="1nk", sample_prompts=["a house, {trigger}", "a house"])
    style = load(project).styles["ink"]
    assert captions.caption(style, style.shots[0]).endswith(", 1nk")
    assert [style.shown_by(prompt.text) for prompt in style.sample_prompts] == [True, False]
    edit(project / INK, **STYLE)
    raw = yaml.safe_load((project / INK).read_text())
    del raw["trigger"]
    write_yaml(project / INK, raw)
    style = load(project).styles["ink"]
    assert style.trigger == "" and all(style.shown_by(prompt.text) for prompt in style.sample_prompts)
    assert delivery.thumbnail(style) == "01"


def test_a_folder_is_the_whole_data_set(project: Path) -> None:
    drawn_in(project, recipe={"data": {"default_caption": "something, {trigger}"}})
    style = load(project, ready="ink", image_problems=sources.problems).styles["ink"]
    assert sorted(style.shot_names) == ["a-boat", "cup", "hill"] and style.count == 3
    assert json.loads(slices.caption(style, "cup")) == {"default": "something, 1nk"}
    assert style.crop["right"] == style.crop["bottom"] == 0


def test_a_picture_without_words_is_named(project: Path) -> None:
    drawn_in(project)
    with pytest.raises(UserError) as caught:
        load(project, ready="ink", image_problems=sources.problems)
    assert str(caught.value) == (
        f"{INK}: pictures/cup: has no caption; write one that says what the picture shows, or set "
        "recipe.data.default_caption"
    )


MISTAKES: dict[str, tuple[Callable[[Path], None], str]] = {
    "an unknown look": (
        lambda p: edit(p / INK, images={"source": "paperdoll", "look": "inks"}),
        "images.look: cannot be 'inks'; did you mean ink?",
    ),
    "no look": (lambda p: edit(p / INK, images={"source": "paperdoll"}), "images.look: is missing; name the technique"),
    "no folder": (lambda p: edit(p / INK, images={"source": "folder"}), "images.path: is missing"),
    "a look of a folder": (
        lambda p: edit(p / INK, images={"source": "folder", "path": ".", "look": "ink"}),
        "images.look: pictures of a folder are taken as they are",
    ),
    "a placeholder of nothing": (
        lambda p: edit(p / INK, sample_prompts=["a house, {trigger}"]),
        "sample_prompts[1]: has {trigger}, but this style has no trigger",
    ),
    "an unused trigger": (lambda p: edit(p / INK, trigger="1nk"), "sample_prompts: none contains the trigger"),
    "an identity": (lambda p: edit(p / INK, identity_line={"full": "x"}), "unknown key"),
    "a step that is not saved": (lambda p: edit(p / INK, checkpoint=51), "checkpoint: step 51 is not saved"),
    "the trigger of a character": (
        lambda p: edit(p / INK, trigger="m4ra", sample_prompts=["a house, {trigger}"]),
        "trigger: m4ra is the trigger of config/characters/mara.yaml too",
    ),
    "preservation without a trigger": (
        lambda p: edit(p / INK, recipe={"train": {"preservation": {"differential": {"enabled": True}}}}),
        "recipe.train.preservation.differential: needs a trigger",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_stop_no_character(project: Path, name: str) -> None:
    change, words = MISTAKES[name]
    change(project)
    with pytest.raises(UserError) as caught:
        load(project, ready="ink", image_problems=sources.problems)
    lines = [line for line in str(caught.value).splitlines() if words in line]
    assert len(lines) == 1 and lines[0].startswith(f"{INK}: "), str(caught.value)
    assert list(read(project).characters) == ["mara"]


def test_a_style_among_the_characters_and_a_name_taken_twice(project: Path) -> None:
    write_yaml(project / "config/characters/wash.yaml", STYLE)
    write_yaml(project / "config/styles/mara.yaml", STYLE)
    workflow = read(project)
    assert workflow.broken["wash"] == [
        "config/characters/wash.yaml: kind: is a style; move the file to config/styles/wash.yaml"
    ]
    assert "a character is called mara too" in workflow.broken_styles["mara"][0]
    assert list(workflow.characters) == ["mara"]


def items(*texts: str) -> list[Item]:
    return [Item(f"{i:03d}", text, None, f"{i:03d}.txt", f"{i:03d}.png") for i, text in enumerate(texts, 1)]


def found(project: Path, *texts: str) -> list[str]:
    settings = json.loads(slices.lint(load(project).styles["ink"]))
    return [str(one) for one in lint.lint(items(*texts), settings)]


def test_the_check_asks_a_style_neither_for_a_persons_trigger_nor_for_distances(project: Path) -> None:
    plain = [f"a house {number}" for number in range(20)]
    assert found(project, *plain) == []
    assert any("2 pictures; 20 to 60" in line for line in found(project, *plain[:2]))
    lines = found(project, *plain[1:], "an ink drawing of a house")
    assert lines == ["warning: 020.txt: drawing, ink: says how it is drawn, which the style should carry; remove it"]
    edit(project / INK, trigger="light", sample_prompts=["a house, {trigger}"])
    marked = [f"a house {number}, light" for number in range(20)]
    assert found(project, *marked) == [], "a common word may mean a style"
    assert found(project, *marked[1:], "a house") == [
        "warning: 020.txt: has the trigger light 0 times; use it once, so that the word means the style"
    ]


def test_lint_of_a_style_from_the_command_line(project: Path) -> None:
    from cli_helpers import call, said

    drawn_in(project, recipe={"data": {"default_caption": "something, {trigger}"}})
    text = said(call("lint", "ink"))
    assert "config/styles/ink.yaml: 3 shots, 2 sample prompts: the file is valid" in text and "close-up" not in text
