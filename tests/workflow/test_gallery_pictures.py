"""Pictures of a gallery: one after the other, each kept; whatever the order of the styles or the header, the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lora_helpers import trained
from PIL import Image
from short_memory import failing
from tiny_models import CAPTION_WIDTH

from charloom.base import locks
from charloom.core import files
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors, write_safetensors
from charloom.engine.options import EngineOptions
from charloom.lora import export
from charloom.lora.convert import convert
from charloom.lora.network import Network
from charloom.workflow import gallery
from charloom.workflow.samples import KIND, Painter, Wanted
from charloom.zimage import weights

CPU = torch.device("cpu")
HOW = {"width": 80, "height": 48, "steps": 2, "guidance": 1.0, "scale": 1.0, "recipe": 1}


def ship(path: Path, seed: int) -> Path:
    """A LoRA of rank 4 that changes what the tiny base draws."""
    network = Network(rank=4, alpha=4)
    generator = torch.Generator().manual_seed(seed)
    found = {
        name: p + 0.2 * torch.randn(p.shape, generator=generator) for name, p in trained(network).parameters.items()
    }
    export.export(path, found, network, "fp32", export.metadata(network, title="x", trigger="x", step=1, provenance={}))
    return path


@pytest.fixture
def made(tmp_path: Path, tiny_base: Path) -> gallery.Gallery:
    lock = locks.lock({"name": "tiny", "path": str(tiny_base), "adapters": {}}, Store(tmp_path / "store"))
    generator = torch.Generator().manual_seed(5)
    (tmp_path / "results/embeddings").mkdir(parents=True)
    for name in ("_empty", "_prompt-gallery-01", "_prompt-gallery-02", "_prompt-gallery-03"):
        embeds = torch.randn(9, CAPTION_WIDTH, generator=generator)
        write_safetensors(tmp_path / f"results/embeddings/{name}.safetensors", {"embeds": embeds}, {})
    return gallery.Gallery(tmp_path / "results", ship(tmp_path / "final.safetensors", 1), lock)


def wanted(made: gallery.Gallery, *styles: tuple[Path, float]) -> list[Wanted]:
    found = [made.wanted(f"gallery-{n:02d}", {**HOW, "seed": n}, styles) for n in (1, 2, 3)]
    return [one for one in found if one]


def draw(made: gallery.Gallery, some: list[Wanted], store: Store) -> list[str]:
    said: list[str] = []
    gallery.make(made, some, store, CPU, said.append, EngineOptions())
    return said


def pixels(store: Store, one: Wanted) -> np.ndarray:
    return np.array(Image.open(store.path(KIND, one.key, ".png")))


def test_what_is_done_is_kept_when_the_rest_fails(made: gallery.Gallery, tmp_path: Path, monkeypatch: Any) -> None:
    some, store = wanted(made), Store(tmp_path / "drawn")
    keep, kept = Painter.keep, []

    def full(self: Painter, one: Wanted, picture: Any) -> None:
        if len(kept) == 2:
            raise UserError("the disk is full")
        kept.append(one)
        keep(self, one, picture)

    monkeypatch.setattr(Painter, "keep", full)
    with pytest.raises(UserError, match="the disk is full"):
        draw(made, some, store)
    monkeypatch.setattr(Painter, "keep", keep)
    assert [store.has(KIND, one.key, ".png") for one in some] == [True, True, False]
    said = draw(made, some, store)
    assert len(said) == 1 and said[0].startswith("gallery-03: 80x48, 2 steps, ")
    assert draw(made, some, store) == []
    # One at a time, so that a picture does not depend on when it was interrupted.
    alone = Store(tmp_path / "alone")
    draw(made, some[2:], alone)
    assert np.array_equal(pixels(store, some[2]), pixels(alone, some[2]))


def test_styles_in_any_order_are_the_same_picture(made: gallery.Gallery, tmp_path: Path) -> None:
    one, other = (ship(tmp_path / f"{n}.safetensors", n) for n in (2, 3))
    some, turned = wanted(made, (one, 0.5), (other, 0.9)), wanted(made, (other, 0.9), (one, 0.5))
    assert [a.key for a in some] == [b.key for b in turned]
    assert not {a.key for a in some} & {b.key for b in wanted(made, (one, 0.9), (other, 0.5))}
    stores = [Store(tmp_path / name) for name in ("a", "b", "plain")]
    for store, which in zip(stores, (some, turned, wanted(made)), strict=True):
        draw(made, which[:1], store)
    assert np.array_equal(pixels(stores[0], some[0]), pixels(stores[1], turned[0]))
    assert np.abs(pixels(stores[0], some[0]).astype(int) - pixels(stores[2], wanted(made)[0])).max() > 8


def test_a_style_of_another_trainer_is_the_same_picture(made: gallery.Gallery, tmp_path: Path) -> None:
    own = ship(tmp_path / "own.safetensors", 2)
    theirs = convert(own, "kohya")
    write_safetensors(tmp_path / "theirs.safetensors", theirs.tensors, theirs.metadata)
    drawn = []
    for name in ("own", "theirs"):
        store, (first, *_) = Store(tmp_path / f"store-{name}"), wanted(made, (tmp_path / f"{name}.safetensors", 0.5))
        draw(made, [first], store)
        drawn.append(pixels(store, first).astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(16, 240), (336, 176), (1920, 1088)])
def test_sides_are_any_multiples_of_16_and_short_memory_means_tiles(
    made: gallery.Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    load = weights.load_vae

    def tight(*arguments: Any) -> Any:
        vae = load(*arguments)
        vae.decoder.forward = failing(vae.decoder.forward, lambda z: z.shape[-1] * z.shape[-2] <= 64 * 64, [])
        return vae

    monkeypatch.setattr(weights, "load_vae", tight)
    # Room for as many places as Z-Image has; the tiny base has 64.
    base = Path(shutil.copytree(made.lock["root"], tmp_path / "wide"))
    config = files.read_json(base / "transformer/config.json")
    files.write_json(base / "transformer/config.json", {**config, "axes_lens": [1536, 512, 512]})
    made.lock = locks.lock({"name": "wide", "path": str(base), "adapters": {}}, Store(tmp_path / "store"))
    one = made.wanted("gallery-01", {**HOW, "seed": 1, "steps": 1, "width": width, "height": height})
    said = draw(made, [one], Store(tmp_path / "drawn"))
    assert pixels(Store(tmp_path / "drawn"), one).shape == (height, width, 3)
    assert f"gallery-01: {width}x{height}, 1 steps" in said[-1]
    assert (len(said) == 2) == (width == 1920) and (width < 1920 or "in tiles of 512" in said[0])


def test_the_tensors_count_and_the_header_does_not(made: gallery.Gallery, tmp_path: Path) -> None:
    before = [one.key for one in wanted(made)]
    tensors, header = read_safetensors(made.lora)
    write_safetensors(tmp_path / "renamed.safetensors", tensors, {**header, "modelspec.title": "somebody"})
    again = gallery.Gallery(made.files.root, tmp_path / "renamed.safetensors", made.lock)
    assert [one.key for one in wanted(again)] == before
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    write_safetensors(tmp_path / "other.safetensors", {**tensors, name: tensors[name] * 2}, header)
    changed = gallery.Gallery(made.files.root, tmp_path / "other.safetensors", made.lock)
    assert not {one.key for one in wanted(changed)} & set(before)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\x80\x02}q\x00.", "it is a pickle"),
        (b"PK\x03\x04", "it is a pickle .* or an archive"),
        (b"", "it is empty"),
        (None, "there is no such file"),
    ],
)
def test_a_style_that_is_no_lora_is_named(made: gallery.Gallery, tmp_path: Path, content: Any, line: str) -> None:
    path = tmp_path / "style.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"style.safetensors: .*{line}"):
        wanted(made, (path, 1.0))


def test_a_truncated_style_is_named_before_anything_is_drawn(made: gallery.Gallery, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(ship(tmp_path / "whole.safetensors", 4).read_bytes()[:-100])
    with pytest.raises(UserError, match=r"style.safetensors: .*it is cut off"):
        draw(made, wanted(made, (path, 1.0)), Store(tmp_path / "drawn"))


def test_a_style_of_another_model_is_named(made: gallery.Gallery, tmp_path: Path) -> None:
    stem = "diffusion_model.layers.29.attention.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(4, 64), f"{stem}.lora_B.weight": torch.ones(64, 4)}
    write_safetensors(tmp_path / "style.safetensors", tensors, {})
    with pytest.raises(UserError, match=r"style.safetensors: .*the base has no module layers.29.attention.to_q"):
        draw(made, wanted(made, (tmp_path / "style.safetensors", 1.0)), Store(tmp_path / "drawn"))
