"""Bases from the hub: without network, with a cache, when it fails, and how a download is reported."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import real_base
import torch
from base_helpers import ADAPTER, PREPARED, cache, folder, line, local, original, remote, store  # noqa: F401
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from charloom.base import hub, locks
from charloom.core.store import Store
from charloom.workflow import prepared


def test_a_filled_cache_needs_no_network(original: Path, cache: Path, store: Store) -> None:
    root = real_base.fill_cache(cache, original)
    here = locks.lock(local(original), store)
    for revision in ("main", real_base.COMMIT):
        lock = locks.lock(remote(revision), store)
        assert lock["revision"] == real_base.COMMIT
        assert Path(lock["root"]) == root
        assert lock["components"] == here["components"]
    assert locks.locate(lock, "vae", store) == root


def test_a_moved_branch_does_not_move_a_lock(original: Path, cache: Path, store: Store, tmp_path: Path) -> None:
    real_base.fill_cache(cache, original)
    lock = locks.lock(remote(), store)
    other = Path(shutil.copytree(original, tmp_path / "other"))
    (other / "scheduler/scheduler_config.json").write_text("{}")
    real_base.fill_cache(cache, other, commit="f" * 40)
    assert Path(lock["root"]).name == real_base.COMMIT == locks.locate(lock, "scheduler", store).name
    assert locks.lock(remote(), store)["revision"] == "f" * 40


def test_a_cache_that_was_moved_is_found_again(
    original: Path, cache: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_base.fill_cache(cache, original)
    lock = locks.lock(remote(), store)
    moved = Path(shutil.move(cache, cache.with_name("moved")))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(moved))
    for link in (moved / f"models--{real_base.REPO.replace('/', '--')}/snapshots").rglob("*"):
        if link.is_symlink():
            target = moved / link.readlink().relative_to(cache)
            link.unlink()
            link.symlink_to(target)
    assert moved in locks.locate(lock, "vae", store).parents


def test_damage_in_the_cache_is_seen(original: Path, cache: Path, store: Store) -> None:
    root = real_base.fill_cache(cache, original)
    blob = (root / "vae/config.json").resolve()
    blob.write_bytes(blob.read_bytes().replace(b"0.3611", b"0.3612"))
    text = line(lambda: locks.lock(remote(), store))
    assert "vae/config.json: is damaged in the Hub's cache" in text and str(blob) in text


def test_nothing_in_the_cache_and_no_network(cache: Path, store: Store) -> None:
    text = line(lambda: locks.lock(remote(), store))
    assert "HF_HUB_OFFLINE is set" in text and f"hf download {real_base.REPO} --revision main" in text


def test_adapters_of_the_hub(original: Path, cache: Path, store: Store, tmp_path: Path) -> None:
    real_base.fill_cache(cache, original)
    kept = real_base.adapter(original, tmp_path / "adapters" / ADAPTER)
    real_base.fill_cache(cache, kept.parent, "owner/adapters", "a" * 40)
    adapters = {
        "v1": {"repo": "owner/adapters", "file": ADAPTER, "revision": "main"},
        "v2": {"repo": "owner/others", "file": ADAPTER, "revision": "main"},
        "mine": str(kept),
    }
    lock = locks.lock(remote(adapters=adapters), store)
    assert lock["adapters"]["v1"] == {**adapters["v1"], "revision": "a" * 40}
    records = {}
    for name in ("none", "v1", "mine"):
        output = tmp_path / f"{name}.safetensors"
        records[name] = prepared.make(lock, {**PREPARED, "adapter": name}, output, store, hub.silent)
    assert records["none"]["merged"] is None
    assert records["v1"]["merged"] == records["mine"]["merged"]
    assert records["v1"]["merged"]["modules"] == 8 and records["v1"]["merged"]["delta_norm"] > 0
    files = {name: (tmp_path / f"{name}.safetensors") for name in records}
    a, b, c = (load_file(files[name]) for name in ("none", "v1", "mine"))
    assert all(torch.equal(b[name], c[name]) for name in b)
    assert sum(not torch.equal(a[name], b[name]) for name in a) == 8
    # One that nobody could name a commit for costs nothing until it is used.
    text = line(lambda: locks.adapter_file(lock, "v2", store))
    assert "owner/others at main cannot be fetched" in text and "then delete work/bases/tiny.lock.json" in text


def test_a_single_file_of_the_hub_leaves_the_other_weights_there(
    original: Path, cache: Path, store: Store, tmp_path: Path
) -> None:
    save_file(real_base.comfy(real_base.state(original / "transformer")), tmp_path / "single.safetensors")
    (tmp_path / "repo/split_files").mkdir(parents=True)
    (tmp_path / "single.safetensors").rename(tmp_path / "repo/split_files/single.safetensors")
    root = real_base.fill_cache(cache, original)
    for path in (root / "transformer").glob("*.safetensors*"):
        path.unlink()
    real_base.fill_cache(cache, tmp_path / "repo", "owner/single", "b" * 40)
    where = {"repo": "owner/single", "file": "split_files/single.safetensors"}
    lock = locks.lock(remote(transformer_file=where), store)
    assert lock["transformer_file"]["revision"] == "b" * 40
    assert locks.single_file(lock, store).parts[-3:] == ("b" * 40, "split_files", "single.safetensors")
    assert "transformer/config.json" in locks._patterns(True) and "transformer/*" not in locks._patterns(True)


def response(code: int) -> Any:
    """What the client's exceptions want to have been answered."""
    return SimpleNamespace(headers={}, request=None, status_code=code)


FAILURES: dict[str, tuple[Callable[[], Exception], str]] = {
    "gated": (lambda: errors.GatedRepoError("403", response=response(403)), "it is gated; accept its terms at https"),
    "missing": (
        lambda: errors.RepositoryNotFoundError("404", response=response(404)),
        "no such repo, or it is private",
    ),
    "revision": (
        lambda: errors.RevisionNotFoundError("404", response=response(404)),
        "the repo has no such revision; take a commit from https://huggingface.co/tiny/Z-Image/commits/main",
    ),
    "file": (
        lambda: errors.RemoteEntryNotFoundError("404", response=response(404)),
        "the repo has no such file at this revision",
    ),
    "no network": (lambda: errors.LocalEntryNotFoundError("a\nb"), "huggingface.co does not answer; check the network"),
    "disk": (lambda: OSError(errno.ENOSPC, "No space left on device"), "is full; free some space or set HF_HOME"),
    "disk of xet": (lambda: RuntimeError("Data processing error: No space left on device (os error 28)"), "is full;"),
    "rights": (lambda: PermissionError(errno.EACCES, "Permission denied"), "cannot be written to; set HF_HOME"),
    "name": (lambda: errors.HFValidationError("bad"), "is not a repo name; write owner/name"),
    "other": (lambda: ValueError("odd\nthings"), "ValueError: odd; run again"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_of_the_hub_is_one_line(
    cache: Path, store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, told = FAILURES[name]

    def fail(*_: Any, **__: Any) -> None:
        raise make()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    text = line(lambda: locks.lock(remote(), store))
    assert text.startswith("config/bases/tiny.yaml: tiny/Z-Image at main cannot be fetched from the hub: ")
    assert told in text


@pytest.fixture
def online(original: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A hub that is there: it tells sizes, and a download fills the cache."""
    asked: list[str] = []
    files = [path for path in sorted(original.rglob("*")) if path.is_file()]
    siblings = [SimpleNamespace(rfilename=str(p.relative_to(original)), size=p.stat().st_size) for p in files]
    info = SimpleNamespace(sha=real_base.COMMIT, siblings=[*siblings, SimpleNamespace(rfilename="a.gif", size=10**15)])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)

    def download(repo: str, revision: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(real_base.fill_cache(cache, original, repo))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return lambda: asked


def test_a_download_is_told_and_asks_only_for_the_parts(online: Callable, store: Store) -> None:
    told: list[str] = []
    lock = locks.lock(remote(), store, told.append)
    assert lock["revision"] == real_base.COMMIT
    assert "a.gif" not in online() and "transformer/*" in online()
    assert told[0].startswith("downloading ") and "tiny/Z-Image at main" in told[0]


def test_progress_is_seen_on_the_disk(
    online: Callable, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(hub, "PROGRESS_SECONDS", 0.02)
    download, told = huggingface_hub.snapshot_download, []

    def slow(*arguments: Any, **named: Any) -> str:
        made = download(*arguments, **named)
        time.sleep(0.2)
        return made

    monkeypatch.setattr(huggingface_hub, "snapshot_download", slow)
    locks.lock(remote(), store, told.append)
    assert any(" MB/s, about 0 min left" in text for text in told)


def test_room_on_the_disk_is_checked_before_a_download(
    online: Callable, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_free", lambda folder: 1000)
    text = line(lambda: locks.lock(remote(), store))
    assert f"on the disk of {cache}, which has 0.0 MB free; free some space or set HF_HOME" in text
    assert not online()
    # What an interrupted download has left counts.
    partial = cache / "models--tiny--Z-Image/blobs/1.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"1" * 10**7)
    assert locks.lock(remote(), store)["revision"] == real_base.COMMIT
