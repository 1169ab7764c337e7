"""The store publishes whole entries or none; equal settings have equal digests; errors are one line."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from charloom.core.canonical import canonical_json, digest, file_digest
from charloom.core.errors import UserError
from charloom.core.store import LINK_FROM_BYTES, Store

KEY = "ab" * 32


def put(store: Store, data: bytes, key: str = KEY) -> None:
    with store.put("thing", key, ".bin") as path:
        path.write_bytes(data)


def test_canonical_json_has_one_spelling() -> None:
    value = {"b": [1, 2.0, 1e-4], "a": (True, None, "ü")}
    assert canonical_json(value) == '{"a":[true,null,"\\u00fc"],"b":[1,2.0,0.0001]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_without_a_canonical_form(value: float) -> None:
    with pytest.raises(ValueError, match="canonical"):
        canonical_json({"a": value})


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1, 2}}, {"a": Path("x")}])
def test_objects_without_a_canonical_form(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_file_digest(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"charloom")
    assert file_digest(file) == hashlib.sha256(b"charloom").hexdigest()


def test_put_then_fetch(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    output = tmp_path / "results" / "x.bin"
    assert not store.has("thing", KEY, ".bin")
    assert not store.fetch("thing", KEY, ".bin", output)
    assert not output.exists()
    put(store, b"data")
    assert store.path("thing", KEY, ".bin") == tmp_path / "store" / "thing" / "ab" / f"{KEY}.bin"
    os.utime(store.path("thing", KEY, ".bin"), (1, 1))
    assert store.fetch("thing", KEY, ".bin", output)
    assert output.read_bytes() == b"data"
    assert output.stat().st_mtime > 1e9
    assert [path.name for path in output.parent.iterdir()] == ["x.bin"]


def test_small_outputs_are_copies_and_large_ones_links(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, b"small", "aa11")
    put(store, bytes(LINK_FROM_BYTES), "bb22")
    for key, linked in (("aa11", False), ("bb22", True)):
        output = tmp_path / key
        output.write_bytes(b"old")
        assert store.fetch("thing", key, ".bin", output)
        assert os.path.samefile(output, store.path("thing", key, ".bin")) is linked


def test_a_failed_put_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.put("thing", KEY, ".bin") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert not store.has("thing", KEY, ".bin")
    assert list((tmp_path / "thing" / "ab").iterdir()) == []


def test_entries_are_read_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, b"data")
    assert store.path("thing", KEY, ".bin").stat().st_mode & 0o222 == 0
    put(store, b"data")  # again is not an error


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_names_cannot_leave_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        Store(tmp_path).path("thing", name)


def _count_up(root: Path, file: Path) -> None:
    for _ in range(20):
        with Store(root).lock("counter"):
            file.write_text(str(int(file.read_text()) + 1))


@pytest.mark.parametrize("size", [10, LINK_FROM_BYTES])
def test_a_damaged_entry_is_put_aside_and_made_again(tmp_path: Path, size: int) -> None:
    """A flipped bit on the disk: not fetched, and found by ``has`` where somebody may read the entry itself."""
    store, output = Store(tmp_path / "store"), tmp_path / "out"
    for act in (store.fetch, lambda *entry: store.has(*entry[:3]) and store.fetch(*entry)):
        put(store, bytes(size))
        entry = store.path("thing", KEY, ".bin")
        entry.chmod(0o644)
        entry.write_bytes(bytes(size - 1) + b"\x01")
        assert not act("thing", KEY, ".bin", output)
        assert not output.exists() and not store.has("thing", KEY, ".bin")
        assert entry.with_name(entry.name + ".damaged").is_file()
    put(store, bytes(size))
    assert store.fetch("thing", KEY, ".bin", output) and output.read_bytes() == bytes(size)


def test_an_entry_without_a_digest_is_trusted(tmp_path: Path) -> None:
    """Stores of older versions have none."""
    store = Store(tmp_path / "store")
    put(store, b"data")
    entry = store.path("thing", KEY, ".bin")
    digest_file = entry.with_name(entry.name + ".sha256")
    assert digest_file.read_text() == hashlib.sha256(b"data").hexdigest()
    digest_file.unlink()
    assert store.has("thing", KEY, ".bin") and store.fetch("thing", KEY, ".bin", tmp_path / "out")
    store.remove(entry)
    assert not list(entry.parent.iterdir())


def test_a_copy_that_is_not_what_was_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    put(store, b"data")
    assert not store.differs("thing", KEY, ".bin", hashlib.sha256(b"data").hexdigest())
    assert store.differs("thing", KEY, ".bin", hashlib.sha256(b"dato").hexdigest())
    assert not store.differs("thing", "cd" * 32, ".bin", "")  # unknown


def test_fetched_files_reach_the_disk_before_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a file is whole, or is not there."""
    store, synced = Store(tmp_path / "store"), []
    put(store, b"data")
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    output = tmp_path / "out"
    assert store.fetch("thing", KEY, ".bin", output)
    assert synced == [output.stat().st_ino]


def test_the_lock_excludes_other_processes(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count_up, args=(tmp_path, file)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert file.read_text() == "40"


def run_cli(body: str) -> subprocess.CompletedProcess[str]:
    code = f"from charloom.core.errors import UserError, cli\ndef main():\n    {body}\ncli(main)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_user_errors_are_lines_without_a_traceback() -> None:
    result = run_cli("raise UserError.several(['a: wrong', 'b: wrong'])")
    assert (result.returncode, result.stderr) == (1, "error: a: wrong\nerror: b: wrong\n")
    assert run_cli("pass").returncode == 0


def test_bugs_keep_their_traceback() -> None:
    result = run_cli("raise KeyError('x')")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_messages_do_not_steer_the_terminal() -> None:
    assert str(UserError("a\x1b[2J\x07\u202eb\tü\nc")) == "a\\x1b[2J\\x07\\u202eb\tü\nc"
    long = str(UserError("x" * 10**6))
    assert len(long) < 2100 and long.endswith("x… (1,000,000 characters)")


def test_several_joins_lines() -> None:
    assert str(UserError.several(["a", "b"])) == "a\nb"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_who_is_not_root_gets_a_large_entry(tmp_path):
    """Entries are read-only, and a large one is linked into place."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if "pytest-of-" in str(parent):
            parent.chmod(0o755)

    def work() -> None:
        os.setuid(65534)
        store = Store(tmp_path / "store")
        with store.put("checkpoint", "a1", ".bin") as path:
            path.write_bytes(bytes(LINK_FROM_BYTES + 1))
        assert store.fetch("checkpoint", "a1", ".bin", tmp_path / "results" / "x" / "a.bin")

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
