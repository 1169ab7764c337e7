"""Adapters below compiled blocks: which file draws, and what is drawn where blocks cannot be compiled."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import CAPTION_WIDTH, build_transformer, lora_of

from charloom.core.errors import UserError
from charloom.core.tensors import write_safetensors
from charloom.engine import previews as engine
from charloom.engine.options import EngineOptions
from charloom.lora.adapter import load_stack
from charloom.lora.network import Network
from charloom.zimage.forward import forward, prepare


@pytest.fixture
def compiled(monkeypatch, tmp_path) -> Iterator[Any]:
    """The tiny model with compiled blocks, traced by dynamo as on a GPU but run by PyTorch itself."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = prepare(build_transformer().eval().requires_grad_(False))
    engine.compile_blocks(model)
    yield model
    torch._dynamo.reset()


def inputs() -> tuple[torch.Tensor, ...]:
    """A noisy picture of 8 x 8 tokens, its timestep, and a caption without padding."""
    generator = torch.Generator().manual_seed(0)
    x, caps = torch.randn(1, 16, 16, 16, generator=generator), torch.randn(1, 32, CAPTION_WIDTH, generator=generator)
    return x, torch.full((1,), 0.4), caps, torch.zeros(1, 32, 1, dtype=torch.bool)


def test_compiled_blocks_draw_with_the_adapter_that_is_on(compiled, tmp_path) -> None:
    files = {"a": {}, "b": {}, "wide": {"rank": 8}, "dora": {"dora": True}, "time": {"below": "t_embedder."}}
    for seed, (name, kind) in enumerate(files.items()):
        write_safetensors(tmp_path / f"{name}.safetensors", lora_of(compiled, seed, **kind), {})
    plain = prepare(build_transformer().eval().requires_grad_(False))
    adapters = engine.Adapters(compiled, EngineOptions(), functools.partial(forward, compiled))
    generator = torch.Generator().manual_seed(0)
    x, caps = torch.randn(2, 16, 8, 8, generator=generator), torch.randn(2, 32, CAPTION_WIDTH, generator=generator)
    t, pad = torch.full((2,), 0.4), torch.arange(32).view(1, 32, 1) >= torch.tensor([9, 20]).view(2, 1, 1)
    seen = []
    with torch.no_grad():
        for names in ({}, {"a": 1}, {"b": 0.7}, {"dora": 1}, {}, {"wide": 1}, {"time": 1}, {"a": 1},
                      {"a": 1, "wide": 0.5}, {"a": 1, "dora": 0.5}):  # fmt: skip
            parts = [(tmp_path / f"{name}.safetensors", strength) for name, strength in names.items()]
            with adapters.applied(parts):
                found = forward(compiled, x, t, caps, pad)
            with load_stack(plain, parts) if parts else contextlib.nullcontext():
                expected = forward(plain, x, t, caps, pad)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
            seen.append(found)
    assert all((one - other).abs().max() > 1e-2 for one, other in itertools.combinations(seen[:4], 2))
    assert torch.equal(seen[0], seen[4])
    assert "forward" in compiled.layers[0].__dict__


@pytest.mark.parametrize("base_first", [True, False])
def test_the_base_alone_runs_the_code_of_a_character(compiled, tmp_path, base_first) -> None:
    """Compiling takes as long as seven pictures: once for both."""
    parts = [(tmp_path / "x.safetensors", 1.0)]
    write_safetensors(parts[0][0], lora_of(compiled, 0, rank=Network().rank), {})
    predict, graphs = functools.partial(forward, compiled), []
    adapters = engine.Adapters(compiled, EngineOptions(), predict)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        for drawn in ([], parts) if base_first else (parts, []):
            with adapters.applied(drawn):
                predict(*inputs())
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0


def test_a_file_that_was_drawn_with_leaves_nothing_behind(compiled, tmp_path) -> None:
    tensors = lora_of(compiled, 0, rank=Network().rank)
    adapters = engine.Adapters(compiled, EngineOptions(), functools.partial(forward, compiled))
    found = []
    with torch.no_grad():
        for parts in ([], [(tmp_path / "x.safetensors", 1.0)], []):
            next(value for name, value in tensors.items() if "lora_A" in name)[0, 0] = torch.inf
            write_safetensors(tmp_path / "x.safetensors", tensors, {})
            with adapters.applied(parts):
                found.append(forward(compiled, *inputs()))
    assert found[1].isnan().any() and torch.equal(found[0], found[2])


def test_a_file_of_another_model_is_told_below_compiled_blocks(compiled, tmp_path) -> None:
    wrong = {"diffusion_model.layers.9.attention.to_q.lora_A.weight": torch.zeros(4, 64)}
    wrong["diffusion_model.layers.9.attention.to_q.lora_B.weight"] = torch.zeros(64, 4)
    write_safetensors(tmp_path / "wrong.safetensors", wrong, {})
    with pytest.raises(UserError, match="belongs to another model"):
        with engine.Adapters(compiled, EngineOptions(), functools.partial(forward, compiled)).applied(
            [(tmp_path / "wrong.safetensors", 1.0)]
        ):
            pass


def test_blocks_that_cannot_be_compiled_draw_without(monkeypatch, tmp_path) -> None:
    """As without a C compiler: compiled code is an error when first called, and every picture is drawn all the same."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, plain = (prepare(build_transformer().eval().requires_grad_(False)) for _ in range(2))
    said: list[str] = []
    predict = engine.predict_for(model, EngineOptions(), SimpleNamespace(type="cuda"), said.append)
    adapters = engine.Adapters(model, EngineOptions(), predict)
    for seed, name in enumerate(("a", "b")):
        write_safetensors(tmp_path / f"{name}.safetensors", lora_of(plain, seed), {})
    x, t, caps, pad = inputs()
    with torch.no_grad():
        for names in ("a", "", "b"):
            parts = [(tmp_path / f"{name}.safetensors", 1.0) for name in names]
            with adapters.applied(parts):
                found = predict(x, t, caps, pad)
            with load_stack(plain, parts) if parts else contextlib.nullcontext():
                torch.testing.assert_close(found, forward(plain, x, t, caps, pad), rtol=1e-3, atol=1e-4)
    assert len(said) == 1 and said[0].startswith("torch.compile does not work here, drawing without (")
    torch._dynamo.reset()
