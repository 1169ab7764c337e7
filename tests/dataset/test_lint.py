"""The checks of a data set before it is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_project
from PIL import Image, ImageDraw, ImageFilter
from small_project import picture, run_script

from charloom.config.character import Character
from charloom.config.project import load
from charloom.core.layout import Results
from charloom.dataset import lint
from charloom.dataset.crop import crop_file
from charloom.dataset.lint.registry import Data
from charloom.workflow import slices

SETTINGS = {"trigger": "m4ra", "minimum": 64, "flips": [False, False]}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    return folder


def checked(folder: Path, count: int = 6, **settings: object) -> list[str]:
    """Findings about ``count`` shots in ``folder``, which is called dataset; files that are missing are made."""
    shots = [{"name": f"s{i}", "tier": "medium", "view": "frontal view", "expression": ""} for i in range(count)]
    for index in range(count):
        if not (folder / f"s{index}.png").exists():
            picture(folder / f"s{index}.png", (600, 600), seed=index)
        if not (folder / f"s{index}.txt").exists():
            (folder / f"s{index}.txt").write_text(f"a photo of m4ra, pose {index}\n")
    settings = {**SETTINGS, "shots": shots, **settings}
    for name in lint.names(settings)[count:]:
        if not (folder / f"{name}.png").exists():
            picture(folder / f"{name}.png", (600, 600), seed=len(name) + ord(name[-1]))
    facts = {name: lint.facts(folder / f"{name}.png") for name in lint.names(settings)}
    items, unread = lint.made(Results(folder.parent), settings, facts)
    return [str(finding) for finding in unread + lint.lint(items, settings) if finding.where != "plan"]


PLAN = ("flips", "tiers", "profiles", "tipped-head", "expressions", "from-behind")


def found_by(rule: str, settings: dict[str, object], *items: lint.Item) -> list[lint.Finding]:
    """What one rule finds."""
    return lint.RULES[rule].findings(Data(items, settings))


def test_a_good_data_set_has_no_findings(dataset: Path) -> None:
    assert checked(dataset) == []


@pytest.mark.parametrize(
    ("caption", "finding"),
    [
        ("a photo of a woman", "error: s0.txt: the trigger m4ra is missing; it must appear exactly once"),
        ("m4ra, M4RA", "error: s0.txt: the trigger m4ra appears 2 times; it must appear exactly once"),
        (
            "m4ra, " + "_,-" * 400,
            "warning: s0.txt: has about 604 tokens, and only the first 504 are read; shorten it",
        ),
        ("m4ra " + "word " * 100, "warning: s0.txt: has 101 words; describe only what varies"),
        (
            "m4ra, high cheekbones",
            "warning: s0.txt: cheekbones: describes the identity, which the trigger should carry; remove it",
        ),
        ("m4ra, pose 1 of m4rab", None),
        ("a photo of m4ra, pose 1", "warning: s0.txt, s1.txt: are identical; "),
    ],
)
def test_captions_are_checked(dataset: Path, caption: str, finding: str | None) -> None:
    (dataset / "s0.txt").write_text(f"{caption}\n")
    found = checked(dataset)
    assert len(found) == (finding is not None)
    assert all(line.startswith(finding) for line in found)


@pytest.mark.parametrize(
    ("trigger", "level"),
    [("l3yla", None), ("ohwx", None), ("leyla", "error"), ("Maria", "error"), ("zorbl", "warning"), ("a1", "warning")],
)
def test_triggers_are_checked(trigger: str, level: str | None) -> None:
    found = found_by("trigger", {"trigger": trigger})
    assert [finding.level for finding in found] == ([level] if level else [])


def test_the_balance_of_a_plan_is_checked() -> None:
    shot = {"name": "a", "tier": "close-up", "view": "frontal view", "expression": "soft smile"}
    settings = {"trigger": "m4ra", "shots": [shot] * 10, "flips": [True, False]}
    found = [str(finding) for name in PLAN for finding in found_by(name, settings)]
    assert found[0].startswith("warning: recipe.data: flips teach")
    for part in (
        "10 of 10 shots are close-up",
        "0 profiles",
        "looks up",
        "smile more than once",
        "from behind",
        "0 of 10",
    ):
        assert any(part in line for line in found), part


def test_twins_blur_and_small_images_are_found(dataset: Path) -> None:
    with Image.open(picture(dataset / "s0.png", (600, 600), seed=0)) as image:
        image.copy().save(dataset / "s1.png", compress_level=1)
        image.point(lambda level: min(255, level + 2)).save(dataset / "s2.png")
    with Image.open(picture(dataset / "s3.png", (600, 600), seed=3)) as image:
        image.filter(ImageFilter.GaussianBlur(20)).save(dataset / "s3.png")
    picture(dataset / "s4.png", (600, 63), seed=4)
    assert checked(dataset) == [
        "error: s4.png: 600x63 has a side below 64 pixels; use a larger image",
        "error: s0.png, s1.png: are the same image; replace one of them",
        "warning: s3.png: looks blurred, and the LoRA would learn that; replace it",
        "warning: s0.png, s2.png: are almost the same image; replace one of them",
    ]


def test_images_that_were_transparent_are_named(dataset: Path) -> None:
    with Image.open(picture(dataset / "clear.png", (600, 600), seed=0)) as image:
        image.putalpha(200)
        image.save(dataset / "clear.png")
    crop_file(dataset / "clear.png", dataset / "s0.png", right=0, bottom=0, minimum=64)
    assert checked(dataset) == [
        "warning: s0.png: was transparent and stands on white now; give it a background of its own"
    ]


def test_a_watermark_that_is_still_there_is_found(dataset: Path) -> None:
    for marked in (False, True):
        for index in range(6):
            image = Image.new("RGB", (600, 600), (40 + 30 * index, 90, 200 - 25 * index))
            with Image.open(picture(dataset / "noise.png", (400, 400), seed=index)) as noise:
                image.paste(noise, (100, 150))
            if marked:
                ImageDraw.Draw(image).regular_polygon((575, 575, 12), 4, fill=(250, 250, 250))
            image.save(dataset / f"s{index}.png")
        found = checked(dataset)
        assert len(found) == marked
    assert found == [
        "error: images: most images have the same mark in the bottom right corner; raise crop.right and crop.bottom, "
        "or the LoRA will learn it; look at it with charloom lint NAME --html, and if it is not a mark, write "
        "lint: {allow: [{rule: watermark}]}"
    ]


def test_the_lint_script_keeps_its_facts_and_stops_on_errors(dataset: Path) -> None:
    checked(dataset, 2)
    shots = [{"name": f"s{i}", "tier": "medium", "view": "frontal view", "expression": ""} for i in range(2)]
    settings = json.dumps({**SETTINGS, "character": "mara", "shots": shots})
    arguments = ["--results", "..", "--settings", settings, "--store", "store", "--output", "lint.json", "--log", "log"]
    assert run_script("lint_dataset", *arguments, cwd=dataset).returncode == 0
    assert len(list((dataset / "store/image-facts").glob("*/*.json"))) == 2
    assert json.loads((dataset / "lint.json").read_text())["errors"] == 0
    (dataset / "lint.json").unlink()
    (dataset / "s0.txt").write_text("nobody\n")
    failed = run_script("lint_dataset", *arguments, cwd=dataset)
    assert failed.returncode == 1 and not (dataset / "lint.json").exists()
    assert "error: mara: s0.txt: the trigger m4ra is missing" in failed.stderr
    assert "the trigger m4ra is missing" in (dataset / "log").read_text()


def test_captions_of_further_sets_are_checked(dataset: Path) -> None:
    (dataset / "s").mkdir()
    for name, text in (("a", "a photo of m4ra"), ("b", "a photo of somebody"), ("c", "word " * 600)):
        (dataset / f"s/{name}.txt").write_text(f"{text}\n")

    def found(regularization: bool, flips: list[bool]) -> list[str]:
        part = {"name": "s", "items": ["s/a", "s/b", "s/c"], "regularization": regularization, "flips": flips}
        return [line.split(";")[0] for line in checked(dataset, sets=[part])]

    long = "warning: s/c.txt: has about 600 tokens, and only the first 504 are read"
    assert found(True, [True, False]) == [
        "error: s/a.txt: contains the trigger m4ra, but regularisation images show others",
        long,
    ]
    assert found(False, [False, True]) == [
        "warning: s/b.txt: has the trigger m4ra 0 times",
        "warning: s/c.txt: has the trigger m4ra 0 times",
        "warning: s/c.txt: has 600 words",
        long,
        "warning: datasets.s: flips teach that faces are symmetric, which most are not",
    ]


def test_flips_of_the_recipe_reach_the_check(mara: Character, tmp_path: Path) -> None:
    assert found_by("flips", {**json.loads(slices.lint(mara)), "shots": []}) == []
    for axis in ("flip_x", "flip_y"):
        small_project.edit(tmp_path / "config/characters/mara.yaml", recipe={"data": {axis: True}})
        settings = json.loads(slices.lint(load(tmp_path).characters["mara"]))
        found = found_by("flips", {**settings, "shots": []})
        assert [f.level for f in found] == ["warning"] and "flips teach" in found[0].what
