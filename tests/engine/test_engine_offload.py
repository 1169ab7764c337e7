"""Activation offloading: the same numbers, whatever waits in main memory."""

from __future__ import annotations

import pytest
import torch
from engine_control import GIB, compilers_work, engine_of, fake_gpu, inputs  # noqa: F401 (fixtures)
from engine_helpers import CPU, LAYERS, Attending, adapted, assert_same, gradients, gradients_free

from charloom.engine import fitting, graphs, host, memory, offload
from charloom.engine.fitting import Fitting
from charloom.engine.offload import Offload
from charloom.engine.options import EngineOptions
from charloom.engine.recompute import Recompute

ROOM = 2**24
"""Bytes, enough for everything that the tiny model sends away."""


@pytest.mark.parametrize("size", [ROOM, 100_000, 0])
@pytest.mark.parametrize("kept", [0, 1, 3, LAYERS])
def test_blocks_recompute_the_same_from_main_memory(size, kept):
    model, adapter = adapted()
    plain = gradients(model, adapter, 2)
    recompute = Recompute(model.layers)
    recompute.keep(kept)
    recompute.offload = Offload(CPU, size, small=0)
    for _ in range(2):  # the second step reuses the memory of the first
        recompute.offload.forget()
        assert_same(plain, gradients(model, adapter, 2))
        assert len(recompute.offload.blocks) == 2 * (LAYERS - kept)
    each = 2 * (10 * 10 + 28 + 32) * model.config.dim * 4  # the input of a block, padded
    # What the last block saves stays where no block computes after it.
    went = 2 * (LAYERS - max(kept, 1))
    assert recompute.offload.used == min(went, size // each) * each
    recompute.offload.forget()
    with torch.no_grad():
        gradients_free(model)
    assert not recompute.offload.blocks  # nothing waits for a backward pass that does not come


def test_what_is_damaged_in_main_memory_would_be_noticed():
    """The check above means something: the backward pass reads what waits there."""
    model, adapter = adapted()
    plain = gradients(model, adapter)
    recompute = Recompute(model.layers)
    recompute.offload = Offload(CPU, ROOM, small=0)
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
    computed = []
    x = torch.rand(3, requires_grad=True)

    def run(blocks):
        computed.clear()
        h = x
        for block in blocks:
            h = block(h)
        return torch.autograd.grad(h.sum(), x)[0]

    blocks = [Attending(computed) for _ in range(4)]
    wanted = run(blocks)
    recompute = Recompute(blocks)
    recompute.offload = Offload(CPU, size, small=0)
    recompute.keep_results(3)
    assert torch.equal(run(blocks), wanted)
    assert len(computed) == 4 + 1


def test_tensors_are_loaded_in_the_order_in_which_they_were_saved():
    away = Offload(CPU, 2000, small=12)
    tensors = [torch.arange(3.0), torch.tensor([True]), torch.arange(8, dtype=torch.bfloat16).view(2, 4).t()]
    first = away.begin_block()
    for one in tensors:
        first.save(one)
    second = away.begin_block()
    assert away.used == 512  # the boolean is too small to be worth it
    second.save(torch.zeros(1000))
    away.end_block()
    assert away.used == 512  # no room
    away.end_block()
    assert torch.equal(second.load(), torch.zeros(1000))
    for wanted in tensors:
        found = first.load()
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype


def test_several_passes_wait_for_one_backward_pass():
    """As with preservation: the bare base in between, without gradients, leaves nothing behind."""
    model, adapter = adapted(dropout=0.3)
    model.train()

    def run():
        for parameter in adapter.parameters.values():
            parameter.grad = None
        torch.manual_seed(7)
        first = gradients_free(model)
        with torch.no_grad(), adapter.disabled():
            bare = gradients_free(model)
        (first - bare).square().mean().add(gradients_free(model).mean()).backward()
        return first.detach(), {name: p.grad.clone() for name, p in adapter.parameters.items()}

    plain = run()
    recompute = Recompute(model.layers, random=True)
    recompute.offload = Offload(CPU, ROOM, small=0)
    for kept in (0, 2):
        recompute.keep(kept)
        recompute.offload.forget()
        assert_same(plain, run())
        assert len(recompute.offload.blocks) == 2 * (LAYERS - kept)
        assert not any(saved._tensors for saved in recompute.offload.blocks)


def test_main_memory_is_given_back():
    away = Offload(CPU, ROOM)
    away.begin_block().save(torch.zeros(ROOM // 4))
    away.end_block()
    away.close()
    assert not away.usable and not away.blocks and not away.buffer.nbytes


@pytest.mark.parametrize(
    ("free", "ranks", "taken"),
    [(40, 1, 10), (40, 4, 2.5), (16, 1, 2), (9, 1, 3)],
    ids=["a part of what previews leave", "ranks share it", "little is left", "previews do not fit anyway"],
)
def test_main_memory_is_taken_with_restraint(monkeypatch, free, ranks, taken):
    gib = 2**30
    monkeypatch.setattr(host, "available", lambda: free * gib)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: ranks > 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    assert offload.spare(10 * gib) == pytest.approx(taken * gib, abs=1)


# -- how much is offloaded ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "options", "blocks"),
    [(8, {}, 0), (0, {}, 4), (8, {"offload": False}, 4), (8, {"layer_offloading": True}, 4)],
)
def test_no_block_is_swapped_for_what_can_wait_in_main_memory(fake, monkeypatch, free, options, blocks):
    tokens, dim = 1000, 64
    outputs = 4 * 4 * tokens * dim  # of four blocks, in fp32
    monkeypatch.setattr(host, "available", lambda: free * GIB)
    monkeypatch.setattr(Fitting, "fixed", lambda self: GIB)
    fake["budget"] = GIB + memory.WORKING_BYTES * tokens * dim + outputs // 2
    engine = engine_of(EngineOptions(**options), largest=tokens)
    assert engine.model.config.dim == dim and engine.fitting.swapped == blocks


def test_what_waits_in_main_memory_comes_back_when_blocks_are_swapped(fake, monkeypatch):
    """An eighth of a GiB is missing: a block, and two for what the swapped ones share; outputs take one more."""
    fake["budget"] = int(2.5 * GIB)
    monkeypatch.setattr(fitting, "size_of", lambda block: GIB // 8)
    monkeypatch.setattr(Fitting, "fixed", lambda self: 0)
    monkeypatch.setattr(Fitting, "_peak", lambda self, step: 21 * GIB // 8)
    for outputs, blocks in ((GIB // 8, 4), (0, 3)):
        monkeypatch.setattr(Fitting, "_outputs", lambda self, tokens, outputs=outputs: outputs)
        engine = engine_of()
        with pytest.raises(torch.OutOfMemoryError):
            engine.fitting.measure(graphs.shape_key(inputs().tensors), inputs(), engine._plain)
        assert engine.fitting._offload and engine.fitting.missing() == blocks


def test_a_shape_that_does_not_fit_in_main_memory_stays_on_the_gpu(fake, monkeypatch):
    made = []

    class Refused(Offload):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)
            self.usable = False

    monkeypatch.setattr(host, "available", lambda: GIB)
    monkeypatch.setattr(Fitting, "_outputs", lambda self, tokens: tokens)
    monkeypatch.setattr(Fitting, "roomy", lambda self: False)
    found = engine_of(largest=10**6).fitting
    assert found._offload_for(GIB) is None
    assert found._offload_for(1000).buffer.nbytes == 2 * 10**6 + offload.SLACK
    assert found._offload_for(10**6) is found._offload and found._offload_for(10**6 + 1) is None
    found.use(None, None, None)
    assert found._offload is None
    monkeypatch.setattr(fitting, "Offload", Refused)
    assert found._offload_for(1000) is None and found._offload_for(1000) is None and len(made) == 1


def test_only_attentions_on_the_gpu_make_room(fake):
    found = engine_of().fitting
    found.kept, found.results = {"here": 1, "away": 1}, {"here": 3, "away": 4}
    found.offloads = {"away"}
    assert [found.lower("here") for _ in range(4)] == [True, True, True, False]
    assert [found.lower("away") for _ in range(2)] == [True, False]
    assert not any(found.kept.values()) and found.results == {"here": 0, "away": 4}
