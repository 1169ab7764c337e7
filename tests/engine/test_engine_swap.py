"""Block swap: the same numbers, whatever moves between main memory and the GPU."""

from __future__ import annotations

import pytest
import torch
from engine_helpers import CPU, LAYERS, adapted, assert_same, gradients
from tiny_models import build_transformer

from charloom.engine import fuse as fusing
from charloom.engine import memory
from charloom.engine.recompute import Recompute
from charloom.engine.swap import Swap, frozen_tensors, size_of, spread
from charloom.zimage import forward


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("count", "slots"), [(1, 2), (2, 1), (3, 2), (4, 2), (4, 1)])
def test_swapped_blocks_compute_the_same(count, slots, fused):
    model, adapter = adapted(kind="float8")
    blocks = list(model.layers)
    if fused:
        size = size_of(blocks[0])
        fusing.fuse(blocks)
        assert abs(size - size_of(blocks[0])) <= 256 * 8  # nothing is counted twice
    plain = gradients(model, adapter, 2)
    chosen = [blocks[i] for i in spread(LAYERS, count)]
    swap = Swap(chosen, CPU, slots=slots)
    Recompute(model.layers)
    assert_same(plain, gradients(model, adapter, 2))
    # Between two steps anything may have happened to the buffers.
    swap.slots[0].zero_()
    swap.forget()
    assert_same(plain, gradients(model, adapter, 2))
    with torch.no_grad():  # passes without a backward one
        for _ in range(2):
            x, caps = torch.randn(1, 16, 8, 8), torch.randn(1, 32, model.config.cap_feat_dim)
            forward.forward(model, x, torch.tensor([0.5]), caps, torch.zeros(1, 32, 1, dtype=torch.bool))
    assert_same(plain, gradients(model, adapter, 2))


def test_swapped_blocks_are_fetched_ahead_in_both_directions():
    """Only the first blocks of a step have to be waited for."""
    model, adapter = adapted()
    swap = Swap(list(model.layers), CPU, slots=2)
    Recompute(model.layers)
    need, waited = swap._need, []

    def watched(index):
        if swap.holds[index % 2] != index:
            waited.append(index)
        need(index)

    swap._need = watched
    gradients(model, adapter)
    assert waited == [0, 1]


@pytest.mark.parametrize("fused", [False, True])
def test_swapped_weights_leave_the_blocks_and_come_back(fused):
    model, adapter = adapted()
    if fused:
        fusing.fuse(model.layers)
    plain = gradients(model, adapter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swap = Swap(list(model.layers), CPU, slots=1)
    pointers = {tensor.untyped_storage().data_ptr() for block in model.layers for tensor in frozen_tensors(block)}
    assert pointers == {swap.slots[0].untyped_storage().data_ptr()}
    assert all(p.requires_grad for p in adapter.parameters.values())
    swap.remove()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert_same(plain, gradients(model, adapter))


def test_a_swap_with_a_stale_buffer_would_be_noticed():
    """The check above means something: without loading, the result is another one."""
    model, adapter = adapted()
    plain = gradients(model, adapter)
    swap = Swap(list(model.layers), CPU, slots=1)
    swap._fetch = lambda index: None
    assert not torch.equal(plain[0], gradients(model, adapter)[0])


def test_spread_is_even():
    assert spread(30, 15) == list(range(1, 30, 2))
    assert spread(30, 30) == list(range(30)) and spread(30, 0) == []
    assert len(spread(30, 7)) == 7


def test_block_sizes_are_aligned():
    (block,) = list(build_transformer().layers)[:1]
    assert size_of(block) % 256 == 0 and size_of(block) >= sum(t.numel() * 4 for t in frozen_tensors(block))


def test_blocks_to_keep_and_to_swap():
    gib = memory.GIB
    assert memory.blocks_to_keep(9 * gib, 8 * gib, gib // 2, gib // 8, 30) == 2  # 1 GiB over 3/8 each
    assert memory.blocks_to_keep(8 * gib, 9 * gib, gib // 2, 0, 30) == 0
    assert memory.blocks_to_keep(99 * gib, 8 * gib, gib // 2, 0, 30) == 30
    assert memory.blocks_to_swap(9 * gib, 8 * gib, gib // 5, 2, 30) == 0
    assert memory.blocks_to_swap(8 * gib, 9 * gib, gib // 4, 2, 30) == 6  # four quarters, and two buffers
    assert memory.blocks_to_swap(1 * gib, 9 * gib, gib // 5, 2, 30) == 30
