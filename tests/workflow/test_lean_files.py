"""Snakemake's digests of what jobs have read: the same as without charloom, and one reading of a file for many jobs."""

from __future__ import annotations

import asyncio
import hashlib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake import io

from charloom.workflow import lean_files, swaps

import_module("snakemake.cli")

THRESHOLD = 100


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The files that were read for their digests."""
    seen: list[str] = []
    plain = hashlib.file_digest

    def file_digest(file: Any, algorithm: Any) -> Any:
        seen.append(Path(file.name).name)
        return plain(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", file_digest)
    lean_files.hash_once()
    yield seen
    swaps.undo()


def digest(path: Path, threshold: int = THRESHOLD) -> str | None:
    """What Snakemake records of a file, asked anew as for another job."""
    rule = SimpleNamespace(workflow=SimpleNamespace(iocache=SimpleNamespace(active=False)))
    file = io._IOFile(str(path), rule=None)
    file.rule = rule
    found: str | None = asyncio.run(file.checksum(threshold))
    return found


def expected(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_file_is_read_once_for_all_jobs_and_again_after_a_change(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"one")
    assert [digest(path), digest(path)] == [expected(b"one")] * 2
    assert read == ["checkpoint"]
    path.with_name("new").write_bytes(b"two")
    path.with_name("new").replace(path)
    assert digest(path) == expected(b"two")


def test_missing_and_large_files_have_no_digest(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "checkpoint"
    assert digest(path) is None
    path.write_bytes(b"x" * (THRESHOLD + 1))
    assert digest(path) is None
    assert digest(path, 2 * THRESHOLD) == expected(b"x" * (THRESHOLD + 1))
    assert digest(path) is None, "known, but larger than this run wants to know"
