"""Base weights from everywhere they may lie, known by their digests, and every failure in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import real_base
import small_project
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from small_project import edit, write_yaml

from charloom.base import files as basefiles
from charloom.base import hub, locks
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.workflow import jobs, latents, prepared, slices, texts
from charloom.zimage import singlefile, weights

ADAPTER = "adapter_v1.safetensors"
PREPARED = {"adapter": "none", "quantization": "none", "recipe": 1}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_base.build(tmp_path_factory.mktemp("real") / "base")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "base"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def local(folder: Path, **more: Any) -> dict[str, Any]:
    return {"name": "tiny", "path": str(folder), "adapters": {}, **more}


def remote(revision: str = "main", **more: Any) -> dict[str, Any]:
    return {"name": "tiny", "repo": real_base.REPO, "revision": revision, "adapters": {}, **more}


def line(call: Callable[[], object]) -> str:
    """The one line of the mistake that ``call`` raises."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_the_published_files_are_the_ones_that_the_base_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.ROOT)
    files = {p.relative_to(real_base.FIXTURES).as_posix(): p for p in real_base.FIXTURES.rglob("*.json")}
    listed = load(".", overrides={"base": "z-image-turbo"}).bases["z-image-turbo"]
    assert hub.COMMIT.fullmatch(listed.revision)
    assert all(hub.COMMIT.fullmatch(adapter["revision"]) for adapter in listed.adapters.values())
    known = {name for name in files if name != "model_index.json"}
    assert known <= set(listed.checksums)
    assert {name: listed.checksums[name] for name in known} == {name: md5(files[name]) for name in known}


def test_real_shapes_and_the_axes_of_the_config() -> None:
    model = weights.empty_transformer(real_base.FIXTURES)
    assert sum(tensor.numel() for tensor in model.parameters()) == 6_154_908_736
    assert model.config.axes_lens == [1536, 512, 512]


def test_a_config_must_spell_out_what_class_defaults_get_wrong(folder: Path) -> None:
    path = folder / "transformer/config.json"
    config = json.loads(path.read_text())
    del config["axes_lens"]
    path.write_text(json.dumps(config))
    for call in (lambda: basefiles.check_layout(folder), lambda: weights.load_transformer(folder)):
        assert "transformer/config.json: axes_lens missing, and the defaults of the class would not do" in line(call)
    path.write_text(json.dumps({**config, "_class_name": "FluxTransformer2DModel"}))
    assert "not a Z-Image" in line(lambda: basefiles.check_layout(folder))


# A single file


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_conversion_is_that_of_diffusers(original: Path, prefix: str) -> None:
    from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers as theirs

    tensors = real_base.state(original / "transformer")
    config = json.loads((original / "transformer/config.json").read_text())
    made = real_base.comfy(tensors, prefix)
    ours = singlefile.convert({**made, "vae.decoder.conv_in.weight": torch.ones(1)} if prefix else made, config)
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())
    if prefix != "diffusion_model.":  # which diffusers does not know
        stock = theirs(dict(made))
        assert stock.keys() == ours.keys() and all(torch.equal(stock[name], ours[name]) for name in ours)


@pytest.mark.parametrize("names", ["comfy", "diffusers"])
def test_a_single_file_gives_the_same_transformer(original: Path, tmp_path: Path, store: Store, names: str) -> None:
    tensors = real_base.state(original / "transformer")
    file = tmp_path / "z_image_bf16.safetensors"
    save_file(real_base.comfy(tensors) if names == "comfy" else tensors, file)
    plain, single = (
        locks.lock(local(original), store),
        locks.lock(local(original, transformer_file=str(file)), store),
    )
    changed = {name for name in plain["components"] if plain["components"][name] != single["components"][name]}
    assert changed == {"transformer"}
    outputs = []
    for number, lock in enumerate((plain, single)):
        outputs.append(tmp_path / f"{number}.safetensors")
        prepared.make(lock, PREPARED, outputs[-1], store, hub.silent)
    a, b = map(load_file, outputs)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_single_file_loads_as_in_diffusers(original: Path, tmp_path: Path) -> None:
    from diffusers import ZImageTransformer2DModel

    file = tmp_path / "single.safetensors"
    save_file(real_base.comfy(real_base.state(original / "transformer")), file)
    stock = ZImageTransformer2DModel.from_single_file(str(file), config=str(original), subfolder="transformer")
    ours = weights.load_transformer(original, single_file=file)
    assert ours.config.axes_lens == [1536, 512, 512]
    expected = stock.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


def test_a_folder_without_transformer_weights_is_enough_for_a_single_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "single.safetensors"
    save_file(real_base.comfy(real_base.state(folder / "transformer")), file)
    for path in (folder / "transformer").glob("*.safetensors*"):
        path.unlink()
    assert "has no weights" in line(lambda: basefiles.check_layout(folder))
    basefiles.check_layout(folder, single_file=True)
    assert weights.load_transformer(folder, single_file=file)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.pop("model.diffusion_model.layers.1.attention.out.weight"), "lacks 1 tensors"),
        (lambda t: t.update({"model.diffusion_model.layers.9.x": torch.ones(1)}), "also holds 1 tensors"),
        (lambda t: t.update({"model.diffusion_model.x_embedder.bias": torch.ones(65)}), "asks for (64,)"),
        (
            lambda t: t.update(
                {n: x.to(torch.float8_e4m3fn) for n, x in t.items() if n.endswith("layers.0.feed_forward.w1.weight")}
            ),
            "is quantised",
        ),
    ],
)
def test_a_wrong_single_file_is_one_line(original: Path, tmp_path: Path, spoil: Callable, told: str) -> None:
    tensors = real_base.comfy(real_base.state(original / "transformer"))
    spoil(tensors)
    file = tmp_path / "single.safetensors"
    save_file(tensors, file)
    text = line(lambda: weights.load_transformer(original, single_file=file))
    assert text.startswith(f"{file}: ") and told in text


# Which bytes


def test_a_listed_checksum_is_checked(folder: Path, store: Store) -> None:
    path = folder / "vae/config.json"
    for checksum in (md5(path), hashlib.sha256(path.read_bytes()).hexdigest()):
        assert locks.lock(local(folder, checksums={"vae/config.json": checksum}), store)
    text = line(lambda: locks.lock(local(folder, checksums={"vae/config.json": "0" * 32}), store))
    assert text.startswith(f"{path}: is not the file that config/bases/tiny.yaml means (md5 {md5(path)}")
    text = line(lambda: locks.lock(local(folder, checksums={"vae/gone.safetensors": "0" * 32}), store))
    assert "vae/gone.safetensors: is listed in config/bases/tiny.yaml and not there" in text


def test_a_file_changed_after_the_lock_is_named(folder: Path, store: Store, tmp_path: Path) -> None:
    adapter = real_base.adapter(folder, tmp_path / ADAPTER)
    lock = locks.lock(local(folder, adapters={"v1": str(adapter)}), store)
    cpu = torch.device("cpu")
    image = tmp_path / "image.png"
    image.write_bytes(b"no matter")
    uses = {
        "transformer/config.json": lambda: prepared.make(lock, PREPARED, tmp_path / "out", store, hub.silent),
        "vae/config.json": lambda: latents.make([image], lock, {"resolutions": [64], "flips": []}, store, cpu),
        "text_encoder/config.json": lambda: texts.make(["a"], lock, {}, store, cpu),
        "tokenizer/tokenizer_config.json": lambda: texts.make(["a"], lock, {}, store, cpu),
    }
    for name, use in uses.items():
        path = folder / name
        before = path.read_text()
        path.write_text(before + "\n")
        text = line(use)
        assert text.startswith(f"{path}: has changed since base tiny was locked (sha256 ")
        assert "delete work/bases/tiny.lock.json" in text
        path.write_text(before)
    adapter.write_bytes(adapter.read_bytes() + b" ")
    assert "has changed since" in line(lambda: locks.adapter_file(lock, "v1", store))
    (folder / "vae/config.json").unlink()
    assert f"{folder / 'vae/config.json'}: is gone" in line(lambda: locks.locate(lock, "vae", store))


def test_a_file_cut_short_is_named(folder: Path, store: Store) -> None:
    path = sorted((folder / "transformer").glob("*.safetensors"))[1]
    data = path.read_bytes()
    for kept in (len(data) - 1, 100, 4):
        path.write_bytes(data[:kept])
        text = line(lambda: locks.lock(local(folder), store))
        assert text.startswith(f"{path}: ") and f"{kept} bytes" in text and "get it again" in text
    path.unlink()
    text = line(lambda: basefiles.check_layout(folder))
    assert text.startswith(f"{path}: is missing, diffusion_pytorch_model.safetensors.index.json speaks of it")


# The hub


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
    assert "vae/config.json: was damaged in the hub's cache" in text and str(blob) in text


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
    "missing": (lambda: errors.RepositoryNotFoundError("404", response=response(404)), "there is no such repo"),
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
    "name": (lambda: errors.HFValidationError("bad"), "is no name of a repo; write owner/name"),
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


def test_room_on_the_disk_is_checked_before_the_prepared_base(
    original: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locks.lock(local(original), store)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    text = line(lambda: prepared.make(lock, PREPARED, tmp_path / "out.safetensors", store, hub.silent))
    assert text.startswith(f"{tmp_path / 'out.safetensors'}: needs ") and "free some space" in text


# The base's file


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_auto_leaves_no_big_base_to_the_cpu() -> None:
    lock = {"name": "z-image-turbo", "files": {"a": {"size": 12e9}, "b": {"size": 20e9}}}
    with pytest.raises(UserError, match=r"z-image-turbo \(32 GB\) wants a GPU .* or set device: cpu"):
        jobs.torch_device("auto", 1, lock=lock)
    assert jobs.torch_device("cpu", 1, lock=lock).type == "cpu"
    small = {"name": "paperdoll", "files": {"a": {"size": 2e7}}}
    assert jobs.torch_device("auto", 1, lock=small).type == "cpu"


@pytest.mark.skipif(bool(torch.version.cuda or torch.version.hip), reason="a build of torch for GPUs")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_nothing_is_fetched_for_a_torch_without_a_gpu(tmp_path: Path, device: str) -> None:
    settings = json.dumps({"name": "far", "repo": "nobody/nothing", "revision": "main", "adapters": {}})
    command = [sys.executable, small_project.ROOT / "scripts/lock_base.py", "--settings", settings]
    result = subprocess.run(
        [*command, "--output", tmp_path / "lock.json", "--store", tmp_path / "store"],
        env={**os.environ, "CHARLOOM_DEVICE": device, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and "is a build for CPUs alone" in result.stderr and "Traceback" not in result.stderr


def test_the_slice_of_a_base_says_only_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.make(tmp_path))
    plain = json.loads(slices.base_lock(load(".").bases["mini"]))
    assert set(plain) == {"name", "path", "adapters"}
    (tmp_path / "single.safetensors").write_bytes(b"")
    more = {"transformer_file": "single.safetensors", "checksums": {"vae/config.json": "0" * 64}}
    edit(tmp_path / "config/bases/mini.yaml", **more)
    mini = load(".").bases["mini"]
    assert json.loads(slices.base_lock(mini)) == plain | more
    assert "single.safetensors" in locks.local_files(mini.path, mini.adapters, mini.transformer_file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"transformer_file": "gone.safetensors"}, "transformer_file: there is no file gone.safetensors"),
        ({"transformer_file": "model.ckpt"}, "transformer_file: the text 'model.ckpt' is not valid"),
        ({"checksums": {"vae/config.json": "12"}}, "checksums.vae/config.json: the text '12' is not valid"),
    ],
)
def test_mistakes_in_the_file_of_a_base(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    small_project.make(tmp_path)
    write_yaml(tmp_path / "config/bases/mini.yaml", {**small_project.BASE, **change})
    text = line(lambda: load(tmp_path))
    assert text.startswith("config/bases/mini.yaml: ") and told in text
