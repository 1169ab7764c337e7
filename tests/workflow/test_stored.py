"""``stored`` of the rules' shell: what the store has is taken without Python, but only if it is what was stored."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from charloom.core import store as stores
from charloom.core.store import Store
from charloom.workflow import own_files

SMALL, LARGE = b"m4ra, smiling\n", bytes(stores.LINK_FROM_BYTES + 1)


def stored(entry: Path, output: Path, path: str | None = None) -> int:
    words = [
        shutil.which("bash"),
        "-euo",
        "pipefail",
        "-c",
        own_files.STORED + 'stored "$1" "$2" || exit 1',
        "-",
        entry,
        output,
    ]
    done = subprocess.run(words, capture_output=True, text=True, env={"PATH": path or os.environ["PATH"]})
    assert done.stderr == "" and [*output.parent.glob("*.tmp")] == []
    return done.returncode


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "dataset").mkdir()
    return tmp_path / "dataset/it's one.txt"


def put(folder: Path, data: bytes) -> Path:
    store = Store(folder / "store")
    with store.put("caption", "a" * 64, ".txt") as path:
        path.write_bytes(data)
    return store.path("caption", "a" * 64, ".txt")


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_an_entry_is_put_at_its_place_with_the_date_of_today(tmp_path: Path, output: Path, data: bytes) -> None:
    entry = put(tmp_path, data)
    os.utime(entry, (0, 0))
    assert stored(entry, output) == 0
    assert output.read_bytes() == data and output.stat().st_mtime > 10**9  # Snakemake compares dates
    assert output.samefile(entry) == (data is LARGE)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_damaged_entry_is_not_taken(tmp_path: Path, output: Path, data: bytes) -> None:
    entry = put(tmp_path, data)
    output.write_bytes(b"before")
    entry.chmod(0o644)
    with open(entry, "r+b") as file:
        file.write(b"\1")
    assert stored(entry, output) == 1
    assert output.read_bytes() == b"before"


def test_what_is_not_there_or_of_an_older_version_is_left_to_python(tmp_path: Path, output: Path) -> None:
    entry = put(tmp_path, SMALL)
    assert stored(tmp_path / "nothing", output) == 1
    entry.with_name(entry.name + stores.SUM).unlink()
    assert stored(entry, output) == 1 and not output.exists()


def test_without_tools_it_is_left_to_python(tmp_path: Path, output: Path) -> None:
    assert stored(put(tmp_path, SMALL), output, path=str(tmp_path)) == 1 and not output.exists()


def test_what_a_killed_job_has_left_is_not_written_through(tmp_path: Path, output: Path) -> None:
    """Its temporary file may be a link to an entry."""
    other, entry = put(tmp_path / "other", LARGE), put(tmp_path, SMALL)
    os.link(other, output.with_name(output.name + ".tmp"))
    assert stored(entry, output) == 0 and other.read_bytes() == LARGE
