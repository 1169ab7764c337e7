"""Files are written whole or not at all, and a disk that takes no more is one line."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import small_project
from PIL import Image

from charloom.core import files
from charloom.core.errors import UserError, disk_problem
from charloom.core.store import Store


def test_a_file_replaces_the_other_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    files.write_text(target, "one")
    with files.whole(target) as temporary:
        temporary.write_text("two")
        assert target.read_text() == "one" and temporary.parent == target.parent
    assert target.read_text() == "two" and os.listdir(target.parent) == ["a.txt"]
    assert stat.S_IMODE(target.stat().st_mode) & 0o044  # as readable as any file that is written plainly
    with files.whole(target, mode=0o444) as temporary:
        temporary.write_text("three")
    assert stat.S_IMODE(target.stat().st_mode) == 0o444


@pytest.mark.parametrize("error", [ValueError("x"), UserError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_what_was_there_stays_when_the_work_fails(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("one")
    with pytest.raises(type(error)), files.whole(target) as temporary:
        temporary.write_text("tw")
        raise error
    assert target.read_text() == "one" and os.listdir(tmp_path) == ["a.txt"]


def test_names_as_long_as_a_disk_takes_leave_room(tmp_path: Path) -> None:
    target = tmp_path / ("猫" * 83 + ".txt")
    files.write_text(target, "x")
    assert target.read_text() == "x"


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG]
)
def test_a_disk_that_takes_no_more_is_one_line_with_the_name(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match=r"a\.txt: (the disk|your share|files may|permission|the name)") as caught:
        with files.whole(tmp_path / "a.txt"):
            raise OSError(number, os.strerror(number))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="thing"), Store(tmp_path).put("thing", "aa"):
        raise OSError(number, os.strerror(number))


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "lora.safetensors").write_text("x")
    for target in (tmp_path / "lora.safetensors/a.txt", tmp_path / "lora.safetensors/b/a.txt"):
        with pytest.raises(UserError) as caught, files.whole(target):
            raise AssertionError
        assert str(caught.value) == (
            f"{target}: cannot be written because {tmp_path / 'lora.safetensors'} is not a folder; choose another place"
        )


def test_libraries_that_keep_no_number_are_understood_as_well() -> None:
    words = RuntimeError("I/O error: No space left on device (os error 28)")
    outer = RuntimeError("cannot save")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/x/y")
    assert disk_problem(words, "f").startswith("f: the disk is full")
    assert disk_problem(outer).startswith("/x/y: the disk is full")
    assert disk_problem(ValueError("no")) is None and disk_problem(FileNotFoundError(errno.ENOENT, "no")) is None


def test_a_file_that_cannot_be_read_is_not_blamed_on_the_one_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^/secret: permission denied"), files.whole(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "Permission denied", "/secret")


LIMITED = (
    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.argv = sys.argv[1:]; "
)
LIMITED += "runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
def test_scripts_say_it_in_one_line(tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 90).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_text("before")
    crop = {"right": 0, "bottom": 0, "minimum": 8, "recipe": 0}
    calls = {
        "crop_watermark": ["a.png", "--settings", json.dumps(crop)],
        "make_source_image": ["--user-file", "a.png", "--settings", json.dumps({"source": "folder"})],
        "write_caption": ["--settings", json.dumps({"caption": "word " * 1000})],
    }
    for name, arguments in calls.items():
        script = str(small_project.ROOT / "scripts" / f"{name}.py")
        command = [sys.executable, "-c", LIMITED, script, *arguments, "--output", "out/a.png"]
        environment = {"PYTHONPATH": str(small_project.ROOT), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 1, name
        assert result.stderr.startswith("error: out/a.png: files may not grow that large here"), result.stderr
        assert result.stderr.count("\n") == 1 and os.listdir(tmp_path / "out") == ["a.png"]
        assert (tmp_path / "out/a.png").read_text() == "before"


def test_nobody_else_replaces_files() -> None:
    for folder in ("charloom", "scripts"):
        for path in (small_project.ROOT / folder).glob("**/*.py"):
            if "paperdoll" not in path.parts and path.name != "files.py":
                assert "os.replace(" not in path.read_text(encoding="utf-8"), path
