"""Quantised Linears: how exact they are, that gradients are right in every mode, and that base, adapters and text
encoder work with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import real_base
import small_project
import torch
import torch.nn.functional as F
from conftest import build_transformer
from diffusers import ZImageTransformer2DModel
from safetensors import safe_open
from test_lora_attach import REAL_CONFIG
from test_lora_files import ship
from torch import nn

from charloom.base import hub, locks
from charloom.config.project import load as load_config
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.kernels import linears, products
from charloom.kernels import quantize as q
from charloom.lora.adapter import load_into, merge
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.workflow import prepared, texts
from charloom.zimage import forward

WAYS = [("float8", "dequantize"), ("float8", "emulate"), ("int8", ""), ("nf4", "")]
WEIGHT_ERROR = {"float8": 0.03, "int8": 0.01, "nf4": 0.1}
"""Largest relative error (Frobenius) of normally distributed weights."""


class Blocks(nn.Module):
    """One Linear where :func:`q.quantize` looks for it."""

    def __init__(self, inputs: int = 256, outputs: int = 192, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.ModuleList([nn.Linear(inputs, outputs, bias=bias)])
        nn.init.normal_(self.layers[0].weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


def quantised(kind: str, mode: str = "", **sizes) -> tuple[linears.QuantizedLinear, torch.Tensor]:
    """A quantised Linear and the weight that it was made of."""
    model = Blocks(**sizes)
    weight = model.layers[0].weight.detach().clone()
    assert q.quantize(model, kind) == 1
    if mode:
        q.set_mode(model, mode)
    return model.layers[0], weight


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


def vary(*shape: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
        with pytest.raises(UserError, match="pip install bitsandbytes"):
            call(Blocks(), "nf4")
    assert q.quantize(Blocks(), "float8") == 1


# A model


def test_which_linears_of_the_real_architecture_are_quantised():
    with torch.device("meta"):
        model = ZImageTransformer2DModel(**REAL_CONFIG)
    total = sum(p.numel() for p in model.parameters())
    names = q.eligible(model)
    assert len(names) == 34 * 7 - 2 * 4
    assert not any(part in name for name in names for part in ("adaLN", "embedder", "final_layer"))
    assert sorted(name.split(".")[2] for name in names if name.startswith("noise_refiner")) == ["feed_forward"] * 6
    q.restructure(model, "float8")
    assert not q.eligible(model) and all(module.fits_units for module in q.quantized(model))
    assert sum(module.weight.numel() for module in q.quantized(model)) > 0.95 * total


@pytest.mark.parametrize("kind", q.KINDS)
def test_an_empty_structure_takes_the_tensors_of_a_quantised_model(kind):
    model = build_transformer()
    others = {name: t.clone() for name, t in model.state_dict().items()}
    assert q.quantize(model, kind) == 24
    for name in set(model.state_dict()) - q.stored_names(model):
        assert torch.equal(model.state_dict()[name], others[name])
    with torch.device("meta"):
        empty = ZImageTransformer2DModel.from_config(dict(model.config))
    q.restructure(empty, kind)
    shapes = {name: (t.shape, t.dtype) for name, t in empty.state_dict().items()}
    assert shapes == {name: (t.shape, t.dtype) for name, t in model.state_dict().items()}
    empty.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(predict(empty), predict(model))


def predict(model, seed: int = 0, dtype: torch.dtype = torch.float32):
    with torch.no_grad():
        x, caps = vary(1, 16, 8, 8, seed=seed).to(dtype), vary(1, 9, 32, seed=seed + 1).to(dtype)
        return forward.forward(forward.prepare(model), x, torch.tensor([0.4]), *forward.pad_captions(list(caps)))


def larger() -> nn.Module:
    """A model of 256 channels: sums long enough for rounding to average out as it does in the real one."""
    config = {**build_transformer().config, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "n_layers": 4}
    return forward.prepare(ZImageTransformer2DModel.from_config(config))


def gradients(kind: str, mode: str, batches: int = 20) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """Loss and LoRA gradients on some batches."""
    model = larger()
    if kind:
        q.quantize(model, kind)
        q.set_mode(model, mode)
    adapter = attach(model, Network(rank=8, alpha=8), seed=1)
    for number, (name, parameter) in enumerate(adapter.parameters.items()):
        if "lora_B" in name:
            parameter.data.copy_(0.02 * vary(*parameter.shape, seed=number))
    out = []
    for number in range(batches):
        x, target = vary(1, 16, 16, 16, seed=number), vary(1, 16, 16, 16, seed=number + 1000)
        t = torch.tensor([(number + 0.5) / batches])
        loss = (
            (forward.forward(model, x, t, *forward.pad_captions(list(vary(1, 20, 32, seed=number)))) - target)
            .square()
            .mean()
        )
        found = torch.autograd.grad(loss, list(adapter.parameters.values()))
        out.append((loss.item(), dict(zip(adapter.parameters, found, strict=True))))
    return out


def test_gradients_and_loss_on_float8_units_are_those_of_full_precision():
    exact, rounded = gradients("", ""), gradients("float8", "emulate")
    cosines, losses = [], []
    for (loss, grads), (other, others) in zip(exact, rounded, strict=True):
        cosines += [float(F.cosine_similarity(grads[n].flatten(), others[n].flatten(), dim=0)) for n in grads]
        losses.append((other - loss) / loss)
    losses = torch.tensor(losses)
    print(f"cosine median {torch.tensor(cosines).median():.4f}, loss {losses.abs().max():.2e}")
    assert torch.tensor(cosines).median() >= 0.99
    assert losses.abs().max() < 0.01


# Adapters


@pytest.mark.parametrize(("kind", "mode"), WAYS)
@pytest.mark.parametrize("network", ["lora", "lokr"])
def test_adapters_on_quantised_weights(kind, mode, network):
    model = build_transformer()
    q.quantize(model, kind)
    if mode:
        q.set_mode(model, mode)
    before = predict(model)
    adapter = attach(model, Network(type=network, rank=4, alpha=6), seed=1)
    assert torch.equal(predict(model), before)
    plain = attach(build_transformer(), Network(type=network, rank=4, alpha=6), seed=1)
    assert list(adapter.parameters) == list(plain.parameters)
    assert all(torch.equal(p, plain.parameters[n]) and p.dtype == torch.float32 for n, p in adapter.parameters.items())
    for p in adapter.parameters.values():
        p.data += 0.1
    assert not torch.equal(predict(model), before)
    with adapter.disabled():
        assert torch.equal(predict(model), before)
    x = vary(1, 16, 8, 8)
    forward.forward(
        model, x, torch.tensor([0.3]), *forward.pad_captions(list(vary(1, 9, 32)))
    ).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in adapter.parameters.values())
    assert {n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n and "lokr" not in n} == set()


@pytest.mark.parametrize("kind", q.KINDS)
def test_lokr_beside_a_quantised_weight_is_what_peft_computes(kind):
    def change(model):
        adapter = attach(model, Network(type="lokr", rank=2, alpha=3, lokr_factor=4), seed=1)
        for number, p in enumerate(adapter.parameters.values()):
            p.data += 0.2 * vary(*p.shape, seed=number)
        x = vary(3, 64)
        layer = adapter.layers["layers.0.feed_forward.w1"]
        return layer(x) - layer.get_base_layer()(x)

    model = build_transformer()
    q.quantize(model, kind)
    torch.testing.assert_close(change(model), change(build_transformer()), rtol=1e-4, atol=1e-5)


def test_dora_on_quantised_weights_is_a_mistake_in_one_line():
    model = build_transformer()
    q.quantize(model, "int8")
    with pytest.raises(UserError, match="dora needs quantization.transformer none or bf16") as caught:
        attach(model, Network(type="dora", rank=4, alpha=4), seed=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "wrong"), [("float8", 1), ("nf4", 1), ("bf16", 0), ("none", 0)])
def test_dora_is_refused_when_the_recipe_is_read(kind, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = small_project.make(tmp_path)
    changes = {"recipe": {"network": {"type": "dora"}, "quantization": {"transformer": kind}}}
    if not wrong:
        load_config(folder, overrides=changes)
        return
    with pytest.raises(UserError) as caught:
        load_config(folder, overrides=changes)
    lines = str(caught.value).splitlines()
    assert lines and all(
        f"recipe.network.type: dora needs quantization.transformer none or bf16, not {kind}" in line for line in lines
    )


@pytest.mark.parametrize("kind", q.KINDS)
@pytest.mark.parametrize("network", ["lora", "dora", "lokr"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_files_are_loaded_beside_quantised_weights(tmp_path, kind, network, strength):
    path = ship(tmp_path / "x.safetensors", Network(type=network, rank=4, alpha=6))
    model = build_transformer()
    q.quantize(model, kind)
    before = predict(model)
    dense = build_transformer()  # the weights that the quantised ones stand for, as plain Linears
    for name, module in model.named_modules():
        if isinstance(module, linears.QuantizedLinear):
            dense.get_submodule(name).weight.data = module.dense()
    with load_into(model, path, strength), load_into(dense, path, strength):
        torch.testing.assert_close(predict(model), predict(dense), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(predict(model), before, atol=1e-3)
    assert torch.equal(predict(model), before)
    with pytest.raises(UserError, match="is quantised; merge into full-precision"):
        merge(model, path)


# The prepared base


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory) -> Path:
    return real_base.build(tmp_path_factory.mktemp("quantised") / "base")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize("kind", ["none", "bf16", *q.KINDS])
def test_a_prepared_base_comes_back_as_it_was_made(base_folder, store, tmp_path, monkeypatch, kind):
    adapter = real_base.adapter(base_folder, tmp_path / "v1.safetensors")
    lock = locks.lock({"name": "tiny", "path": str(base_folder), "adapters": {"v1": str(adapter)}}, store)
    settings = {"adapter": "v1", "quantization": kind, "recipe": 2}
    said, output = [], tmp_path / "base.safetensors"
    record = prepared.make(lock, settings, output, store, said.append)
    assert record["quantization"] == kind and record["merged"]["modules"] == 8
    # Which Linears are quantised is part of what weights were prepared for.
    key = prepared.key(lock, settings)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_CHOICE", 1)
        assert (prepared.key(lock, settings) == key) == (kind not in q.KINDS)
    again = tmp_path / "again.safetensors"
    prepared.make(lock, settings, again, store, hub.silent)
    assert again.read_bytes() == output.read_bytes()

    dtype = torch.float32 if kind == "none" else torch.bfloat16
    expected = ZImageTransformer2DModel.from_pretrained(base_folder / "transformer", torch_dtype=dtype)
    merge(expected, adapter)
    if kind in q.KINDS:
        assert said == [f"{q.quantize(expected, kind)} Linears of the blocks kept in {kind}"]
    else:
        assert said == []
    with safe_open(str(output), "pt") as file:
        assert file.metadata().get("charloom.quantization") == (kind if kind in q.KINDS else None)
        assert set(file.keys()) == set(expected.state_dict())

    model = prepared.load(lock, output, torch.float32, torch.device("cpu"))
    state = expected.state_dict()
    for name, tensor in model.state_dict().items():
        if name in q.stored_names(model):
            assert tensor.dtype == state[name].dtype and torch.equal(tensor.float(), state[name].float())
        else:
            assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name].float())
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert len(q.quantized(model)) == (6 * 7 - 2 * 4 if kind in q.KINDS else 0)
    torch.testing.assert_close(predict(model), predict(expected.float()))
    assert (
        predict(prepared.load(lock, output, torch.bfloat16, torch.device("cpu")), dtype=torch.bfloat16).isfinite().all()
    )


def test_a_quantised_file_that_is_cut_or_of_another_base_is_named(base_folder, store, tmp_path):
    lock = locks.lock({"name": "tiny", "path": str(base_folder), "adapters": {}}, store)
    output = tmp_path / "base.safetensors"
    prepared.make(lock, {"adapter": "none", "quantization": "int8", "recipe": 2}, output, store, hub.silent)
    output.write_bytes(output.read_bytes()[:-8])
    with pytest.raises(UserError, match="base.safetensors: cannot be read .* delete it"):
        prepared.load(lock, output, torch.float32, torch.device("cpu"))


# The text encoder


def test_the_text_encoder_is_kept_as_the_recipe_says(base_folder, tmp_path):
    store = Store(tmp_path / "store")
    lock = locks.lock({"name": "tiny", "path": str(base_folder), "adapters": {}}, store)
    words, embeds = "a photo of l3yla", {}
    for kind in ("none", "bf16", *q.KINDS):
        settings = {"quantization": kind, "recipe": 1}
        assert texts.make([words], lock, settings, store, torch.device("cpu")) == 1
        key = texts.key(words, lock, settings)
        with safe_open(str(store.path(texts.KIND, key, ".safetensors")), "pt") as file:
            embeds[kind] = file.get_tensor("embeds")
    assert all(tensor.dtype == torch.float32 for tensor in embeds.values())
    errors = {kind: error(embeds[kind], embeds["none"]) for kind in embeds}
    assert 0 < errors["bf16"] < 0.02
    assert 0 < errors["int8"] < 0.03 and 0 < errors["float8"] < 0.1 and 0 < errors["nf4"] < 0.3
    assert len({tuple(tensor.flatten().tolist()) for tensor in embeds.values()}) == 5


# On a card


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
