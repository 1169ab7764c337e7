"""Quantized Linears: their accuracy, correct gradients in every mode, and base, adapters and text encoder on top."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quantize_helpers import WAYS, Blocks, error, quantised, vary
from tiny_models import build_transformer
from torch import nn

from charloom.core.errors import UserError
from charloom.kernels import products
from charloom.kernels import quantize as q
from charloom.kernels.linears import Float8Linear, Int8Linear

WEIGHT_ERROR = {"float8": 0.03, "int8": 0.01, "nf4": 0.1}
"""Largest relative error (Frobenius) of normally distributed weights."""


# One Linear


@pytest.mark.parametrize("kind", q.KINDS)
def test_weights_are_kept_within_the_bounds_of_their_kind(kind):
    linear, weight = quantised(kind)
    assert isinstance(linear, nn.Linear) and (linear.in_features, linear.out_features) == (256, 192)
    assert not linear.weight.requires_grad and linear.scale.dtype == torch.float32
    assert error(linear.dense(), weight) < WEIGHT_ERROR[kind]
    assert linear.dense(torch.bfloat16).dtype == torch.bfloat16
    bits = 8 * (linear.weight.nbytes + linear.scale.nbytes) / weight.numel()
    assert bits < (4.6 if kind == "nf4" else 8.2)


@pytest.mark.parametrize(
    ("kind", "largest", "dtype"), [("float8", 448, torch.float8_e4m3fn), ("int8", 127, torch.int8)]
)
def test_every_row_uses_the_whole_range(kind, largest, dtype):
    model = Blocks()
    with torch.no_grad():
        model.layers[0].weight[:96] *= 1000.0  # a scale for all would lose the other rows
        model.layers[0].weight[7] = 0.0
    weight = model.layers[0].weight.detach().clone()
    q.quantize(model, kind)
    linear = model.layers[0]
    assert linear.weight.dtype == dtype and linear.weight_scale.shape == (192, 1)
    full = linear.weight.float().abs().amax(dim=1)
    assert full[7] == 0 and (full[torch.arange(192) != 7] == largest).all()
    assert torch.isfinite(linear.dense()).all()
    assert error(linear.dense()[96:], weight[96:]) < WEIGHT_ERROR[kind]


@pytest.mark.parametrize(("kind", "mode"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_against_the_dense_weight(kind, mode, dtype):
    linear, weight = quantised(kind, mode, bias=True)
    x = vary(2, 7, 256).to(dtype).requires_grad_()
    g = vary(2, 7, 192, seed=5).to(dtype)
    out = linear(x)
    assert out.dtype == dtype and out.shape == (2, 7, 192)
    (found,) = torch.autograd.grad(out, x, g)
    assert found.dtype == dtype
    wide = x.detach().float().requires_grad_()
    expected = F.linear(wide, linear.dense(), linear.bias)
    (gradient,) = torch.autograd.grad(expected, wide, g.float())
    # With widened weights only the rounding of the dtype is left, on the units that of input and gradient.
    bound = 0.04 if mode == "emulate" else 1e-6 if dtype == torch.float32 else 0.005
    assert error(out, expected) < bound and error(found, gradient) < bound
    # And against what was there before it was quantised.
    assert error(found, g.float() @ weight) < WEIGHT_ERROR[kind] + bound


@pytest.mark.parametrize(("kind", "mode"), WAYS)
def test_an_adapter_beside_a_product(kind, mode):
    linear, _ = quantised(kind, mode, bias=True)
    x, down, up = (vary(*shape, seed=i).requires_grad_() for i, shape in enumerate(((2, 7, 256), (8, 256), (192, 8))))
    g = vary(2, 7, 192, seed=5)
    out = linear(x, down, up)
    expected = F.linear(x, linear.dense(), linear.bias) + F.linear(F.linear(x, down), up)
    assert error(out, expected) < (0.04 if mode == "emulate" else 1e-5)
    found, wanted = (torch.autograd.grad(y, (x, down, up), g) for y in (out, expected))
    for one, other in zip(found, wanted, strict=True):
        assert error(one, other) < (0.04 if mode == "emulate" else 1e-5)


def test_gradients_of_any_size_survive():
    linear, weight = quantised("float8", "emulate")
    for size in (1e-16, 1e8):
        x = vary(5, 256).requires_grad_()
        g = vary(5, 192) * size * torch.tensor([1.0, 1e-3, 1e3, 0.0, 1.0])[:, None]
        (found,) = torch.autograd.grad(linear(x), x, g)
        expected = g @ weight
        assert not found[3].any()
        assert all(error(found[i], expected[i]) < 0.1 for i in (0, 1, 2, 4))


@pytest.mark.parametrize(("kind", "mode"), WAYS)
def test_nothing_but_frozen_weights_is_kept_for_backward(kind, mode):
    linear, _ = quantised(kind, mode)
    own = {linear.weight.data_ptr(), linear.scale.data_ptr()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(vary(3, 256).requires_grad_()).sum().backward()
    assert kept and all(tensor.data_ptr() in own for tensor in kept)


@pytest.mark.parametrize(("kind", "mode"), WAYS)
def test_compiles_without_a_graph_break_to_the_same_numbers(kind, mode):
    linear, _ = quantised(kind, mode)
    x, g = vary(2, 7, 256).requires_grad_(), vary(2, 7, 192, seed=5)
    compiled = torch.compile(lambda x: linear(x), backend="aot_eager", fullgraph=True)
    a, b = linear(x), compiled(x)
    torch.testing.assert_close(b, a)
    torch.testing.assert_close(torch.autograd.grad(b, x, g), torch.autograd.grad(a, x, g))


def test_casting_a_model_leaves_quantised_tensors_alone():
    model = build_transformer()
    q.quantize(model, "float8")
    before = {name: model.state_dict()[name].clone() for name in q.stored_names(model)}
    model.to(torch.bfloat16).float().half()
    after = model.state_dict()
    assert len(before) == 2 * 24
    assert all(after[n].dtype == t.dtype and torch.equal(after[n].float(), t.float()) for n, t in before.items())
    assert model.x_pad_token.dtype == torch.float16


def test_a_kept_transposed_copy_changes_nothing_but_memory():
    linear, _ = quantised("float8", "emulate")
    x, g = vary(4, 256).requires_grad_(), vary(4, 192)
    (before,) = torch.autograd.grad(linear(x), x, g)
    names = set(linear.state_dict())
    assert q.keep_transposed(linear) == q.keep_transposed(linear) == linear.weight.numel()
    assert linear.weight_t.shape == (256, 192) and linear.weight_t.is_contiguous()
    assert torch.equal(torch.autograd.grad(linear(x), x, g)[0], before)
    assert set(linear.state_dict()) == names
    q.set_mode(linear, "dequantize")
    assert q.keep_transposed(quantised("float8")[0]) == q.keep_transposed(quantised("int8")[0]) == 0


def test_sizes_that_the_units_do_not_take_are_widened():
    linear, _ = quantised("float8", inputs=250)
    x = vary(3, 250)
    before = linear(x)
    linear.mode = "units"
    assert torch.equal(linear(x), before)


def test_modes_and_kinds_are_checked():
    assert q.best_mode("cpu") == q.best_mode(torch.device("cpu")) == "dequantize"
    with pytest.raises(ValueError, match="mode must be"):
        q.set_mode(Blocks(), "fast")
    with pytest.raises(ValueError, match="kind must be"):
        q.quantize(Blocks(), "fp4")


@pytest.fixture
def no_bitsandbytes(monkeypatch):
    products._bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    yield
    products._bitsandbytes.cache_clear()


def test_nf4_without_bitsandbytes_is_a_mistake_in_one_line(no_bitsandbytes):
    for call in (q.quantize, q.restructure):
        with pytest.raises(UserError, match=r"pip install 'charloom\[cuda\]'"):
            call(Blocks(), "nf4")
    assert q.quantize(Blocks(), "float8") == 1


@pytest.mark.parametrize(("kind", "largest"), [("float8", 448), ("int8", 127)])
def test_scales_are_computed_as_on_a_card(kind, largest) -> None:
    """There torch divides by multiplying with the inverse in fp32; a quotient often has another last bit."""
    wide = vary(64, 256)
    found = {"float8": Float8Linear, "int8": Int8Linear}[kind].pack(wide)[1].flatten().numpy()
    most = wide.abs().amax(1).numpy()
    assert (found == most * (np.float32(1) / np.float32(largest))).all()
    assert (found != most / np.float32(largest)).any()


# On a card


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_quantises_to_the_bytes_of_the_cpu() -> None:
    """The trainer reads the previews' weights on the CPU, ``sample_checkpoint`` on the card."""
    wide = (vary(3840, 10240) * 0.02).bfloat16()
    wide[0] = 0
    here, there = Float8Linear.pack(wide), Float8Linear.pack(wide.cuda())
    for ours, theirs in zip(here, there, strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.cpu().view(torch.uint8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 7, 96, 1120])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("sizes", [[], [10240], [3840, 3840, 3840], [10240, 10240]], ids=len)
def test_the_units_compute_what_is_emulated(rows, kept, sizes):
    """Without an adapter, with one, and the parts of a wider product that have an adapter each."""
    if q.best_mode("cuda") != "units":
        pytest.skip("no float8 units")
    outputs = sum(sizes) or 10240
    linear, _ = quantised("float8", inputs=3840, outputs=outputs)
    linear.cuda()

    def normal(*shape: int, seed: int) -> torch.Tensor:
        generator = torch.Generator("cuda").manual_seed(seed)
        return torch.randn(shape, generator=generator, device="cuda").bfloat16()

    x = vary(1, rows, 3840).to("cuda", torch.bfloat16).requires_grad_()
    downs = (0.02 * normal(32 * len(sizes), 3840, seed=1)).requires_grad_() if sizes else None
    ups = [(0.05 * normal(size, 32, seed=2 + i)).requires_grad_() for i, size in enumerate(sizes)]
    leaves = [leaf for leaf in (x, downs, *ups) if leaf is not None]
    found = {}
    for mode in ("emulate", "units"):
        linear.mode = mode
        if kept:
            q.keep_transposed(linear)
        outs = linear.parts(x, sizes, downs, ups) if sizes else [linear(x)]
        gradients = [normal(*out.shape, seed=9 + i) for i, out in enumerate(outs)]
        found[mode] = (*outs, *torch.autograd.grad(outs, leaves, gradients))
    for units, emulated in zip(found["units"], found["emulate"], strict=True):
        assert units.dtype == torch.bfloat16 and error(units, emulated) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", q.KINDS)
def test_compiled_and_captured_on_a_card(kind):
    if kind == "nf4":
        pytest.importorskip("bitsandbytes")
    linear, _ = quantised(kind, inputs=512, outputs=256)
    linear.cuda()
    q.set_mode(linear, q.best_mode("cuda"))
    compiled = torch.compile(lambda x: linear(x), fullgraph=True)
    x = vary(64, 512).to("cuda", torch.bfloat16).requires_grad_()
    g = vary(64, 256).to("cuda", torch.bfloat16)
    expected = linear(x)
    (gradient,) = torch.autograd.grad(expected, x, g)
    expected = expected.detach()  # its graph belongs to a stream that may not be captured
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(compiled(x), x, g)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = compiled(x)
        (captured,) = torch.autograd.grad(out, x, g)
    graph.replay()
    assert error(out, expected) < 0.01 and error(captured, gradient) < 0.01
