"""What the bytes of a run depend on: recorded, taken over, said; and nothing else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from engine_control import inputs
from engine_helpers import Attending

from charloom.engine import fuse
from charloom.engine.engine import FAILED
from charloom.engine.fitting import Fitting
from charloom.engine.inputs import Term, typical
from charloom.engine.options import EngineOptions
from charloom.engine.recompute import Recompute
from charloom.engine.swap import frozen_tensors
from charloom.kernels import attention
from charloom.train import origin

MADE = {"device": "a card", "torch": "2.11", "compile": True}


@pytest.mark.parametrize("tokens", [96, 1120, 2400, 4192, 16000])
@pytest.mark.parametrize("batch", [1, 4])
def test_heads_take_turns_in_equal_parts_that_fit(batch, tokens):
    n = attention.turns(batch, tokens, 30, 132, attention.ROOM)
    assert 30 % n == 0
    each = 2 * batch * 30 * tokens**2 / n
    assert each <= attention.ROOM or n == 30


def test_few_tokens_need_no_turns():
    assert attention.turns(1, 1120, 30, 132, attention.ROOM) == 1


def test_blocks_are_compiled_for_one_size_whatever_comes_first():
    lengths = (1536, 64, 64)
    shapes = {tuple(t.shape for t in typical(inputs(*size), lengths).tensors) for size in ((8, 32), (16, 64), (24, 96))}
    assert len(shapes) == 1
    (shape,) = shapes
    assert shape[0][0] == 2 and shape[4][1] % 32 == 0 and all(side <= 2 * 64 for side in shape[0][2:])


def test_terms_stay_as_many():
    one = inputs(8, 32)
    term = Term(torch.tensor([1]), one.caps[:1], one.pad[:1], 0.5)
    found = typical(replace(one, terms=(term, term)), (1536, 64, 64))
    assert [t.multiplier for t in found.terms] == [0.5, 0.5] and found.terms[0].caps.shape[:2] == (1, 96)


def test_an_attention_is_kept_from_the_first_computation_to_the_second():
    computed = []
    x = torch.ones(3, requires_grad=True)
    blocks = [Attending(computed) for _ in range(4)]
    recompute = Recompute(blocks)
    gradients = {}
    for kept, results in ((4, 0), (0, 0), (1, 2)):
        recompute.keep(kept)
        recompute.keep_results(results)
        computed.clear()
        h = x
        for block in blocks:
            h = block(h)
        (gradients[kept, results],) = torch.autograd.grad(h.sum(), x)
        # Forward four times; once more what neither is kept whole nor in its result.
        assert len(computed) == 4 + (4 - kept - results)
    assert all(torch.equal(g, gradients[4, 0]) for g in gradients.values())


def by_hand(query, key, value):
    """Attention of (B, T, heads, head_dim) by plain arithmetic."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return ((query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("wrong", ["", "output", "gradient", "nan", "raises"])
def test_a_kernel_is_used_only_where_it_computes_attention(monkeypatch, wrong):
    def attend(*given):
        if wrong == "raises":
            raise RuntimeError("no such kernel")
        if wrong == "output":
            return torch.ones_like(given[0]), torch.zeros(1)
        return by_hand(*given[:3]) * (float("nan") if wrong == "nan" else 1), torch.zeros(1)

    def gradients(gradient, *given):
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_() for one in given[:3]]
            found = torch.autograd.grad(by_hand(*leaves), leaves, gradient)
        return (found[0].flip(1), *found[1:]) if wrong == "gradient" else found

    monkeypatch.setattr(attention, "_attend", attend)
    monkeypatch.setattr(attention, "_attend_gradient", gradients)
    works = attention._works.__wrapped__("flash", torch.device("cpu"), torch.float32, 16, False)
    assert works == (not wrong)


def test_kernels_for_half_precision_get_nothing_else(monkeypatch):
    monkeypatch.setattr(attention, "_works", lambda *_: True)
    kinds = [attention.best_kind(torch.device("cpu"), d, 128, False) for d in (torch.float32, torch.bfloat16)]
    assert kinds == ["efficient", "cudnn"]
    assert attention.best_kind(torch.device("cpu"), torch.float16, 128, False, prefer_cudnn=False) == "flash"


def test_modulations_stay_when_a_block_moves_out():
    from engine_helpers import adapted

    model, _ = adapted()
    block = model.layers[0]
    weight = fuse.base_of(block.adaLN_modulation[0]).weight
    assert any(t is weight for t in frozen_tensors(block))
    at_once = fuse.Modulations(model.layers)
    assert not any(t is weight for t in frozen_tensors(block))
    at_once.remove()
    assert any(t is weight for t in frozen_tensors(block))


def test_what_did_not_work_is_not_tried_again_in_the_middle_of_a_run():
    options = EngineOptions()
    assert origin.taken_over(options, MADE) == options == origin.taken_over(options, {})
    made = {**MADE, "compile": FAILED}
    again = origin.taken_over(options, made)
    assert not again.compile
    # It stays recorded, and is not a difference worth a line.
    now = origin.facts({**MADE, "compile": again.compile}, made)
    assert now == made and origin.differences(made, now) is None


def test_going_on_with_other_versions_is_said_in_one_line():
    assert origin.differences(MADE, dict(MADE)) is None
    assert origin.differences({}, MADE) is None  # a state of an earlier version of this program
    line = origin.differences(MADE, {**MADE, "torch": "2.13", "device": "another card"})
    assert "torch 2.11 (now 2.13)" in line and "a card (now another card)" in line and "\n" not in line


@pytest.mark.parametrize("blocks, limit, wanted", [(30, 100, 30), (30, 40, 10), (30, 30, 0), (30, 29, 0), (4, 35, 4)])
@pytest.mark.parametrize("more", [0, 3])
def test_as_many_blocks_keep_their_attention_as_fit(blocks, limit, wanted, more):
    """``more``: bytes that only a trial shows."""
    state = {"kept": 0, "trials": 0}

    def peak(_):
        state["trials"] += 1
        return 30 + state["kept"] * 1 + (more if state["kept"] else 0)

    fitting = SimpleNamespace(
        model=SimpleNamespace(layers=range(blocks)),
        recompute=SimpleNamespace(keep_results=lambda count: state.update(kept=count)),
        _peak=peak,
    )
    found, used = Fitting._search_results(fitting, None, 1, limit, 30, 1)
    fits = [n for n in range(blocks + 1) if 30 + n + (more if n else 0) <= limit or not n]
    assert found == max(fits) == state["kept"] and used == 30 + found + (more if found else 0)
    assert state["trials"] <= 3 and (more or found == wanted)


@pytest.mark.parametrize("batch, room", [(1, 10**9), (1, 20_000), (2, 20_000), (2, 1)])
def test_heads_that_take_turns_give_all_gradients(monkeypatch, batch, room):
    """cuDNN by a stand-in that computes the same on the CPU and insists on packed logarithms."""
    tokens, heads, dim, calls = 32, 6, 16, []

    class Plan:
        def execute(self, given, workspace, handle):
            gradient, query, key, value, _, sums, *found = (given[name] for name in range(9))
            size = query.shape[1]
            assert sums.stride() == (size * tokens, tokens, 1, 1) and workspace.numel() == 7
            calls.append(size)
            parts = [x.detach().clone().requires_grad_() for x in (query, key, value)]
            out = torch.nn.functional.scaled_dot_product_attention(*parts)
            for place, one in zip(found, torch.autograd.grad(out, parts, gradient), strict=True):
                place.copy_(one)

    properties = SimpleNamespace(multi_processor_count=4)
    monkeypatch.setattr(attention, "_plan", lambda device, dtype, layout: (Plan(), range(9), 7))
    monkeypatch.setattr(attention, "_handle", lambda device: None)
    monkeypatch.setattr(attention, "_cudnn", lambda: SimpleNamespace(set_stream=lambda handle, stream: None))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    query, key, value, gradient = (torch.randn(batch, tokens, heads, dim) for _ in range(4))
    parts = [x.clone().requires_grad_() for x in (query, key, value)]
    out = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in parts)).transpose(1, 2)
    wanted = torch.autograd.grad(out, parts, gradient)
    sums = torch.zeros(batch, heads, tokens)
    found = attention._by_cudnn(gradient, query, key, value, out.detach().contiguous(), sums, room)
    assert sum(calls) == heads and len(calls) == attention.turns(batch, tokens, heads, 4, room)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
