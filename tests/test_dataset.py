"""From phrases to a data set: captions, prompts, crops, sources, and the checks before training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_project
from PIL import Image, ImageDraw, ImageFilter

from charloom.base import locks
from charloom.config.character import Character, Shot
from charloom.config.project import load
from charloom.core import contents, pictures, words
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset import captions, lint, manifest, prompts
from charloom.dataset.crop import crop_file
from charloom.dataset.sources import folder as folder_source
from charloom.dataset.sources import paperdoll as paperdoll_source
from charloom.report import prompt_sheet
from charloom.workflow import jobs, slices


@pytest.fixture
def mara(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Character:
    monkeypatch.chdir(tmp_path)
    return load(small_project.make(tmp_path)).characters["mara"]


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


def run_script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(small_project.ROOT / "scripts" / f"{name}.py"), *arguments]
    environment = {"PYTHONPATH": str(small_project.ROOT), "PATH": ""}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


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
        ("photos/medium-01.txt", "no image of a shot is called like it")
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


# crops


def picture(path: Path, size: tuple[int, int] = (1300, 1200), seed: int = 0) -> Path:
    """An image with something to see, different for each seed."""
    generator = np.random.default_rng(seed)
    image = Image.fromarray(generator.integers(0, 256, (24, 26, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )
    image.save(path)
    return path


def test_a_crop_loses_nothing_but_the_edges(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    assert crop_file(source, tmp_path / "out" / "a.png") == (1150, 1050)
    with Image.open(source) as a, Image.open(tmp_path / "out" / "a.png") as b:
        assert b.format == "PNG"
        assert np.array_equal(np.asarray(a)[:1050, :1150], np.asarray(b))
    assert source.read_bytes() == before


def test_a_crop_of_nothing_keeps_all_pixels(tmp_path: Path) -> None:
    assert crop_file(picture(tmp_path / "a.png"), tmp_path / "b.png", right=0, bottom=0) == (1300, 1200)


def test_crops_that_cannot_be(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", (1100, 1300))
    message = r"a\.png: 1100x1300 leaves 950x1150 .* less than the minimum of 1024; use a .* set crop: {right: 0, bot"
    with pytest.raises(UserError, match=message):
        crop_file(source, tmp_path / "b.png")
    with pytest.raises(UserError, match=r"1100x1300 is less than the minimum of 1200; .* lower crop.minimum$"):
        crop_file(source, tmp_path / "b.png", right=0, bottom=0, minimum=1200)
    with pytest.raises(UserError, match="overwritten by its own crop"):
        crop_file(source, source, right=0)
    (tmp_path / "c.png").write_text("no image")
    with pytest.raises(UserError, match=r"c\.png: is no picture that can be read"):
        crop_file(tmp_path / "c.png", tmp_path / "b.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    whole = {"right": 0, "bottom": 0, "minimum": 8}
    with Image.open(picture(tmp_path / "a.png", (64, 64))) as image:
        image.convert(mode).save(tmp_path / "opaque.png")
        clear = image.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 32, 64))
    clear.convert(mode).save(tmp_path / "clear.png")
    crop_file(tmp_path / "clear.png", tmp_path / "b.png", **whole)
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "RGB" and image.getpixel((10, 10)) == (255, 255, 255) != image.getpixel((50, 50))
    assert lint.facts(tmp_path / "b.png")["notes"] == [pictures.FLATTENED]
    crop_file(tmp_path / "opaque.png", tmp_path / "c.png", **whole)
    with Image.open(tmp_path / "opaque.png") as image:
        image.convert("RGB").save(tmp_path / "expected.png", compress_level=4)
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert "notes" not in lint.facts(tmp_path / "c.png")


def test_the_crop_script_does_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("a.png", "b.jpg", "small.png")):
        picture(tmp_path / "in" / name, (1100, 1100) if name == "small.png" else (1300, 1200), seed)
    result = run_script("crop_watermark", "in", "--output", "out", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == "a.png: 1150x1050\nb.jpg: 1150x1050\n"
    assert re.fullmatch(r"error: in/small\.png: 1100x1100 leaves 950x950 .*\n", result.stderr)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


# sources


def test_the_doll_is_drawn_from_what_the_phrases_mean(mara: Character) -> None:
    scene = paperdoll_source.scene(mara.shot("closeup-01"))
    assert (scene.tier, scene.view, scene.expression) == ("close-up", "frontal", "smile")
    assert (scene.outfit, scene.color, scene.earrings, scene.background) == (
        "t-shirt",
        "white",
        "hoops",
        "light gray studio",
    )
    reference = json.loads(slices.source_image(mara, None))
    assert reference["scene"]["expression"] == "neutral" and reference["identity"] == mara.doll
    assert paperdoll_source.inputs(mara, None) == []
    assert paperdoll_source.inputs(mara, mara.shots[0]) == ["results/mara/reference.png"]


def test_own_images_are_copied_as_they_are(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    folder_source.make({}, [str(source)], tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == source.read_bytes()
    picture(tmp_path / "b.jpg")
    folder_source.make({}, [str(tmp_path / "b.jpg")], tmp_path / "b.png")
    with Image.open(tmp_path / "b.jpg") as a, Image.open(tmp_path / "b.png") as b:
        assert b.format == "PNG" and np.array_equal(np.asarray(a), np.asarray(b))
    with Image.open(source) as image:
        image.putalpha(100)
        image.save(tmp_path / "d.webp", lossless=True)
    folder_source.make({}, [str(tmp_path / "d.webp")], tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as image:
        assert image.mode == "RGB"
    assert pictures.read(tmp_path / "d.png").notes == (pictures.FLATTENED,)
    with pytest.raises(UserError, match="gone from the folder"):
        folder_source.make({}, [], tmp_path / "c.png")


# further data sets and default captions


def with_sets(folder: Path, **changes: object) -> Character:
    """Mara with a regularisation set of two images, one of them without a text, and the given changes to it."""
    (folder / "others").mkdir()
    for name in ("a-1", "a-2"):
        picture(folder / f"others/{name}.png", (80, 64))
    (folder / "others/a-1.txt").write_text("a photo of a woman")
    entry = {"name": "others", "path": "others", "regularization": True, "default_caption": "somebody", **changes}
    small_project.edit(folder / "config/characters/mara.yaml", datasets=[entry])
    return load(folder).characters["mara"]


def test_further_sets_take_the_same_way(mara: Character, tmp_path: Path) -> None:
    person = with_sets(tmp_path, repeats=3, weight=0.5, resolutions=[64], flip_x=True)
    assert person.image_names == [*mara.shot_names, "others/a-1", "others/a-2"]
    assert json.loads(slices.caption(person, "others/a-1")) == {}
    assert json.loads(slices.caption(person, "others/a-2")) == {"default": "somebody"}
    assert json.loads(slices.crop(person, "others/a-1")) == {"right": 0, "bottom": 0, "minimum": 64, "recipe": 3}
    assert json.loads(slices.crop(person, "medium-01"))["right"] == 150
    own = json.loads(slices.latents(person, "others/a-1"))
    assert (own["resolutions"], own["flips"]) == ([64], ["x"])
    assert json.loads(slices.latents(person, "medium-01"))["resolutions"] == [128]
    plan, others = json.loads(slices.manifest(person))["sets"]
    assert plan == {"items": mara.shot_names, "is_reg": False, "repeats": 1, "weight": 1.0}
    assert others == {
        "set": "others",
        "items": ["others/a-1", "others/a-2"],
        "is_reg": True,
        "repeats": 3,
        "weight": 0.5,
        "own": {"resolutions": [64], "flip_x": True},
    }
    # The settings of the plan do not know of the set.
    for slice_of in (slices.caption, slices.crop, slices.latents, slices.source_image):
        assert slice_of(person, "medium-01") == slice_of(mara, "medium-01")
    assert slices.train(person) == slices.train(mara)


def test_a_default_caption_is_for_images_without_text(mara: Character, tmp_path: Path) -> None:
    def captions_of(default: str) -> list[str]:
        recipe = {**small_project.CONFIG["recipe"], "data": {"default_caption": default}}
        small_project.edit(tmp_path / "config/config.yaml", recipe=recipe)
        person = load(tmp_path).characters["mara"]
        return [slices.caption(person, name) for name in person.shot_names]

    assert captions_of("a photo of {trigger}") == captions_of("")
    own = tmp_path / "config/captions/mara/medium-01.txt"
    own.parent.mkdir(parents=True)
    own.write_text(" \n")
    with pytest.raises(UserError, match=r"config/captions/mara/medium-01.txt: is empty; write a caption, delete the"):
        captions_of("")
    before, after = captions_of("x {trigger}"), captions_of("a photo\n of {trigger}")
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    result = run_script(
        "write_caption", "--user-file", str(own), "--settings", after[1], "--output", "out.txt", cwd=tmp_path
    )
    assert result.returncode == 0 and (tmp_path / "out.txt").read_text() == "a photo of m4ra\n"


def test_class_captions_have_the_class_word_for_the_trigger(mara: Character, tmp_path: Path) -> None:
    assert slices.class_captions(mara) == [] and slices.swap(mara) == "null"
    recipe = {"train": {"preservation": {"differential": {"enabled": True, "class": "girl"}}}}
    small_project.edit(tmp_path / "config/characters/mara.yaml", recipe=recipe)
    person = with_sets(tmp_path)
    assert slices.class_captions(person) == mara.shot_names  # nobody to preserve on regularisation images
    assert json.loads(slices.swap(person)) == ["m4ra", "girl"]
    assert words.swapped("M4ra, m4rab and m4ra", ["m4ra", "girl"]) == "girl, m4rab and girl"
    assert slices.texts(person) == slices.texts(mara)


def test_captions_of_further_sets_are_checked(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for name, text in (("a", "a photo of m4ra"), ("b", "a photo of somebody"), ("c", "word " * 600)):
        (tmp_path / f"s/{name}.txt").write_text(text)

    def found(regularization: bool, flips: list[bool]) -> list[str]:
        part = {"name": "s", "items": ["s/a", "s/b", "s/c"], "regularization": regularization, "flips": flips}
        return [line.split(";")[0] for line in checked(tmp_path, sets=[part])]

    long = "warning: s/c.txt: has about 600 tokens, and only the first 504 are read"
    assert found(True, [True, False]) == [
        "error: s/a.txt: holds the trigger m4ra, but regularisation images show others",
        long,
    ]
    assert found(False, [False, True]) == [
        "warning: datasets.s: flips teach that a face is symmetric",
        "warning: s/b.txt: has the trigger m4ra 0 times",
        "warning: s/c.txt: has the trigger m4ra 0 times",
        "warning: s/c.txt: has 600 words",
        long,
    ]


def test_flips_of_the_recipe_reach_the_check(mara: Character, tmp_path: Path) -> None:
    assert lint._plan({**json.loads(slices.lint(mara)), "shots": []}) == []
    for axis in ("flip_x", "flip_y"):
        small_project.edit(tmp_path / "config/characters/mara.yaml", recipe={"data": {axis: True}})
        settings = json.loads(slices.lint(load(tmp_path).characters["mara"]))
        found = lint._plan({**settings, "shots": []})
        assert [f.level for f in found] == ["warning"] and "flips teach" in found[0].what


# the checks


SETTINGS = {"trigger": "m4ra", "minimum": 64, "flips": [False, False]}


def checked(folder: Path, count: int = 6, **settings: object) -> list[str]:
    """Findings about ``count`` shots, whose files are made where they are missing."""
    shots = [{"name": f"s{i}", "tier": "medium", "view": "frontal view", "expression": ""} for i in range(count)]
    for index in range(count):
        if not (folder / f"s{index}.png").exists():
            picture(folder / f"s{index}.png", (600, 600), seed=index)
        if not (folder / f"s{index}.txt").exists():
            (folder / f"s{index}.txt").write_text(f"a photo of m4ra, pose {index}")
    settings = {**SETTINGS, "shots": shots, **settings}
    for name in lint.names(settings)[count:]:
        if not (folder / f"{name}.png").exists():
            picture(folder / f"{name}.png", (600, 600), seed=len(name) + ord(name[-1]))
    facts = {name: lint.facts(folder / f"{name}.png") for name in lint.names(settings)}
    items, unread = lint.made(folder, settings, facts)
    return [str(finding) for finding in unread + lint.lint(items, settings) if finding.where != "plan"]


def test_a_good_data_set_has_no_findings(tmp_path: Path) -> None:
    assert checked(tmp_path) == []


@pytest.mark.parametrize(
    ("caption", "finding"),
    [
        ("a photo of a woman", "error: s0.txt: the trigger m4ra is missing; it must be there exactly once"),
        ("m4ra, M4RA", "error: s0.txt: the trigger m4ra is there 2 times; it must be there exactly once"),
        (
            "m4ra, " + "_,-" * 400,
            "warning: s0.txt: has about 604 tokens, and only the first 504 are read; shorten it",
        ),
        ("m4ra " + "word " * 100, "warning: s0.txt: has 101 words; name what varies and no more"),
        (
            "m4ra, high cheekbones",
            "warning: s0.txt: cheekbones: is identity, which the trigger must carry; take it out",
        ),
        ("m4ra, pose 1 of m4rab", None),
        ("a photo of m4ra, pose 1", "warning: s0.txt, s1.txt: are word for word the same; "),
    ],
)
def test_captions_are_checked(tmp_path: Path, caption: str, finding: str | None) -> None:
    (tmp_path / "s0.txt").write_text(caption)
    found = checked(tmp_path)
    assert len(found) == (finding is not None)
    assert all(line.startswith(finding) for line in found)


@pytest.mark.parametrize(
    ("trigger", "level"),
    [("l3yla", None), ("ohwx", None), ("leyla", "error"), ("Maria", "error"), ("zorbl", "warning"), ("a1", "warning")],
)
def test_triggers_are_checked(trigger: str, level: str | None) -> None:
    found = lint._trigger({"trigger": trigger})
    assert [finding.level for finding in found] == ([level] if level else [])


def test_the_balance_of_a_plan_is_checked() -> None:
    shot = {"name": "a", "tier": "close-up", "view": "frontal view", "expression": "soft smile"}
    found = [str(finding) for finding in lint._plan({"shots": [shot] * 10, "flips": [True, False]})]
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


def test_twins_blur_and_small_images_are_found(tmp_path: Path) -> None:
    with Image.open(picture(tmp_path / "s0.png", (600, 600), seed=0)) as image:
        image.copy().save(tmp_path / "s1.png", compress_level=1)
        image.point(lambda level: min(255, level + 2)).save(tmp_path / "s2.png")
    with Image.open(picture(tmp_path / "s3.png", (600, 600), seed=3)) as image:
        image.filter(ImageFilter.GaussianBlur(20)).save(tmp_path / "s3.png")
    picture(tmp_path / "s4.png", (600, 63), seed=4)
    assert checked(tmp_path) == [
        "error: s4.png: 600x63 is less than 64 pixels at an edge; use a larger image",
        "error: s0.png, s1.png: are the same image; replace one of them",
        "warning: s3.png: looks blurred; a LoRA learns that too; replace it",
        "warning: s0.png, s2.png: are almost the same image; replace one of them",
    ]


def test_images_that_were_transparent_are_named(tmp_path: Path) -> None:
    with Image.open(picture(tmp_path / "clear.png", (600, 600), seed=0)) as image:
        image.putalpha(200)
        image.save(tmp_path / "clear.png")
    crop_file(tmp_path / "clear.png", tmp_path / "s0.png", right=0, bottom=0, minimum=64)
    assert checked(tmp_path) == [
        "warning: s0.png: was transparent and stands on white now; give it a background of its own"
    ]


def test_a_watermark_that_is_still_there_is_found(tmp_path: Path) -> None:
    for marked in (False, True):
        for index in range(6):
            image = Image.new("RGB", (600, 600), (40 + 30 * index, 90, 200 - 25 * index))
            with Image.open(picture(tmp_path / "noise.png", (400, 400), seed=index)) as noise:
                image.paste(noise, (100, 150))
            if marked:
                ImageDraw.Draw(image).regular_polygon((575, 575, 12), 4, fill=(250, 250, 250))
            image.save(tmp_path / f"s{index}.png")
        found = checked(tmp_path)
        assert len(found) == marked
    assert found[0].startswith("error: images: the same mark is in the bottom right corner of most of them; raise crop")


def test_the_lint_script_keeps_its_facts_and_stops_on_errors(tmp_path: Path) -> None:
    checked(tmp_path, 2)
    shots = [{"name": f"s{i}", "tier": "medium", "view": "frontal view", "expression": ""} for i in range(2)]
    settings = json.dumps({**SETTINGS, "character": "mara", "shots": shots})
    arguments = ["--dataset", ".", "--settings", settings, "--store", "store", "--output", "lint.json", "--log", "log"]
    assert run_script("lint_dataset", *arguments, cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "store/image-facts").glob("*/*.json"))) == 2
    assert json.loads((tmp_path / "lint.json").read_text())["errors"] == 0
    (tmp_path / "lint.json").unlink()
    (tmp_path / "s0.txt").write_text("nobody")
    failed = run_script("lint_dataset", *arguments, cwd=tmp_path)
    assert failed.returncode == 1 and not (tmp_path / "lint.json").exists()
    assert "error: mara: s0.txt: the trigger m4ra is missing" in failed.stderr
    assert "the trigger m4ra is missing" in (tmp_path / "log").read_text()


# manifest and base


def test_the_manifest_names_contents(mara: Character, tmp_path: Path) -> None:
    results = tmp_path / "results" / "mara"
    for name in (*mara.shot_names, "_empty", "_trigger"):
        for folder, suffix in (
            ("dataset", "png"),
            ("dataset", "txt"),
            ("latents", "safetensors"),
            ("embeddings", "safetensors"),
        ):
            (results / folder).mkdir(parents=True, exist_ok=True)
            (results / folder / f"{name}.{suffix}").write_text(f"{name} in {folder}\n")
    made = manifest.manifest(Path("results/mara"), json.loads(slices.manifest(mara)))
    assert [item["name"] for item in made["items"]] == ["closeup-01", "medium-01", "fullbody-01"]
    assert made["items"][0]["caption"] == "closeup-01 in dataset"
    assert made["items"][0]["latents"] == "results/mara/latents/closeup-01.safetensors"
    assert set(made["variants"]) == {"empty", "trigger"}
    assert not {"set", "class_embeddings", "resolutions"} & set(made["items"][0])
    assert len({item["embeddings_sha256"] for item in made["items"]}) == 3


def test_the_manifest_of_several_sets_and_class_captions(mara: Character, tmp_path: Path) -> None:
    recipe = {"train": {"preservation": {"differential": {"enabled": True}}}}
    small_project.edit(tmp_path / "config/characters/mara.yaml", recipe=recipe)
    person = with_sets(tmp_path, weight=0.5, resolutions=[64])
    results = tmp_path / "results" / "mara"
    files = [f"dataset/{n}.{s}" for n in person.image_names for s in ("png", "txt")]
    files += [f"{folder}/{n}.safetensors" for n in person.image_names for folder in ("latents", "embeddings")]
    files += [f"embeddings/{n}.class.safetensors" for n in mara.shot_names]
    for name in (*files, "embeddings/_empty.safetensors", "embeddings/_trigger.safetensors"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(name)
    slice_ = json.loads(slices.manifest(person))
    made = manifest.manifest(Path("results/mara"), slice_)["items"]
    assert [item["name"] for item in made] == person.image_names
    assert all(item["class_embeddings"].endswith(f"{item['name']}.class.safetensors") for item in made[:3])
    assert "class_embeddings" not in made[3]
    shares = [(i.get("set"), i["weight"], i["repeats"], i["is_reg"], i.get("resolutions")) for i in made[2:4]]
    assert shares == [(None, 1.0, 1, False, None), ("others", 0.5, 1, True, [64])]

    slice_["sets"][1]["holdout"] = True
    held = manifest.manifest(Path("results/mara"), slice_)
    assert [item["name"] for item in held["items"]] == mara.shot_names
    assert [item["name"] for item in held["holdout"]] == ["others/a-1", "others/a-2"]


def test_a_held_out_set_says_so_in_the_manifest_slice(mara: Character, tmp_path: Path) -> None:
    person = with_sets(tmp_path, regularization=False, holdout=True)
    assert json.loads(slices.manifest(person))["sets"][1]["holdout"] is True
    assert slices.train(person) == slices.train(mara)


def test_a_set_is_held_out_or_regularises(mara: Character, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\[1\]: holdout and regularization exclude each other"):
        with_sets(tmp_path, holdout=True)


def test_a_lock_names_bytes_not_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.make(tmp_path))
    base, store = load(".").bases["mini"], Store("store")
    settings = json.loads(slices.base_lock(base))
    lock = locks.lock(settings, store)
    assert set(lock["components"]) == set(locks.COMPONENTS)
    (tmp_path / "resources/bases/mini/vae/README.md").write_text("about")
    monkeypatch.setattr(contents, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert locks.lock(settings, store) == lock
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources/bases/mini").rename(tmp_path / "elsewhere")
    moved = locks.lock({**settings, "path": "elsewhere", "adapters": {}}, store)
    assert (moved["components"], moved["root"]) == (lock["components"], "elsewhere")
    (tmp_path / "elsewhere/vae/config.json").unlink()
    with pytest.raises(UserError, match="elsewhere: the base has no files in vae/"):
        locks.lock({**settings, "path": "elsewhere", "adapters": {}}, store)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    settings = {"name": "x", "repo": "nobody/nothing", "revision": "1", "adapters": {}}
    with pytest.raises(UserError, match="nobody/nothing at 1 cannot be fetched from the hub") as caught:
        locks.lock(settings, Store(tmp_path))
    assert "\n" not in str(caught.value)


def test_self_batching_makes_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path / "store"), []

    def make() -> None:
        for key in ("aa", "bb"):
            made.append(key)
            with store.put("thing", key, ".txt") as path:
                path.write_text(key)

    for key in ("aa", "bb"):
        jobs.serve(store, "thing", key, ".txt", tmp_path / f"{key}.txt", "lock", make)
    assert made == ["aa", "bb"]
    assert (tmp_path / "bb.txt").read_text() == "bb"
