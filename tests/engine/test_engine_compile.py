"""Compiled blocks: one function for all shapes, the same numbers, and a cache that follows the code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_project
import torch
from diffusers import ZImageTransformer2DModel
from engine_helpers import CPU, adapted, assert_same, gradients
from tiny_models import build_transformer
from torch._inductor import lowering
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from charloom.engine import compile as compiling
from charloom.engine import fuse as fusing
from charloom.engine import previews
from charloom.engine.recompute import Recompute
from charloom.lora.attach import ADAPTER
from charloom.zimage import forward


def traced(model) -> list:
    """Compile the blocks with a backend that runs what it gets; the list takes every graph that it is given."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        # Numbers would be computed with on the CPU, and compiled for it.
        assert not any(isinstance(value, torch.Tensor) and not value.ndim for value in inputs)
        return graph.forward

    compiling.compile_blocks(model, backend=backend)
    return graphs


@pytest.mark.parametrize("kind", ["none", "float8"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kept", [0, 99])
def test_compiled_blocks_are_one_function_for_all_shapes(kind, kept, fused):
    """One compilation serves all main blocks, at every resolution and caption length."""
    torch._dynamo.reset()
    model, adapter = adapted(kind=kind)
    if fused:
        fusing.fuse(compiling.blocks_of(model))
        model.__dict__["modulations"] = fusing.Modulations(model.layers)
    plain = gradients(model, adapter)
    graphs = traced(model)
    recompute = Recompute(model.layers)
    recompute.keep(kept)
    compiled = gradients(model, adapter)
    if kind == "float8":
        # On some CPUs a compiled sum differs in its last bit, and now and then that bit decides a rounding to float8.
        assert (plain[0] - compiled[0]).norm() < 1e-4 * plain[0].norm()
    else:
        torch.testing.assert_close(plain[0], compiled[0], rtol=1e-5, atol=1e-6)
    with_one_shape = len(graphs)
    for size, length in ((24, 64), (28, 32), (20, 96)):
        x, caps = torch.randn(2, 16, size, size), torch.randn(2, length, model.config.cap_feat_dim)
        pad = torch.zeros(2, length, 1, dtype=torch.bool)
        out = forward.forward(model, x, torch.tensor([0.3, 0.8]), caps, pad)
        out.sum().backward()
    assert len(graphs) == with_one_shape == 2  # noise refiner and main blocks
    seen = []
    hook = model.layers[-1].register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    gradients(model, adapter)
    hook.remove()
    hidden, mask, rotations, *others = seen[-1]
    few = hidden[:, :64].clone(), mask, rotations[:, :, :64].clone()
    assert compiling.likeness(model.layers[-1], *few, *others) > 0.9999
    assert len(graphs) == 2  # nor does a comparison compile anything
    values = [node.meta.get("example_value") for graph in graphs for node in graph.graph.nodes]
    divided = [value.shape for value in values if isinstance(value, torch.Tensor) and "//" in str(value.shape)]
    assert not divided or not fused, divided[:3]  # a compiler would carry the division through all that follows
    recompute.remove()
    compiling.plain_blocks(model)
    assert_same(plain, gradients(model, adapter))


@pytest.mark.parametrize("kept", [0, 99])
def test_compiled_float8_blocks_have_the_same_gradients(kept):
    """Our operators through all of torch's tracing: shapes, dtypes and derivatives as it sees them."""
    torch._dynamo.reset()
    model, adapter = adapted(kind="float8")
    plain = gradients(model, adapter)
    fusing.fuse(compiling.blocks_of(model))
    model.__dict__["modulations"] = fusing.Modulations(model.layers)
    compiling.compile_blocks(model, backend="aot_eager")
    recompute = Recompute(model.layers)
    recompute.keep(kept)
    compiled = gradients(model, adapter)
    assert (compiled[0] - plain[0]).norm() < 2e-2 * plain[0].norm()
    for name, wanted in plain[1].items():
        # q, k and v are rounded with one scale instead of three.
        assert (compiled[1][name] - wanted).norm() <= 0.1 * wanted.norm(), name


@pytest.mark.parametrize("wrong", ["nothing", "output", "input", "adapter", "modulation"])
def test_a_compiler_that_is_wrong_is_noticed(wrong):
    torch._dynamo.reset()
    model, adapter = adapted(kind="float8")
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:
            parameter.data.zero_()  # as at the start of training
    before = {name: parameter.clone() for name, parameter in adapter.parameters.items()}
    fusing.fuse(compiling.blocks_of(model))
    at_once = fusing.Modulations(model.layers)
    compiling.compile_blocks(model, backend="aot_eager")
    block, dim = model.layers[-1], model.config.dim
    right = block.__dict__[compiling._COMPILED]

    def spoilt(hidden, mask, rotations, modulation):
        if wrong == "input":
            return right(hidden.detach(), mask, rotations, modulation) + hidden
        if wrong == "modulation":
            modulation = torch.cat((modulation[:, :dim].detach(), modulation[:, dim:]), dim=1)
        out = right(hidden, mask, rotations, modulation)
        if wrong == "adapter":
            block.attention.to_k.lora_B[ADAPTER].weight.register_hook(torch.zeros_like)
        return out * torch.linspace(0, 1, dim) if wrong == "output" else out

    block.__dict__[compiling._COMPILED] = spoilt
    hidden, embedding = torch.randn(2, 64, dim), torch.randn(2, min(dim, 256))
    image, caption = forward.rotation_table(
        tuple(model.config.axes_dims), tuple(model.config.axes_lens), model.config.rope_theta, 32, 4, 8, CPU
    )
    found = compiling.likeness(block, hidden, None, torch.cat((image, caption), dim=2), at_once(embedding)[-1])
    assert found > 0.99 if wrong == "nothing" else found < 0.95
    assert all(torch.equal(before[name], parameter) for name, parameter in adapter.parameters.items())


def test_kernels_are_kept_beside_the_store_unless_the_user_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("CHARLOOM_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    model, _ = adapted()

    def chosen(prefer_cudnn=True):
        compiling.compile_blocks(model, prefer_cudnn)
        return os.environ["TORCHINDUCTOR_CACHE_DIR"]

    ours = chosen()
    assert ours.startswith(str(tmp_path / "compiled"))
    # The key of a compiled block does not say which attention it has.
    assert chosen(prefer_cudnn=False) != ours and chosen() == ours
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # torch does so itself
    assert chosen() == ours
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "the user's")
    assert chosen() == chosen(prefer_cudnn=False) == "the user's"
    compiling.plain_blocks(model)


def test_the_cache_follows_all_code_that_is_compiled():
    """What Dynamo traces, and what :class:`charloom.engine.previews.Adapters` puts into compiled blocks."""
    torch._dynamo.reset()
    model, _ = adapted(kind="float8")
    fusing.fuse(compiling.blocks_of(model))
    projection = model.layers[-1].feed_forward
    projection.w2 = previews._Adapted(projection.w2, torch.Size((2, 170)), torch.Size((64, 2)), torch.float32)
    seen = set()

    def backend(graph, inputs):
        seen.update(code.co_filename for code in torch._guards.TracingContext.get().traced_code)
        return graph.forward

    compiling.compile_blocks(model, backend=backend)
    x, caps = torch.randn(1, 16, 16, 16), torch.randn(1, 32, model.config.cap_feat_dim)
    with torch.no_grad():
        forward.forward(model, x, torch.tensor([0.3]), caps, torch.zeros(1, 32, 1, dtype=torch.bool))
    ours = {Path(name) for name in seen if "charloom" in Path(name).parts}
    hashed = {Path(importlib.util.find_spec(name).origin) for name in compiling.TRACED}
    assert len(ours) > 5 and ours <= hashed, ours - hashed
    compiling.plain_blocks(model)


def test_blocks_that_are_alike_are_compiled_once():
    """Noise refiners and main blocks run the same code; that one gets a view of something else must not count."""
    torch._dynamo.reset()
    config = {**build_transformer().config, "n_layers": 2, "n_refiner_layers": 2}
    model = forward.prepare(ZImageTransformer2DModel.from_config(config)).requires_grad_(False)
    fusing.fuse(compiling.blocks_of(model))
    graphs = traced(model)
    x, caps = torch.randn(2, 16, 16, 16), torch.randn(2, 32, config["cap_feat_dim"])  # 64 tokens: none is padding
    with torch.no_grad():
        forward.forward(model, x, torch.tensor([0.3, 0.8]), caps, torch.zeros(2, 32, 1, dtype=torch.bool))
    assert len(graphs) == 1
    compiling.plain_blocks(model)


def test_sizes_that_are_equal_by_chance_are_not_one_size():
    """1024 tokens are 32 groups of 32, and a batch may be as large as anything else."""
    torch._dynamo.reset()
    model, _ = adapted()
    fusing.fuse(compiling.blocks_of(model))
    graphs = traced(model)
    for size, length in ((64, 32), (96, 32), (48, 64)):
        x, caps = torch.randn(1, 16, size, size), torch.randn(1, length, model.config.cap_feat_dim)
        pad = torch.zeros(1, length, 1, dtype=torch.bool)
        forward.forward(model, x, torch.tensor([0.3]), caps, pad).sum().backward()
    assert len(graphs) == 3  # noise refiner; main blocks, whose first input has no gradient


FIRST_AND_SECOND = """
import torch
from tiny_models import build_transformer
from torch._inductor.graph import GraphLowering
from charloom.engine import compile as compiling
from charloom.kernels import quantize
from charloom.zimage import forward

found = []


class Enough(Exception):
    pass


def codegen(graph):
    made = original(graph)[0]
    found.append(made.value.split("\\n", 1)[1])  # the first line counts what was compiled
    raise Enough


original, GraphLowering.codegen = GraphLowering.codegen, codegen
model = build_transformer().to(torch.bfloat16).requires_grad_(False)
quantize.quantize(model, "float8")
quantize.set_mode(model, "emulate")
forward.prepare(model)
x, t, caps = torch.zeros(1, 16, 16, 16), torch.zeros(1), torch.zeros(1, 32, 32)
for _ in range(2):
    torch.compiler.reset()
    compiling.compile_blocks(model)
    try:
        with torch.no_grad(), compiling.by_rule():
            forward.forward(model, x, t, caps, torch.zeros(1, 32, 1, dtype=torch.bool))
    except Exception as error:
        assert isinstance(error.__cause__, Enough) or "Enough" in repr(error), error
    compiling.plain_blocks(model)
first, second = found
print("same" if first == second else "another")
"""


def test_a_block_is_compiled_alike_whatever_the_process_compiled_before(tmp_path) -> None:
    """A preview is drawn by the trainer, or by a process that does nothing else."""
    environment = {
        **os.environ,
        "CHARLOOM_STORE": str(tmp_path / "store"),
        "PYTHONPATH": os.pathsep.join([str(small_project.ROOT), str(small_project.ROOT / "tests")]),
    }
    made = subprocess.run([sys.executable, "-c", FIRST_AND_SECOND], env=environment, capture_output=True, text=True)
    assert made.stdout.split() == ["same"], made.stderr[-2000:]


def test_inductor_is_told_of_every_operator() -> None:
    compiling.compile_blocks(model := build_transformer(), backend="eager")
    compiling.plain_blocks(model)
    ours = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("charloom::")}
    assert {f"charloom::{name}" for name in compiling.OPERATORS} == ours
    assert {getattr(torch.ops.charloom, name).default for name in compiling.OPERATORS} <= lowering.needs_realized_inputs
