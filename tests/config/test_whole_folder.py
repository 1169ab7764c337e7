"""A folder is enough: every picture of it and of the folders below, by any name, captions beside them."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_project
from PIL import Image, PngImagePlugin
from small_project import edit, write_yaml

from charloom.config import image_folder, portable
from charloom.config.character import Character
from charloom.config.project import load
from charloom.core import pictures
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset import captions, lint, sources
from charloom.workflow import lint_files, own_files, slices

MARA = Path("config/characters/mara.yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose character says nothing but its trigger and its folder."""
    monkeypatch.chdir(small_project.make(tmp_path))
    write_yaml(MARA, {"trigger": "m4ra", "images": {"source": "folder", "path": "pics"}})
    Path("pics").mkdir()
    return Path("pics")


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))


def mara(ready: bool = False) -> Character:
    return load(ready="mara" if ready else None, image_problems=sources.problems).characters["mara"]


AWKWARD = [
    "a.png", "A b.JPG", "sub/a.png", "sub/sub/a.png", "été.png", "一张.png", "一二.png", "b{2}.png", "it's.png",
    "$(touch hacked).png", "-dash.png", "_.png", "con.png", "n" * 200 + ".png", "n" * 201 + ".png",
    "x" * 45 + ".webp", "1.png", "1-2.png", "1/2.png", "reference.png", "new\nline.gif",
]  # fmt: skip


def test_every_picture_has_a_name_of_its_own_that_paths_can_hold(folder: Path) -> None:
    names = AWKWARD if sys.platform == "linux" else [name for name in AWKWARD if "\n" not in name]
    put(folder, *names)
    found = image_folder.every(folder)
    assert {path.relative_to(folder).as_posix() for path in found.values()} == set(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name) for name in found), sorted(found)
    assert found["a"].name == "a.png" and found["sub-a"].parent.name == "sub" and found["ete"].name == "été.png"
    one = mara(ready=True)
    assert len(one.shots) == one.count == len(names) and one.whole
    assert [shot.file for shot in one.shots] == sorted(names)
    assert len(load().characters) == 1


def test_a_name_does_not_depend_on_other_pictures(folder: Path) -> None:
    put(folder, "a b.png", "sub/一.png", "n" * 60 + ".png")
    before = image_folder.every(folder)
    put(folder, "c.png", "sub/二.png", "n" * 61 + ".png", "0.png")
    after = image_folder.every(folder)
    assert before.items() <= after.items() and len(after) == 7


@pytest.mark.parametrize("number", [5, 40, 10_000])
def test_any_number_is_read_in_sensible_time(folder: Path, number: int) -> None:
    for index in range(number):
        (folder / f"{index % 9}").mkdir(exist_ok=True)
        (folder / f"{index % 9}/picture {index}.jpg").touch()
        (folder / f"{index % 9}/picture {index}.txt").write_text(f"m4ra in place {index}")
    one = mara(ready=True)
    assert len(one.image_names) == number and not one.blank
    assert len(json.loads(slices.lint(one))["shots"]) == number
    start = time.process_time()
    assert sum(one.shot(name).file != "" for name in one.shot_names) == number
    assert time.process_time() - start < 0.3  # a look through all shots for each shot takes a second and more


def test_what_is_not_used_is_named_with_why(folder: Path) -> None:
    put(folder, "a.png", "a.jpg", "sub/b.png", "sub/b.txt", "sub/c.txt", "d.heif.bak", ".hidden.png", "e.psd")
    put(folder, "sub/b.caption", "@eaDir/a.png")
    told = {unused.where: unused.what for unused in mara().unused_files()}
    assert {name: what.partition(";")[0] for name, what in told.items()} == {
        "pics/a.jpg": "not used, because a.png of the same name is",
        "pics/sub/c.txt": "no picture has this name, so it is ignored",
        "pics/e.psd": "unsupported format",
        "pics/sub/b.caption": "not read: captions end in .txt",
    }
    assert mara().caption_file(mara().shot("sub-b")) == folder / "sub/b.txt"


def test_no_folder_and_an_empty_one_are_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"images.path: pics has no picture .*; put some there$"):
        mara(ready=True)
    put(folder, "a.psd")
    with pytest.raises(UserError, match=r"pics has no picture .* that is read, but pics/a.psd: unsupported format"):
        mara(ready=True)
    edit(MARA, images={"source": "folder", "path": "nowhere"})
    with pytest.raises(UserError, match=r"images.path: there is no folder nowhere; correct it"):
        mara(ready=True)
    assert mara().shots == ()


def test_captions_stay_as_they_are_but_for_the_trigger(folder: Path) -> None:
    cases = {
        "m4ra in a garden": "m4ra in a garden",
        "a woman in a garden": "m4ra, a woman in a garden",
        "[trigger] at sea": "m4ra at sea",
        "{trigger}, by night": "m4ra, by night",
        "一张m4ra的照片": "一张m4ra的照片",
        "": "m4ra, a person",
        None: "m4ra, a person",
    }
    store = Store("store")
    for index, text in enumerate(cases):
        put(folder, f"{index}.png")
        if text is not None:
            (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    one = mara(ready=True)
    for shot, expected in zip(one.shots, cases.values(), strict=True):
        settings = json.loads(slices.caption(one, shot.name))
        key = own_files.make_caption(one.caption_file(shot), settings, store)
        made = store.path(own_files.CAPTION.name, key, own_files.CAPTION.suffix)
        assert captions.read(made) == expected == lint_files.caption(one, shot.name, Path("."))
    (folder / "0.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="0.txt: is not UTF-8 text"):
        own_files.make_caption(folder / "0.txt", {"trigger": "m4ra"}, store)


def test_a_picture_is_converted_once_and_holds_nothing_but_pixels(folder: Path) -> None:
    store, settings = Store("store"), {"crop": {"right": 0, "bottom": 0, "minimum": 64}, "recipe": [1]}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    image.save(folder / "plain.png")
    told = PngImagePlugin.PngInfo()
    told.add_text("parameters", "by somebody, at home")
    image.save(folder / "told.png", pnginfo=told)
    image.save(folder / "profile.png", icc_profile=b"anything")
    image.convert("RGBA").save(folder / "clear.png")
    image.convert("L").save(folder / "grey.png")
    (folder / "behind.png").write_bytes((folder / "plain.png").read_bytes() + b"behind its end")
    image.save(folder / "a.webp", lossless=True)
    for path in sorted(folder.iterdir()):
        key = own_files.make_picture(path, settings, store)
        made = store.path("own-picture", key, ".png")
        assert (made.read_bytes() == path.read_bytes()) is (path.name == "plain.png"), path.name
        assert pictures.is_plain(made) and b"somebody" not in made.read_bytes()
        with Image.open(made) as shown:
            expected = image if path.name != "grey.png" else image.convert("L").convert("RGB")
            assert np.array_equal(np.asarray(shown), np.asarray(expected)), path.name
    cut = {**settings, "crop": {"right": 10, "bottom": 0, "minimum": 64}}
    with Image.open(
        store.path("own-picture", own_files.make_picture(folder / "plain.png", cut, store), ".png")
    ) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(image)[:, :80])
    with pytest.raises(UserError, match=r"plain.png: 90x80 is less than the minimum of 100"):
        own_files.make_picture(folder / "plain.png", {"crop": {"right": 0, "bottom": 0, "minimum": 100}}, store)
    with pytest.raises(UserError, match="there is no such picture"):
        own_files.make_picture(folder / "gone.png", settings, store)
    # What is wrong with one does not stop the others.
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    other = Store("other")
    own_files.make_pictures(sorted(folder.iterdir()), settings, other, threads=2)
    assert len(list(Path("other/own-picture").rglob("*.png"))) == 7  # all but the broken one
    before = sorted(path.stat().st_mtime_ns for path in Path("other/own-picture").rglob("*.png"))
    own_files.make_pictures(sorted(folder.iterdir()), settings, other, threads=2)
    assert sorted(path.stat().st_mtime_ns for path in Path("other/own-picture").rglob("*.png")) == before


def test_the_balance_is_guessed_and_nothing_is_demanded(folder: Path) -> None:
    settings = {"trigger": "m4ra", "minimum": 64, "flips": [False, False], "shots": [], "whole": "m4ra, a person"}
    face = {"faces": [{"box": [0.4, 0.1, 0.6, 0.5], "score": 1.0}, {"box": [0.0, 0.0, 0.1, 0.1], "score": 1.0}]}
    said = [
        ("m4ra, a close-up portrait", None), ("m4ra in the street, full body, neon signs behind her", None),
        ("m4ra from behind, full length", None), ("m4ra at sea", face), ("m4ra in the snow", None),
        ("m4ra, a person", None), ("m4ra, a person", None),
    ]  # fmt: skip
    items = []
    for index, (text, seen) in enumerate(said):
        noise = np.random.default_rng(index).integers(0, 256, (90, 90, 3), dtype=np.uint8)
        noise[-20:, -20:] = noise[-20:, :20] = 128  # corners of chance may look like a mark
        facts = lint.facts_of(pictures.Picture(Image.fromarray(noise)))
        items.append(lint.Item(f"{index}", text, {**facts, **(seen or {})}, f"{index}.txt", f"{index}.png"))
    found = [str(one) for one in lint.lint(items[:6], settings)]
    assert found == [
        'warning: captions: 1 picture has no caption but "m4ra, a person" (5.png); write what varies, or it '
        "becomes part of the trigger",
        "note: balance: guessed for 4 of 6 pictures (3 by their captions and 1 by the size of a face): 2 close-ups, 0 "
        "medium shots, 2 of the whole figure, 1 seen from behind",
        "note: balance: hardly any medium shots, by this guess; the LoRA draws best at distances that it has seen",
    ]  # fmt: skip
    assert not any("identical" in str(one) for one in lint.lint(items, settings))
    assert "4 pictures are few" in str(lint.lint(items[:4], settings)[0])
    del settings["whole"]
    assert any("identical" in str(one) for one in lint.lint(items, settings))


def test_a_bundle_of_it_takes_every_picture_again(folder: Path) -> None:
    put(folder, "A b.png", "sub/c.png")
    one = mara()
    (Path("elsewhere/config/characters")).mkdir(parents=True)
    import yaml

    told = yaml.safe_load(portable.character_file(one))
    assert "shots" not in told and told["class"] == "person" and len(told["sample_prompts"]) == 10
    assert told["images"] == {"source": "folder", "path": "resources/characters/mara"}
    put(Path("resources/characters/mara"), *(f"{name}.png" for name in one.shot_names))
    write_yaml(MARA, told)
    again = mara(ready=True)
    assert again.shot_names == sorted(one.shot_names) and again.whole
    assert [prompt.text for prompt in again.sample_prompts] == [prompt.text for prompt in one.sample_prompts]
    assert (again.identity_full, again.kind, again.recipe) == (one.identity_full, one.kind, one.recipe)


def test_a_caption_whose_picture_is_gone_is_deleted_with_it(folder: Path) -> None:
    put(folder, "IMG_1.png", "IMG_2.png")
    written = Path("config/captions/mara")
    written.mkdir(parents=True)
    (written / "img_3.txt").write_text("m4ra smiles")
    with pytest.raises(UserError) as caught:
        mara()
    assert str(caught.value) == (
        "config/captions/mara/img_3.txt: pics has no picture img_3; delete this caption with its picture, or rename it "
        "if img_2 is meant"
    )
    folder.rename("elsewhere")
    assert sources.problems(load().characters["mara"]) == [
        f"{MARA}: images.path: there is no folder pics; correct it, or make it and put your pictures in it"
    ]
