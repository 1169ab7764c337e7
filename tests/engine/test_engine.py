"""The engine's transformations one by one: each may change what a step costs, and nothing else."""

from __future__ import annotations

import pytest
import torch
from engine_helpers import adapted, as_bytes, assert_same, gradients, gradients_free

from charloom.engine import compile as compiling
from charloom.engine import fuse as fusing
from charloom.engine.options import EngineOptions
from charloom.engine.recompute import Recompute
from charloom.kernels import quantize
from charloom.lora.attach import ADAPTER


@pytest.mark.parametrize("kept", [0, 1, 99])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputation_changes_no_bit(kept, dropout):
    model, adapter = adapted(dropout)
    model.train()
    plain = gradients(model, adapter)
    recompute = Recompute(model.layers, random=bool(dropout))
    recompute.keep(kept)
    assert_same(plain, gradients(model, adapter))
    recompute.remove()
    assert_same(plain, gradients(model, adapter))


def test_the_last_blocks_keep_their_activations():
    """What a block keeps is freed first where backward starts; counted by how often each block computes."""
    model, adapter = adapted()
    counts = [0] * len(model.layers)
    for index, block in enumerate(model.layers):
        real = block.forward

        def counted(*arguments, index=index, real=real):
            counts[index] += 1
            return real(*arguments)

        block.forward = counted
    Recompute(model.layers).keep(1)
    gradients(model, adapter)
    assert counts == [2] * (len(counts) - 1) + [1]


@pytest.mark.parametrize("kind", ["none", "float8"])
def test_fused_linears_compute_the_same(kind):
    model, adapter = adapted(kind=kind)
    plain = gradients(model, adapter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blocks = compiling.blocks_of(model)
    # The units take multiples of 16 only, which the tiny feed-forward part is not.
    assert fusing.fuse(blocks) == (2 if kind == "none" else 1) * len(blocks)
    assert fusing.fuse(blocks) == 0
    fused = gradients(model, adapter)
    # float8: the gradients of q, k and v are rounded with one scale instead of three.
    tolerance = 1e-5 if kind == "none" else 0.1
    assert (fused[0] - plain[0]).norm() < (1e-5 if kind == "none" else 2e-2) * plain[0].norm()
    for name, wanted in plain[1].items():
        assert (fused[1][name] - wanted).norm() <= tolerance * wanted.norm(), name
    with torch.no_grad(), adapter.disabled():
        assert not torch.equal(gradients_free(model), fused[0])
    after = model.state_dict()
    assert all(torch.equal(as_bytes(before[name]), as_bytes(after[name])) for name in before)  # the parts are views
    sizes = {t.untyped_storage().data_ptr() for t in (blocks[0].attention.to_q.weight, blocks[0].attention.to_k.weight)}
    assert len(sizes) == 1


@pytest.mark.parametrize("kept", [0, 99])
def test_modulations_at_once_are_those_of_the_blocks(kept):
    model, adapter = adapted()
    assert fusing.can_batch_modulations(model.layers)
    plain = gradients(model, adapter)
    with torch.no_grad(), adapter.disabled():
        without = gradients_free(model)
    weights = [block.adaLN_modulation[0].base_layer.weight.clone() for block in model.layers]
    model.__dict__["modulations"] = at_once = fusing.Modulations(model.layers)
    recompute = Recompute(model.layers)
    recompute.keep(kept)
    found = gradients(model, adapter)
    torch.testing.assert_close(found[0], plain[0], rtol=1e-5, atol=1e-6)
    for name, wanted in plain[1].items():
        assert (found[1][name] - wanted).norm() <= 1e-4 * wanted.norm(), name
    with torch.no_grad(), adapter.disabled():
        torch.testing.assert_close(gradients_free(model), without, rtol=1e-5, atol=1e-6)
    recompute.remove()
    model.__dict__.pop("modulations").remove()
    assert_same(plain, gradients(model, adapter))
    for block, weight in zip(model.layers, weights, strict=True):
        own = block.adaLN_modulation[0].base_layer.weight
        assert torch.equal(own, weight) and own.data_ptr() != at_once.weight.data_ptr()
        own.data.zero_()  # nobody else's
    assert any(weight.abs().sum() for weight in weights) and at_once.weight.abs().sum()


@pytest.mark.parametrize("spoil", ["dropout", "ranks", "one without"])
def test_modulations_that_differ_stay_apart(spoil):
    model, _ = adapted(dropout=0.1 if spoil == "dropout" else 0.0)
    part = model.layers[1].adaLN_modulation
    if spoil == "ranks":
        part[0].scaling[ADAPTER] *= 2
    if spoil == "one without":
        part[0] = part[0].base_layer
    assert not fusing.can_batch_modulations(model.layers)
    assert not fusing.can_batch_modulations(model.context_refiner)


@pytest.mark.parametrize("spoil", ["dropout", "dequantize", "mixed"])
def test_what_cannot_be_fused_stays_as_it_is(spoil):
    model, adapter = adapted(dropout=0.1 if spoil == "dropout" else 0.0, kind="float8")
    quantize.set_mode(model, "dequantize" if spoil == "dequantize" else "emulate")
    if spoil == "mixed":
        for block in model.layers:
            block.attention.to_q = block.attention.to_q.base_layer
            block.feed_forward.w1 = block.feed_forward.w1.base_layer
    assert fusing.fuse(model.layers) == 0


def test_options():
    assert EngineOptions().limit is None and EngineOptions(memory=12).limit == 12
    assert EngineOptions(low_vram=True).limit == 9 and EngineOptions(low_vram=True, memory=6.5).limit == 6.5
    with pytest.raises(ValueError, match="compil"):
        EngineOptions.from_values({"compil": True})
