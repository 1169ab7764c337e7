"""Pictures and latents that fit into GPU memory only in tiles."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import small_project
import torch
from PIL import Image
from short_memory import failing
from torch import Tensor

from charloom.base import locks
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.paperdoll import attributes
from charloom.paperdoll.draw import draw
from charloom.workflow import latents
from charloom.zimage import vae, weights

CPU = torch.device("cpu")
MINIATURE = small_project.ROOT / "resources/bases/paperdoll"


@pytest.fixture
def autoencoder():
    return weights.load_vae(MINIATURE)


@pytest.fixture(scope="module")
def drawing() -> Tensor:
    """A training picture of the miniature's world, (1, 3, 256, 256)."""
    picture = draw(attributes.Identity(), attributes.Scene(), 256, seed=7).convert("RGB")
    return vae.from_uint8(torch.from_numpy(np.array(picture))[None])


def test_what_does_not_fit_in_one_piece_is_done_in_tiles(autoencoder, drawing, monkeypatch) -> None:
    z = vae.encode(autoencoder, drawing)
    whole = vae.decode(autoencoder, z)
    lines, tries = [], []
    for part in ("encoder", "decoder"):
        inner = getattr(autoencoder, part)
        small = 128 * 128 if part == "encoder" else 16 * 16
        fits = functools.partial(lambda limit, x: x.shape[-1] * x.shape[-2] <= limit, small)
        monkeypatch.setattr(inner, "forward", failing(inner.forward, fits, tries))
    tiled = vae.encode(autoencoder, drawing, lines.append)
    assert lines == ["encoding 256x256 does not fit into the GPU memory in one piece: in tiles of 128"]
    assert tries.count(False) == 1 and tries.count(True) == 9
    assert (tiled - z).abs().mean() < 0.2 * z.abs().mean()  # a tile normalises by itself; a wrong one is off by 1
    again = vae.decode(autoencoder, z, lines.append)
    assert len(lines) == 2 and "decoding 256x256" in lines[1]
    assert (again - whole).abs().mean() < 0.05  # of 2
    # The size is known now: no more failures, no more lines; another size is tried in one piece.
    tries.clear()
    assert torch.equal(vae.decode(autoencoder, z, lines.append), again)
    vae.decode(autoencoder, z[..., :16, :16], lines.append)
    assert all(tries) and len(lines) == 2 and not autoencoder.use_tiling


def test_one_failure_of_a_small_picture_is_told_as_what_it_is(autoencoder, drawing, monkeypatch) -> None:
    monkeypatch.setattr(autoencoder.encoder, "forward", failing(lambda x: x, lambda x: False, []))
    with pytest.raises(UserError, match="256x256 needs more GPU memory than there is, even in tiles of 128; "):
        vae.encode(autoencoder, drawing)


def test_a_wide_scene_is_decoded_in_tiles_where_memory_is_short(tiny_base, monkeypatch) -> None:
    """1920 x 1088, as a gallery has it: sides are multiples of 16, not of a tile."""
    small = weights.load_vae(tiny_base)
    noise = torch.randn(1, 16, 1088 // 8, 1920 // 8, generator=torch.Generator().manual_seed(1))
    fits = functools.partial(lambda limit, x: x.shape[-1] * x.shape[-2] <= limit, 64 * 64)
    monkeypatch.setattr(small.decoder, "forward", failing(small.decoder.forward, fits, []))
    lines: list[str] = []
    assert vae.decode(small, noise, lines.append).shape == (1, 3, 1088, 1920)
    assert lines == ["decoding 1920x1088 does not fit into the GPU memory in one piece: in tiles of 512"]


def test_latents_of_an_image_say_that_they_were_tiled(tmp_path, tiny_base, monkeypatch) -> None:
    Image.effect_noise((192, 192), 60).convert("RGB").save(tmp_path / "a.png")
    Image.effect_noise((192, 192), 60).convert("RGB").save(tmp_path / "b.png")
    lock = locks.lock({"name": "tiny", "path": str(tiny_base), "adapters": {}}, Store(tmp_path / "store"))
    tight = weights.load_vae(tiny_base)
    tight.encoder.forward = failing(tight.encoder.forward, lambda x: x.shape[-1] <= 128, [])
    monkeypatch.setattr(weights, "load_vae", lambda *_, **__: tight)
    lines: list[str] = []
    images = [tmp_path / "a.png", tmp_path / "b.png"]
    settings = {"resolutions": [128, 192], "flips": []}
    assert latents.make(images, lock, settings, Store(tmp_path / "store"), CPU, lines.append) == []
    assert lines == ["encoding 192x192 does not fit into the GPU memory in one piece: in tiles of 128"]
    assert len(list((tmp_path / "store/latents").rglob("*.safetensors"))) == 2
