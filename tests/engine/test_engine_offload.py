"""Activation offloading: the same numbers, whatever waits in main memory."""

from __future__ import annotations

import pytest
import torch
from engine_helpers import CPU, LAYERS, adapted, assert_same, gradients, gradients_free

from charloom.engine import host, offload
from charloom.engine.offload import Offload, offload_for
from charloom.engine.recompute import Recompute
from charloom.kernels import attention

ROOM = 2**24
"""Bytes, enough for everything that the tiny model sends away."""


@pytest.mark.parametrize("size", [ROOM, 100_000, 0])
@pytest.mark.parametrize("kept", [0, 1, 3, LAYERS])
def test_blocks_recompute_the_same_from_main_memory(size, kept):
    model, adapter = adapted()
    plain = gradients(model, adapter, 2)
    recompute = Recompute(model.layers)
    recompute.keep(kept)
    recompute.offload, recompute.offloads = Offload(CPU, size, small=0), True
    for _ in range(2):  # the second step reuses the memory of the first
        recompute.offload.forget()
        assert_same(plain, gradients(model, adapter, 2))
        assert len(recompute.offload.parcels) == 2 * (LAYERS - kept)
    each = 2 * (10 * 10 + 28 + 32) * model.config.dim * 4  # the input of a block, padded
    # The last parcel stays where no block computes after it.
    went = 2 * (LAYERS - max(kept, 1))
    assert recompute.offload.used == min(went, size // each) * each
    recompute.offload.forget()
    with torch.no_grad():
        gradients_free(model)
    assert not recompute.offload.parcels  # nothing waits for a backward pass that does not come


def test_what_is_damaged_in_main_memory_would_be_noticed():
    """The check above means something: the backward pass reads what waits there."""
    model, adapter = adapted()
    plain = gradients(model, adapter)
    recompute = Recompute(model.layers)
    recompute.offload, recompute.offloads = Offload(CPU, ROOM, small=0), True
    last = model.layers[-1]
    inner = last.forward

    def forward(*args):
        recompute.offload.buffer.zero_()
        return inner(*args)

    last.forward = forward
    with pytest.raises(AssertionError):
        assert_same(plain, gradients(model, adapter))


@pytest.mark.parametrize("size", [ROOM, 0])
def test_the_output_of_attention_waits_beside_the_input(size):
    """By a stand-in for the operator, which runs on GPUs only."""
    computed = []

    class Block(torch.nn.Module):
        def forward(self, x):
            kept = attention._kept
            if kept:
                return x * kept.take()[0]
            computed.append(1)
            found = (2 * x).detach()
            if kept is not None:
                kept.put(found, found.sum())
            return x * found

    x = torch.rand(3, requires_grad=True)

    def run(blocks):
        computed.clear()
        h = x
        for block in blocks:
            h = block(h)
        return torch.autograd.grad(h.sum(), x)[0]

    blocks = [Block() for _ in range(4)]
    wanted = run(blocks)
    recompute = Recompute(blocks)
    recompute.offload, recompute.offloads = Offload(CPU, size, small=0), True
    recompute.keep_results(3)
    assert torch.equal(run(blocks), wanted)
    assert len(computed) == 4 + 1


def test_a_parcel_comes_back_in_the_order_in_which_it_was_put():
    away = Offload(CPU, 2000, small=12)
    tensors = [torch.arange(3.0), torch.tensor([True]), torch.arange(8, dtype=torch.bfloat16).view(2, 4).t()]
    first = away.parcel()
    for one in tensors:
        first.put(one)
    second = away.parcel()
    assert away.used == 512  # the boolean is too small to be worth it
    second.put(torch.zeros(1000))
    away.depart()
    assert away.used == 512  # no room
    away.depart()
    assert torch.equal(second.take(), torch.zeros(1000))
    for wanted in tensors:
        found = first.take()
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype


@pytest.mark.parametrize(
    ("free", "size"),
    [(10 * ROOM, ROOM + offload.SLACK), (4 * ROOM, int(0.8 * ROOM)), (2 * ROOM, None)],
    ids=["as much as the largest shape needs", "what can be spared", "not enough for this shape"],
)
def test_main_memory_is_taken_with_restraint(monkeypatch, free, size):
    monkeypatch.setattr(host, "available", lambda: free)
    found = offload_for(CPU, ROOM // 2, ROOM)
    assert (found and found.buffer.nbytes) == size


def test_memory_that_cannot_be_pinned_is_not_used(monkeypatch):
    monkeypatch.setattr(Offload, "__init__", lambda self, *_: setattr(self, "usable", False))
    assert offload_for(CPU, 10, 10) is None
