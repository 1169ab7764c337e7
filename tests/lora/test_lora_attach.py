"""Attaching adapters: which modules, how they start, and that the lean forward computes what PEFT's does."""

from __future__ import annotations

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from peft.tuners.lora import Linear as LoraLinear
from real_base import REAL_CONFIG
from tiny_models import build_transformer

from charloom.core.errors import UserError
from charloom.lora.attach import attach, target_modules
from charloom.lora.network import Network, unmatched
from charloom.lora.verify import module_shapes
from charloom.zimage import forward
from charloom.zimage.shapes import any_names


@pytest.fixture(scope="module")
def real():
    with torch.device("meta"):
        return ZImageTransformer2DModel.from_config(REAL_CONFIG)


def predict(model, x, t, caps):
    return forward.forward(forward.prepare(model), x, t, *forward.pad_captions(list(caps)))


def batch():
    generator = torch.Generator().manual_seed(1)
    x, caps = torch.randn(2, 16, 8, 8, generator=generator), torch.randn(2, 9, 32, generator=generator)
    return x, torch.tensor([0.2, 0.9]), caps


@pytest.mark.parametrize(
    ("modules", "count"),
    [("default", 240), ("attention", 120), ("attention+mlp", 210), ((r"^layers\.\d\.", "refiner.*to_q"), 84)],
)
def test_modules_of_the_real_architecture(real, modules, count):
    assert len(target_modules(real, modules)) == count


def test_the_default_is_every_linear_of_the_layers(real):
    names = set(target_modules(real, "default"))
    linears = {name for name, module in real.named_modules() if isinstance(module, torch.nn.Linear)}
    assert names == {name for name in linears if name.startswith("layers.")}
    shapes = module_shapes(REAL_CONFIG)
    assert shapes == {name: tuple(real.get_submodule(name).weight.shape) for name in linears}
    assert 32 * sum(sum(shapes[name]) for name in names) == 2_657_280 * 32  # parameters at rank 32


def test_a_pattern_that_matches_nothing_is_an_error(real):
    with pytest.raises(UserError, match="network.modules"):
        target_modules(real, ("ff.net.0.proj",))


def test_a_pattern_among_others_that_matches_nothing_is_named(real):
    names = target_modules(real, "default")
    assert unmatched(("to_q", "ff.net.0.proj", "w1$", "refiner"), names) == ["ff.net.0.proj", "refiner"]
    assert unmatched("attention", names) == []
    assert {name for name, m in real.named_modules() if isinstance(m, torch.nn.Linear)} <= set(any_names())


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(kind):
    model = build_transformer()
    with torch.no_grad():
        before = predict(model, *batch())
    adapter = attach(model, Network(type=kind, rank=4, alpha=4), seed=1)
    with torch.no_grad():
        torch.testing.assert_close(predict(model, *batch()), before, rtol=1e-5, atol=1e-5)
    assert len(adapter.layers) == 16
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adapter.parameters.values()}
    assert all(p.dtype == torch.float32 for p in trainable)
    predict(model, *batch()).square().mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trainable)


@pytest.mark.parametrize("rank", [1, 2, 16])
def test_rank_and_alpha(rank):
    adapter = attach(build_transformer(), Network(rank=rank, alpha=2 * rank), seed=1)
    assert adapter.parameters["layers.0.feed_forward.w1.lora_A.weight"].shape == (rank, 64)
    assert adapter.parameters["layers.0.feed_forward.w1.lora_B.weight"].shape == (170, rank)
    assert all(layer.scaling["default"] == 2.0 for layer in adapter.layers.values())


def test_initial_weights_depend_on_seed_and_name_only():
    def weights(seed, modules="default", state=0):
        torch.manual_seed(state)
        return attach(build_transformer(), Network(rank=4, alpha=4, modules=modules), seed).parameters

    a, b, c, d = weights(1), weights(1, state=9), weights(2), weights(1, modules="attention")
    name = "layers.1.attention.to_q.lora_A.weight"
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a[name], c[name]) and torch.equal(a[name], d[name])
    assert not torch.equal(a[name], a["layers.0.attention.to_q.lora_A.weight"])
    bound = 64**-0.5
    assert a[name].abs().max() <= bound and a[name].std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
    assert not any(p.any() for n, p in a.items() if "lora_B" in n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lean_forward_equals_peft(dtype):
    def run(lean: bool):
        model = build_transformer().to(dtype)
        adapter = attach(model, Network(rank=4, alpha=6), seed=1)
        for name, p in adapter.parameters.items():
            if "lora_B" in name:
                p.data.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        if not lean:
            for layer in adapter.layers.values():
                assert "forward" in vars(layer)
                layer.forward = LoraLinear.forward.__get__(layer)
        out = predict(model, *batch())
        out.float().square().mean().backward()
        return out, [p.grad for p in adapter.parameters.values()]

    (a, grads), (b, expected) = run(True), run(False)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.05}
    torch.testing.assert_close(a, b, **tolerance)
    for x, y in zip(grads, expected, strict=True):
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, y, **tolerance)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_disabled_is_the_bare_base(kind):
    model = build_transformer()
    with torch.no_grad():
        before = predict(model, *batch())
        adapter = attach(model, Network(type=kind, rank=4, alpha=4), seed=1)
        for p in adapter.parameters.values():
            p.data += 0.1
        changed = predict(model, *batch())
        with adapter.disabled():
            assert torch.equal(predict(model, *batch()), before)
        assert torch.equal(predict(model, *batch()), changed) and not torch.equal(changed, before)
    assert all(p.requires_grad for p in adapter.parameters.values())


def test_lokr_factor_and_dropout_are_used():
    small = attach(build_transformer(), Network(type="lokr", rank=2, alpha=2, lokr_factor=4), seed=1)
    assert small.parameters["layers.0.attention.to_q.lokr_w1"].shape == (4, 4)
    model = build_transformer()
    adapter = attach(model, Network(rank=4, alpha=4, dropout=0.5), seed=1)
    for p in adapter.parameters.values():
        p.data += 0.1
    model.train()
    assert not torch.equal(predict(model, *batch()), predict(model, *batch()))
