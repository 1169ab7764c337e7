"""Base weights from every possible source, identified by their digests, and every failure in one line."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import real_base
import small_project
import torch
from base_helpers import ADAPTER, PREPARED, cache, folder, line, local, original, remote, store  # noqa: F401
from safetensors.torch import load_file, save_file
from small_project import edit, write_yaml

from charloom.base import files as basefiles
from charloom.base import hub, locks
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.kernels import quantize
from charloom.workflow import jobs, latents, prepared, slices, texts
from charloom.zimage import singlefile, weights


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
        assert "transformer/config.json: axes_lens missing, and the class defaults are not those of Z-Image" in line(
            call
        )
    path.write_text(json.dumps({**config, "_class_name": "FluxTransformer2DModel"}))
    assert "not Z-Image" in line(lambda: basefiles.check_layout(folder))


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
            "is quantized",
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
    assert text.startswith(f"{path}: is not the file that config/bases/tiny.yaml lists (md5 {md5(path)}")
    text = line(lambda: locks.lock(local(folder, checksums={"vae/gone.safetensors": "0" * 32}), store))
    assert "vae/gone.safetensors: is listed in config/bases/tiny.yaml but missing" in text


def test_all_files_of_another_model_are_named_at_once(folder: Path, store: Store) -> None:
    """As of one that was saved anew: each would be a run that ends after minutes of reading."""
    names = ("transformer/config.json", "vae/config.json", "vae/gone.safetensors", "vae/lost.safetensors")
    text = line(lambda: locks.lock(local(folder, checksums=dict.fromkeys(names, "0" * 32)), store))
    assert text == (
        f"{folder}: does not have the files that config/bases/tiny.yaml lists (other checksums: "
        "transformer/config.json, vae/config.json; missing: vae/gone.safetensors, vae/lost.safetensors); "
        "get them again, or remove their lines from checksums if this is the model you want"
    )


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
    assert f"{folder / 'vae/config.json'}: is missing" in line(lambda: locks.locate(lock, "vae", store))


def test_a_file_cut_short_is_named(folder: Path, store: Store) -> None:
    path = sorted((folder / "transformer").glob("*.safetensors"))[1]
    data = path.read_bytes()
    for kept in (len(data) - 1, 100, 4):
        path.write_bytes(data[:kept])
        text = line(lambda: locks.lock(local(folder), store))
        assert text.startswith(f"{path}: ") and f"{kept} bytes" in text and "download it again" in text
    path.unlink()
    text = line(lambda: basefiles.check_layout(folder))
    assert text.startswith(f"{path}: is missing, but diffusion_pytorch_model.safetensors.index.json lists it")


def test_room_on_the_disk_is_checked_before_the_prepared_base(
    original: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = locks.lock(local(original), store)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    text = line(lambda: prepared.make(lock, PREPARED, tmp_path / "out.safetensors", store, hub.silent))
    assert text.startswith(f"{tmp_path / 'out.safetensors'}: needs ") and "free some space" in text


@pytest.mark.parametrize("work", ["make", "load"])
def test_what_a_gpu_has_no_room_for_is_done_by_the_cpu(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, said = [], []

    def tight(*arguments: Any) -> str:
        asked.append(str(arguments[-1]))
        if asked[-1] != "cpu":
            raise torch.OutOfMemoryError
        return "done"

    monkeypatch.setattr(prepared, {"make": "_made", "load": "_loaded"}[work], tight)
    if work == "make":
        assert prepared.make({}, {}, Path("out"), Store("store"), said.append, torch.device("cuda")) == "done"
        assert said == ["the GPU has no room to prepare the base now: the CPU does it, which takes longer"]
    else:
        assert prepared.load({}, Path("base"), torch.bfloat16, torch.device("cuda")) == "done"
    assert asked == ["cuda", "cpu"]


# The base's file


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_auto_leaves_no_big_base_to_the_cpu() -> None:
    lock = {"name": "z-image-turbo", "files": {"a": {"size": 12e9}, "b": {"size": 20e9}}}
    with pytest.raises(UserError, match=r"z-image-turbo \(32 GB\) needs a GPU .* or set device: cpu"):
        jobs.torch_device("auto", 1, lock=lock)
    assert jobs.torch_device("cpu", 1, lock=lock).type == "cpu"
    small = {"name": "paperdoll", "files": {"a": {"size": 2e7}}}
    assert jobs.torch_device("auto", 1, lock=small).type == "cpu"


def test_one_of_apples_gpus_is_taken_for_a_big_base_and_never_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    lock = {"name": "z-image-turbo", "files": {"a": {"size": 32e9}}}
    assert jobs.torch_device("auto", 1, lock=lock) == torch.device("mps") == jobs.torch_device("mps", 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="device mps: torch finds none of Apple's GPUs; set device: auto"):
        jobs.torch_device("mps", 1)


@pytest.mark.parametrize("kind", ["float8", "nf4", "int8", "bf16"])
def test_what_apples_gpus_cannot_hold_is_said_before_anything_is_loaded(kind: str) -> None:
    if kind in ("int8", "bf16"):
        assert quantize.check(kind, torch.device("mps")) is None
        return
    with pytest.raises(UserError, match=f"quantization {kind}: Apple's GPUs cannot hold it; set int8 or bf16"):
        quantize.quantize(torch.nn.Module(), kind, torch.device("mps"))
    assert quantize.check(kind, "cuda") is quantize.check(kind, "cpu") is quantize.check(kind, None) is None


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
    assert result.returncode == 1 and "is a CPU-only build" in result.stderr and "Traceback" not in result.stderr


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
