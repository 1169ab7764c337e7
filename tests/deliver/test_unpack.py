"""`charloom unpack`: restores a workflow from a bundle, and refuses hostile archives before a byte is written."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import bundles
import pytest
import small_project
import torch
from cli_helpers import call, said
from PIL import Image
from small_project import edit, with_sets

from charloom.config import masking, portable, project
from charloom.core import files, last_run
from charloom.core.layout import WHOLE_MASK
from charloom.core.tensors import write_safetensors
from charloom.dataset import sources


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("bundle")
        patch.chdir(folder)
        return bundles.made(folder / "project")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh workflow without Mara and her base."""
    folder = small_project.make(tmp_path / "clone")
    for name in ("characters/mara.yaml", "bases/mini.yaml"):
        (folder / "config" / name).unlink()
    shutil.copy(small_project.ROOT / "config/bases/z-image-turbo.yaml", folder / "config/bases")
    edit(folder / "config/config.yaml", base="z-image-turbo", recipe={})
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_fresh_clone_gets_character_and_base(bundle: Path, clone: Path) -> None:
    before = tree(clone)
    result = call("unpack", str(bundle))
    assert result.exit_code == 0, said(result)
    assert set(tree(clone)) - set(before) == {"config/characters/mara.yaml", "config/bases/mini.yaml"}
    assert "\nnext: snakemake --cores 2 results/mara/final.safetensors\n" in said(result)
    character = project.load(clone).characters["mara"]
    assert character.recipe["train"]["steps"] == 100 and character.base == "mini"
    again = call("unpack", str(bundle))
    assert again.exit_code == 0 and "0 new files" in said(again)


def test_pictures_and_captions_come_back_where_the_character_looks_for_them(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = small_project.make(tmp_path / "origin")
    (origin / "mine").mkdir()
    for shot in ("closeup-01", "medium-01", "fullbody-01"):
        small_project.picture(origin / "mine" / f"{shot}.png", (300, 300))
    with_sets(origin)
    edit(origin / "config/characters/mara.yaml", images={"source": "folder", "path": "mine", "count": 3})
    monkeypatch.chdir(origin)
    bundles.pretend(origin)
    path, words = bundles.bundle(origin)
    assert path.is_file(), words
    monkeypatch.chdir(clone)
    result = call("unpack", str(path))
    assert result.exit_code == 0, said(result)
    character = project.load(clone, ready="mara", image_problems=sources.problems).characters["mara"]
    shot = character.shot("medium-01")
    assert (
        Path(sources.get("folder").inputs(character, shot)[0]).read_bytes()
        == (origin / "results/mara/dataset/medium-01.png").read_bytes()
    )
    assert character.caption_file(shot).read_text() == "a photo of m4ra, medium-01\n"
    assert list(character.datasets[0].files) == ["a-1", "a-2"]
    assert character.datasets[0].caption_file("a-2").read_text() == "a photo of m4ra, others/a-2\n"


def test_masks_come_back_where_the_character_looks_for_them(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = small_project.make(tmp_path / "origin")
    with_sets(origin)
    character = origin / "config/characters/mara.yaml"
    edit(character, images={"source": "paperdoll", "count": 3, "masks": "auto"})
    (entry,) = project.load(origin).characters["mara"].written["datasets"]
    edit(character, datasets=[{**entry, "masks": "auto"}])
    monkeypatch.chdir(origin)
    made = bundles.pretend(origin)
    mara = project.load(origin).characters["mara"]
    for number, name in enumerate(masking.masked(mara)):
        grey = io.BytesIO()
        Image.new("L", (80, 96), number).save(grey, "PNG")
        whole = torch.frombuffer(bytearray(grey.getvalue()), dtype=torch.uint8)
        made.mask(name).parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(made.mask(name), {WHOLE_MASK: whole, "64x64": torch.ones(8, 8)}, {})
    path, words = bundles.bundle(origin)
    assert path.is_file(), words
    monkeypatch.chdir(clone)
    result = call("unpack", str(path))
    assert result.exit_code == 0, said(result)
    there = project.load(clone, ready="mara", image_problems=sources.problems).characters["mara"]
    assert masking.masked(there) == masking.masked(mara) == there.image_names
    found = [masking.mask_file(there, name) for name in there.image_names]
    levels = [Image.open(file).getpixel((0, 0)) for file in found if file]
    assert levels == list(range(len(there.image_names)))
    with zipfile.ZipFile(path) as archive:
        assert b"masks/" in archive.read("README.md")


def test_a_bundle_with_all_that_there_may_be_is_taken(clone: Path, tmp_path: Path, monkeypatch) -> None:
    """A gallery with a style, a sweep of strengths, a LoRA to start from that lies elsewhere."""
    origin = small_project.make(tmp_path / "origin")
    start = tmp_path / "first.safetensors"
    write_safetensors(start, {"x": torch.ones(2)}, {"format": "pt"})
    (origin / "ink.safetensors").touch()
    edit(
        origin / "config/characters/mara.yaml",
        gallery=[{"prompt": "{trigger} at sea", "styles": [{"file": "ink.safetensors"}]}],
        recipe={"network": {"init": str(start)}},
    )
    monkeypatch.chdir(origin)
    made = bundles.pretend(origin)
    for path in (made.strengths, made.gallery, made.scene("01")):
        files.write_text(path, "{}")
    path, words = bundles.bundle(origin, *(str(one.relative_to(origin)) for one in (made.strengths, made.gallery)))
    assert path.is_file(), words
    again = call("unpack", str(path))  # where it was made: the character says the same, wherever its LoRA lies
    assert again.exit_code == 0 and "0 new files" in said(again)
    monkeypatch.chdir(clone)
    result = call("unpack", str(path))
    assert result.exit_code == 0, said(result)
    character = project.load(clone).characters["mara"]
    assert character.init == Path("resources/loras/mara-start.safetensors")
    assert character.init.read_bytes() == start.read_bytes() and not character.gallery[0].styles
    write_safetensors(start, {"x": torch.zeros(2)}, {"format": "pt"})  # another one by the same name
    monkeypatch.chdir(origin)
    assert "exists already with other contents" in said(call("unpack", str(path)))


def test_a_home_in_the_header_of_the_first_lora_stays_here(tmp_path: Path, monkeypatch) -> None:
    origin = small_project.make(tmp_path / "origin")
    monkeypatch.chdir(origin)
    write_safetensors(origin / "first.safetensors", {"x": torch.ones(2)}, {"made in": f"{origin}/notes"})
    edit(origin / "config/characters/mara.yaml", recipe={"network": {"init": "first.safetensors"}})
    bundles.pretend(origin)
    path, words = bundles.bundle(origin)
    assert not path.exists() and "mara-start.safetensors: its header: holds the path of your project folder" in words


def test_a_hand_written_caption_of_a_drawn_picture_comes_back(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = small_project.make(tmp_path / "origin")
    files.write_text(origin / "config/captions/mara/medium-01.txt", "m4ra as I see her")
    monkeypatch.chdir(origin)
    bundles.pretend(origin)
    path, words = bundles.bundle(origin)
    assert path.is_file(), words
    monkeypatch.chdir(clone)
    assert call("unpack", str(path)).exit_code == 0
    assert {p.name for p in (clone / "config/captions/mara").iterdir()} == {"medium-01.txt"}


def test_a_character_that_is_there_to_the_same_effect_stays(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    """Such as the shipped ones, with their comments; whether config.yaml or a profile has the settings."""
    monkeypatch.chdir(folder := small_project.make(tmp_path / "same"))
    last_run.remember(["mara"], {"recipe": small_project.CONFIG["recipe"]}, [])
    for recipe in (small_project.CONFIG["recipe"], {}):
        edit(folder / "config/config.yaml", recipe=recipe)
        before = tree(folder)
        assert call("unpack", str(bundle)).exit_code == 0 and tree(folder) == before


def test_nothing_is_overwritten(bundle: Path, clone: Path) -> None:
    small_project.write_yaml(clone / "config/bases/mini.yaml", small_project.BASE)
    small_project.write_yaml(clone / "config/characters/mara.yaml", {**small_project.CHARACTER, "name": "Another"})
    before = tree(clone)
    result = call("unpack", str(bundle))
    assert result.exit_code == 1 and "exists already with other contents and is not overwritten" in said(result)
    assert tree(clone) == before


def test_another_trainer_is_told(bundle: Path, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charloom.cli.deliver.RECIPE", 99)
    result = call("unpack", str(bundle))
    assert result.exit_code == 0 and "makes different bytes than the bundle's in: train" in said(result)


def test_a_base_that_lies_elsewhere_is_a_remark(bundle: Path, clone: Path) -> None:
    small_project.write_yaml(clone / "config/bases/mini.yaml", {**small_project.BASE, "path": "resources/bases"})
    own = (clone / "config/bases/mini.yaml").read_bytes()
    result = call("unpack", str(bundle))
    assert result.exit_code == 0 and "yours is in another place than the bundle's" in said(result)
    assert (clone / "config/bases/mini.yaml").read_bytes() == own


@pytest.mark.parametrize("text", ["a: &a [x, x]\nb: &b [*a, *a]\n", "a: " + "[" * 600])
def test_settings_that_blow_up_are_refused(bundle: Path, clone: Path, tmp_path: Path, text: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        members["config/bases/mini.yaml"] = text.encode()

    before = tree(clone)
    result = call("unpack", str(rewritten(bundle, tmp_path / "bomb.zip", change)))
    assert result.exit_code == 1 and "refers to parts of itself or is nested too deeply" in said(result)
    assert tree(clone) == before


def test_a_disk_that_fills_up_leaves_nothing(bundle: Path, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real, calls = tree(clone), files.whole, []

    def full(target: Path, **options: object):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(target))
        return real(target, **options)

    monkeypatch.setattr(files, "whole", full)
    result = call("unpack", str(bundle))
    assert result.exit_code == 1 and "the disk is full" in said(result) and len(calls) == 2
    assert tree(clone) == before


def rewritten(bundle: Path, target: Path, change: Callable[[dict[str, bytes]], None], honest: bool = True) -> Path:
    """The bundle with other members; ``honest``: with a table that fits them."""
    with zipfile.ZipFile(bundle) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    if honest:
        table = json.loads(members["manifest.json"])
        table["files"] = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)}
                          for n, c in members.items() if n != "manifest.json"}  # fmt: skip
        members["manifest.json"] = json.dumps(table).encode()
    with zipfile.ZipFile(target, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return target


def put(name: str, content: bytes = b"x") -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


def character(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        for name in ("config/characters/mara.yaml", "config/bases/mini.yaml"):
            members[name] = members[name].replace(old, new)

    return change


def table(**changes: object) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update(
        {"manifest.json": json.dumps({**json.loads(members["manifest.json"]), **changes}).encode()}
    )


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "up": (put("dataset/../../evil.txt"), "would leave its folder"),
    "absolute": (put("/etc/evil"), "would leave its folder"),
    "backslash": (put("dataset\\..\\evil.txt"), "would leave its folder"),
    "drive": (put("C:/evil.txt"), "would leave its folder"),
    "home": (put("~/evil.txt"), "would leave its folder"),
    "hidden": (put("dataset/.bashrc"), "is hidden"),
    "a device": (put("gallery/Nul.tar.png"), "cannot be a file on Windows"),
    "a dot at the end": (put("gallery/a./b.png"), "cannot be a file on Windows"),
    "control characters": (put("dataset/a\x1b[2J.png"), "would leave its folder"),
    "another case": (put("README.MD"), "twice"),
    "foreign": (put("setup.py"), "setup.py does not belong in a bundle"),
    "foreign code": (put("rules/train.smk"), "rules/train.smk does not belong"),
    "bomb": (put("gallery/zeros.png", b"\0" * 2**22), ""),
    "a base elsewhere": (character(b"path: resources/bases/mini", b"path: /etc"), "lies outside of the workflow"),
    "a base above": (character(b"path: resources/bases/mini", b"path: ../x"), "lies outside of the workflow"),
    "another base": (character(b"base: mini", b"base: other"), "does not fit the rest"),
    "an object of Python": (
        character(b"name: Mara", b"name: !!python/object:os.system {}"),
        "config/characters/mara.yaml",
    ),
    "a captioner": (
        character(b"trigger:", b"captions: {captioner: {model: x, base_url: 'http://evil/v1'}}\ntrigger:"),
        "does not fit the rest",
    ),
    "a LoRA to start from that is not there": (
        character(b"  network:\n", b"  network:\n    init: x.safetensors\n"),
        "does not fit the rest",
    ),
    "no base at all": (character(b"base: mini\n", b""), "does not fit the rest"),
    "an unknown key": (character(b"trigger:", b"shell: rm\ntrigger:"), "shell"),
    "a name with a slash": (table(character="../../x"), "is damaged"),
    "sets above": (table(sets=[".."]), "is damaged"),
    "another version": (table(version=2), "this charloom reads 1; update it"),
    "no table": (put("manifest.json", b"[]"), "is not the table"),
}


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ("bomb", "no table")])
def test_hostile_bundles_are_one_line_and_write_nothing(bundle: Path, clone: Path, tmp_path: Path, kind: str) -> None:
    change, words = HOSTILE[kind]
    path = rewritten(bundle, tmp_path / "evil.zip", change)
    before = tree(tmp_path)
    result = call("unpack", str(path))
    lines = said(result).splitlines()
    assert result.exit_code == 1 and len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], lines
    assert "\x1b" not in lines[0] and tree(tmp_path) == before


def special(target: Path, info: zipfile.ZipInfo, content: bytes) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(info, content)
    return target


def test_a_link_a_bomb_and_a_double_entry_are_refused(clone: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("dataset/a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    zeros = zipfile.ZipInfo("dataset/b.png")
    zeros.compress_type = zipfile.ZIP_DEFLATED
    double = tmp_path / "double.zip"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(double, "w") as file:
        file.writestr("README.md", "1")
        file.writestr("README.md", "2")
    cases = {
        "is a link or a device": special(tmp_path / "link.zip", link, b"/etc/passwd"),
        "like a zip bomb": special(tmp_path / "bomb.zip", zeros, b"\0" * 2**23),
        "twice": double,
    }
    for words, path in cases.items():
        result = call("unpack", str(path))
        assert result.exit_code == 1 and words in said(result) and said(result).count("\n") == 1, said(result)
    assert not (clone / "dataset").exists()


def test_a_size_that_lies_is_not_believed(bundle: Path, clone: Path, tmp_path: Path) -> None:
    """An entry that promises little and unpacks to a lot: what is read ends where the entry promises."""
    data = bytearray(bundle.read_bytes())
    with zipfile.ZipFile(bundle) as file:
        info = file.getinfo("report.html")
    start = data.rindex(b"report.html") - 46  # the central directory
    data[start + 24 : start + 28] = (2).to_bytes(4, "little")
    (tmp_path / "lies.zip").write_bytes(data)
    result = call("unpack", str(tmp_path / "lies.zip"))
    assert info.file_size > 2 and result.exit_code == 1 and "report.html" in said(result)


def test_members_before_the_beginning_of_the_file_are_one_line(bundle: Path, clone: Path, tmp_path: Path) -> None:
    data = bytearray(bundle.read_bytes())
    offset = data.rindex(b"PK\x05\x06") + 16  # of the central directory, in the last record
    there = int.from_bytes(data[offset : offset + 4], "little")
    # Readers take the difference for bytes put in front, here a negative number of them: every member moves.
    data[offset : offset + 4] = (there + len(data)).to_bytes(4, "little")
    (tmp_path / "moved.zip").write_bytes(data)
    result = call("unpack", str(tmp_path / "moved.zip"))
    assert result.exit_code == 1 and "get the bundle again" in said(result) and "Traceback" not in said(result)


def test_a_changed_or_missing_member_is_noticed(bundle: Path, clone: Path, tmp_path: Path) -> None:
    changed = rewritten(bundle, tmp_path / "1.zip", put("dataset/medium-01.txt", b"m4ra smokes"), honest=False)
    assert "dataset/medium-01.txt is not what manifest.json says" in said(call("unpack", str(changed)))
    lost = rewritten(bundle, tmp_path / "2.zip", lambda members: members.pop("report.html"), honest=False)
    assert "report.html is missing" in said(call("unpack", str(lost)))
    none = rewritten(bundle, tmp_path / "3.zip", HOSTILE["no table"][0], honest=False)
    assert "is not the table" in said(call("unpack", str(none)))


def test_a_file_that_is_no_whole_archive_is_one_line(bundle: Path, clone: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(bundle.read_bytes()[:-2000])
    (tmp_path / "text.zip").write_text("hello")
    for path in (tmp_path / "cut.zip", tmp_path / "text.zip", tmp_path):
        assert "is not a complete zip file" in said(call("unpack", str(path)))
    assert "there is no such file" in said(call("unpack", "nothing.zip"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("README.md", "x")
    assert "contains no manifest.json" in said(call("unpack", str(tmp_path / "other.zip")))


def test_it_needs_a_workflow(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no config/config.yaml here" in said(call("unpack", str(bundle)))


PATHS = {"a/b": True, "./a": True, "..a/b": True, "a/../b": False, "/a": False, "~/a": False, "c:a": False,
         "\\\\host\\a": False}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_stay_inside(path: str) -> None:
    assert portable.is_inside(path) is PATHS[path]
