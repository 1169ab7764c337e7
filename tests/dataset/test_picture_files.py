"""Pictures put where a character looks for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import small_project
from PIL import Image

from charloom.config import schema
from charloom.config.project import load
from charloom.core import files
from charloom.core.errors import UserError
from charloom.dataset import picture_files
from charloom.dataset.picture_files import TRASH, Changed

MARA = Path("config/characters/mara.yaml")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(small_project.make(tmp_path / "project"))
    Path("pics").mkdir()


def mara(**changes):
    images = {"source": "folder", "path": "pics", **changes.pop("images", {})}
    small_project.edit(MARA, images=images, **changes)
    return load().characters["mara"]


def whole():
    small_project.write_yaml(MARA, {"trigger": "m4ra", "images": {"source": "folder", "path": "pics"}})
    return load().characters["mara"]


def new(name: str = "new.png", seed: int = 9, **how) -> Path:
    path = Path("..", name)
    small_project.picture(path, (96, 80), seed)
    return path


def test_the_first_picture_of_a_shot_lands_under_its_name_by_its_format_not_by_what_it_is_called():
    Image.open(new()).save("../lies.exe", format="JPEG")
    path, former = picture_files.put(mara(images={"count": 3}), "medium-01", Path("../lies.exe"), expected="")
    assert path == Path("pics/medium-01.jpg") and former is None
    assert path.read_bytes() == Path("../lies.exe").read_bytes()


def test_what_is_replaced_goes_into_the_trash_and_nothing_of_the_name_is_left_to_be_taken_instead():
    character = mara(images={"count": 3})
    before = {}
    for name in ("medium-01.png", "medium-01.webp", "medium-01.txt"):
        path = Path("pics", name)
        path.write_text("m4ra") if name.endswith("txt") else small_project.picture(path, (64, 64))
        before[name] = path.read_bytes()
    seen = picture_files.version(picture_files.place(character, "medium-01").there)
    Image.open(new()).save("../new.bmp")
    path, former = picture_files.put(character, "medium-01", Path("../new.bmp"), expected=seen)
    assert picture_files.place(character, "medium-01").there == path == Path("pics/medium-01.bmp")
    assert former.read_bytes() == before["medium-01.png"] and former.parent == Path("pics", TRASH)
    assert sorted(data.read_bytes() for data in Path("pics", TRASH).iterdir()) == sorted(
        before[name] for name in ("medium-01.png", "medium-01.webp")
    )
    assert Path("pics/medium-01.txt").read_bytes() == before["medium-01.txt"]
    assert load().characters["mara"].unused_files() == []  # the trash is nobody's stray file


def test_the_same_name_within_a_second_fills_the_trash_without_loss():
    character, kept = mara(images={"count": 3}), set()
    for seed in range(4):
        source = new(seed=seed)
        picture_files.put(character, "medium-01", source)
        kept.add(source.read_bytes())
    there = {path.read_bytes() for path in [*Path("pics", TRASH).iterdir(), Path("pics/medium-01.png")]}
    assert there == kept


def test_a_picture_that_has_changed_since_is_not_replaced():
    character = mara(images={"count": 3})
    small_project.picture(Path("pics/medium-01.png"), (64, 64))
    seen = picture_files.version(Path("pics/medium-01.png"))
    small_project.picture(Path("pics/medium-01.png"), (64, 65))
    before = Path("pics/medium-01.png").read_bytes()
    for expected in (seen, ""):
        with pytest.raises(Changed, match="has changed since you saw it"):
            picture_files.put(character, "medium-01", new(), expected=expected)
    assert Path("pics/medium-01.png").read_bytes() == before and os.listdir("pics") == ["medium-01.png"]


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"<html>", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(40), b"%PDF-1.7"])
def test_what_is_no_picture_changes_nothing(data):
    character = mara(images={"count": 3})
    Path("../bad.png").write_bytes(data)
    with pytest.raises(UserError, match="^the file ") as caught:
        picture_files.put(character, "medium-01", Path("../bad.png"))
    assert "\n" not in str(caught.value) and os.listdir("pics") == []


def test_a_shot_with_a_file_of_its_own_keeps_the_name_that_the_character_file_reads():
    shots = [{**shot, **({"file": "IMG 7.jpg"} if shot["name"] == "medium-01" else {})}
             for shot in small_project.CHARACTER["shots"]]  # fmt: skip
    character = mara(images={"count": 3}, shots=shots)
    with pytest.raises(UserError, match=r"reads IMG 7.jpg, and this picture is PNG"):
        picture_files.put(character, "medium-01", new())
    Image.open(new()).save("../new.jpg")
    assert picture_files.put(character, "medium-01", Path("../new.jpg"))[0] == Path("pics/IMG 7.jpg")


def test_the_former_picture_goes_though_its_accents_are_written_otherwise_and_another_one_stays():
    shots = [{**shot, **({"file": "IMG \u00e9.png"} if shot["name"] == "medium-01" else {})}
             for shot in small_project.CHARACTER["shots"]]  # fmt: skip
    character = mara(images={"count": 3}, shots=shots)
    small_project.picture(Path("pics/IMG e\u0301.png"), (64, 64))
    before = Path("pics/IMG e\u0301.png").read_bytes()
    small_project.picture(Path("pics/img e\u0301.png"), (64, 64))
    _, former = picture_files.put(character, "medium-01", new())
    assert former.read_bytes() == before
    if os.path.normcase("A") == "A" and not Path("PICS").exists():  # here they are two pictures
        assert Path("pics/img e\u0301.png").is_file()


def test_a_name_that_stands_for_a_file_spelt_otherwise_replaces_it(monkeypatch):
    character = mara(images={"count": 3})
    small_project.picture(Path("pics/Medium-01.png"), (64, 64))
    before = Path("pics/Medium-01.png").read_bytes()
    monkeypatch.setattr(picture_files.image_folder, "of_shot", lambda *_: Path("pics/Medium-01.png"))
    _, former = picture_files.put(character, "medium-01", new())
    assert former.read_bytes() == before and not Path("pics/Medium-01.png").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where nobody makes folders")
def test_a_folder_that_cannot_be_made_is_one_line():
    with pytest.raises(UserError, match=r"/proc/nope.*; look at the folder's permissions"):
        picture_files.put(mara(images={"path": "/proc/nope", "count": 3}), "medium-01", new())


def test_a_folder_that_is_a_way_out_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    small_project.picture(Path("pics/a.png"), (64, 64))
    Path("pics/sub").mkdir()
    small_project.picture(Path("pics/sub/b.png"), (64, 64))
    character = whole()
    Path("pics/sub/b.png").unlink()
    Path("pics/sub").rmdir()
    Path("pics/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lies outside of pics"):
        picture_files.put(character, "sub-b", new())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_whole_folder_takes_more_under_safe_names_and_keeps_those_of_what_is_replaced():
    small_project.picture(Path("pics/One & two.png"), (64, 64))
    for name in ("One & two.jpg", "../../x.png", ".hidden.png", "~x.png", "a/b\\c:d.png", "reference.png", "日本.webp"):
        path = picture_files.add(whole(), name, new())
        assert path.parent == Path("pics") and path.suffix == ".png" and path.is_file()
    character = whole()
    assert len(character.shots) == 8
    name = next(shot.name for shot in character.shots if shot.file == "One & two.png")
    Image.open(new()).save("../new.webp")
    path, _ = picture_files.put(character, name, Path("../new.webp"))
    assert path == Path("pics/One & two.webp")
    assert whole().shot_names == character.shot_names


@pytest.mark.parametrize("name", ["nul.png", "COM1.jpeg", "con.tar.png", "lpt¹.png", "a. .png", f"{'x' * 79} y.png"])
def test_what_windows_keeps_for_itself_is_no_name(name):
    path = picture_files.add(whole(), name, new())
    assert files.on_any_system(path.name) and files.on_any_system(path.stem), path.name
    assert all(schema.is_name(shot) for shot in whole().shot_names)


def test_pictures_that_are_drawn_or_bought_are_not_replaced():
    drawn = load().characters["mara"]
    with pytest.raises(UserError, match="the pictures are drawn; to use your own, set images"):
        picture_files.put(drawn, "medium-01", new())
    with pytest.raises(UserError, match="only be added to a folder that is used as a whole"):
        picture_files.add(drawn, "x.png", new())
    with pytest.raises(UserError, match="there is no picture ../x"):
        picture_files.put(mara(images={"count": 3}), "../x", new())


def test_the_picture_of_an_extra_set_is_replaced_where_it_is():
    Path("more").mkdir()
    small_project.picture(Path("more/IMG_1.png"), (64, 64))
    character = mara(images={"count": 3}, datasets=[{"name": "more", "path": "more"}])
    (name,) = character.datasets[0].items
    path, former = picture_files.put(character, name, new())
    assert path == Path("more/IMG_1.png") and former.parent == Path("more", TRASH)
    assert load().characters["mara"].datasets[0].items == [name]
