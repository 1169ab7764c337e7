"""Every file of the user's is used, or named with why it is not; what systems leave behind is nobody's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import small_project
from PIL import Image
from small_project import edit

from charloom.config import datasets, inventory, notices
from charloom.config.character import Character
from charloom.config.project import load
from charloom.core import pictures
from charloom.core.errors import UserError
from charloom.dataset import captions, sources
from charloom.dataset.sources import folder

FOREIGN = [".DS_Store", "._a.png", "._a.txt", "Thumbs.db", "desktop.ini", ".hidden.png", "@eaDir/a.png", ".git/config"]
LOOSE = {
    "twin.jpg": "not used, because twin.png of the same name is",
    "nested/x.png": "in a subfolder, which is not searched",
    "raw.dng": "unsupported format",
    "layers.PSD": "unsupported format",
    "a.caption": "captions end in .txt; rename them",
    "b.PNG.txt": "the name of a caption has no .PNG in it",
    "lost.txt": "no picture has this name",
    "lost.TXT": "no picture has this name",
    "twin.TXT": "not read, because twin.txt is",
    "notes": "neither a picture nor a caption",
    "cache.npz": "neither a picture nor a caption",
}
USED = ["a.png", "a.txt", "b.PNG", "b.TXT", "c.JPG", "c.Txt", "d.jpeg", "e.webp", "f.bmp", "g.GIF", "h.tiff", "i.jfif",
        "j.tif", "twin.png", "twin.txt"]  # fmt: skip


def fill(place: Path, names: list[str]) -> None:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)


def one_set(place: Path, **entry: object) -> datasets.DataSet:
    found, problems = datasets.read([{"name": "s", "path": str(place), **entry}], "m4ra", "default")
    assert not problems
    return found[0]


def test_every_file_of_a_set_is_used_or_named_with_why(tmp_path: Path) -> None:
    fill(tmp_path, [*FOREIGN, *LOOSE, *USED])
    made = one_set(tmp_path)
    assert sorted(path.name for path in made.files.values()) == sorted(
        n for n in USED if Path(n).suffix.lower() != ".txt"
    )
    texts = {image: path.name for image in made.files if (path := made.caption_file(image))}
    assert texts == {"a": "a.txt", "b": "b.TXT", "c": "c.Txt", "twin": "twin.txt"}
    told = {}
    for entry in made.unused():
        names = entry.where.removeprefix(f"{tmp_path.as_posix()}/").split(", ")
        told |= dict.fromkeys(names, entry.what)
    assert set(told) == set(LOOSE)
    for name, why in LOOSE.items():
        assert why in told[name], name


def test_formats_are_read_as_far_as_libraries_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["a.avif", "b.heic", "c.png"])
    for there in (True, False):
        monkeypatch.setattr(pictures, "find_spec", lambda name, there=there: there or None)
        pictures.endings.cache_clear()
        made = one_set(tmp_path)
        assert len(made.files) == (3 if there else 1)
        assert len(made.unused()) == (0 if there else 2)
        assert there or "charloom[heif]" in made.unused()[1].what
    monkeypatch.undo()
    pictures.endings.cache_clear()


def test_many_files_of_a_kind_are_one_line(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png", *(f"nested/{i:03d}.png" for i in range(100))])
    (entry,) = one_set(tmp_path).unused()
    assert entry.where.startswith(f"{tmp_path.as_posix()}/nested/000.png, ") and entry.where.endswith(" and 92 more")


def test_captions_of_another_ending_are_one_line(tmp_path: Path) -> None:
    fill(tmp_path, [f"{index}{ending}" for index in range(5) for ending in (".png", ".caption", ".png.txt")])
    assert len(one_set(tmp_path).unused()) == 2


def test_frames_of_a_film_can_be_saved(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png", "clip.mp4"])
    assert one_set(tmp_path).unused()[0].what == "unsupported format; save frames of it as PNG, or delete it"


def test_a_set_of_unread_pictures_says_so(tmp_path: Path) -> None:
    fill(tmp_path, ["a.dng"])
    (line,) = datasets.problems([one_set(tmp_path)])
    assert "a.dng: unsupported format" in line


def of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> Path:
    monkeypatch.chdir(small_project.make(tmp_path))
    place = Path("pics")
    place.mkdir()
    for index, name in enumerate(("closeup-01", "medium-01", "fullbody-01")):
        Image.effect_noise((200 + index, 300), 90).save(place / f"{name}.png")
    edit(Path("config/characters/mara.yaml"), **{"images": {"source": "folder", "path": "pics", "count": 3}, **changes})
    return place


def mara(ready: bool = False) -> Character:
    return load(ready="mara" if ready else None, image_problems=sources.problems).characters["mara"]


def test_captions_end_in_any_case_in_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = of_folder(tmp_path, monkeypatch)
    (place / "closeup-01.TXT").write_text("m4ra")
    written = Path("config/captions/mara")
    fill(written, ["medium-01.Txt", ".DS_Store", "._closeup-01.txt", "fullbody-01.caption", "closeup-01.png.txt"])
    person = mara()
    assert [person.caption_file(shot) for shot in person.shots] == [
        place / "closeup-01.TXT",
        written / "medium-01.Txt",
        None,
    ]
    told = {entry.where: entry.what for entry in person.unused_files()}
    assert set(told) == {f"{written}/closeup-01.png.txt", f"{written}/fullbody-01.caption"}
    (written / "nobody.TXT").write_text("x")
    with pytest.raises(UserError, match=r"config/captions/mara/nobody.TXT: there is no shot called nobody"):
        mara()


def test_an_image_of_a_format_that_is_not_read_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = of_folder(tmp_path, monkeypatch)
    (place / "closeup-01.png").rename(place / "closeup-01.jxl")
    (line,) = folder.problems(mara())
    assert line == "images.path: pics/closeup-01.jxl is in an unsupported format; save it as PNG or JPEG"


@pytest.mark.parametrize(("file", "twice"), [("closeup-01.png", True), ("medium-01.png", False)])
def test_an_image_is_that_of_one_shot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, twice: bool) -> None:
    shots = [dict(shot) for shot in small_project.CHARACTER["shots"]]
    shots[1]["file"] = file
    of_folder(tmp_path, monkeypatch, shots=shots)
    lines = folder.problems(mara())
    said = "shots.medium-01.file: closeup-01.png is already the image of closeup-01; give each shot an image of its own"
    assert lines == ([said] if twice else [])


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = of_folder(tmp_path, monkeypatch).resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    sets = [{"name": "more", "path": "~/pics", "default_caption": "x"}]
    images = {"source": "folder", "path": "~/pics", "count": 3}
    edit(Path("config/characters/mara.yaml"), images=images, datasets=sets)
    person = mara(ready=True)
    assert Path(person.folder) == place == Path(person.datasets[0].folder) and len(person.datasets[0].files) == 3


def test_a_base_may_begin_at_home_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_project.make(tmp_path / "project")
    (tmp_path / "project/resources/bases/mini").rename(tmp_path / "mini")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    edit(tmp_path / "project/config/bases/mini.yaml", path="~/mini", adapters={})
    edit(tmp_path / "project/config/characters/mara.yaml", recipe={"training_adapter": "none"})
    assert Path(load(tmp_path / "project").bases["mini"].path) == tmp_path / "mini"


@pytest.mark.parametrize(
    ("written", "remedy"),
    [
        ("resources/charcters/mara", "did you mean resources/characters/mara?"),
        ("resources/characters/marra/", "did you mean resources/characters/mara?"),
        ("resources/charcters/mira", "otherwise"),  # two parts are wrong
        ("nowhere/at/all", "otherwise"),
    ],
)
def test_a_misspelt_folder_gets_the_nearest(tmp_path: Path, monkeypatch, written: str, remedy: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resources/characters/mara").mkdir(parents=True)
    assert inventory.meant(written, "otherwise") == remedy
    assert inventory.meant(tmp_path / "resources/characters/mira", "x").endswith("resources/characters/mara?")


def test_the_crop_of_a_folder_overwrites_nothing_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.JPG"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    fill(tmp_path, ["c.psd", "._a.png"])
    command = [sys.executable, str(small_project.ROOT / "scripts/crop_watermark.py"), ".", "--output", "out"]
    command += ["--right", "0", "--bottom", "0", "--minimum", "8"]
    environment = {"PYTHONPATH": str(small_project.ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["a.png", "c.psd"]


def test_files_of_the_configuration_that_are_not_read_are_named(tmp_path: Path) -> None:
    fill(tmp_path, ["a.yaml", "._a.yaml", "b.yml", "c.yaml.txt", "old/d.yaml"])
    assert [path.name for path in inventory.yaml_files(tmp_path)] == ["a.yaml"]
    named = {entry.where.removeprefix(f"{tmp_path.as_posix()}/") for entry in inventory.of_config(tmp_path)}
    assert named == {"b.yml, c.yaml.txt", "old/d.yaml"}


def test_listing_opens_no_picture_and_imports_none(tmp_path: Path) -> None:
    fill(tmp_path, ["a.png", "b.jxl"])
    assert inventory.unread_format(tmp_path, "b") == tmp_path / "b.jxl"
    assert inventory.unread_format(tmp_path, "a") is None


def test_links_out_of_a_folder(tmp_path: Path) -> None:
    """Whoever hands a data set on could point at the files of whoever trains on it."""
    outside, place = tmp_path / "outside", tmp_path / "set"
    fill(outside, ["key.txt", "deep/x.png", "deep/x.txt"])
    fill(place, ["a.png", "b.png", "b.txt"])
    (place / "a.txt").symlink_to(outside / "key.txt")
    (place / "c.png").symlink_to(outside / "deep/x.png")
    (place / "c.txt").symlink_to("b.txt")
    (place / "d.png").symlink_to(outside / "deep")
    (place / "e.png").symlink_to("nowhere")
    made = one_set(place)
    with pytest.raises(UserError, match="a.txt: is a link that leads out of its folder; put the text itself there"):
        captions.read(made.caption_file("a"))
    assert captions.read(made.caption_file("c")) == "b.txt"
    told = {unused.where: unused.what for unused in made.unused()}
    lost = {f"{place}/e.png": "a link that leads to no file; delete or repair it"}
    assert told == {**lost, f"{place}/d.png": "links to folders are not followed; put the files themselves here"}
    whole = {one.where: one.what for one in inventory.of_tree(place, made.files.values())}
    assert whole.items() >= told.items()
    assert sorted(made.files) == ["a", "b", "c"]
    small_project.make(tmp_path)
    edit(tmp_path / "config/characters/mara.yaml", datasets=[{"name": "s", "path": str(place)}])
    person = load(tmp_path).characters["mara"]
    (line,) = notices.of_links(person)
    assert (
        line.startswith(f"links lead out of the folder of pictures: {place}/c.png to ")
        and str(outside / "deep/x.png") in line
    )
