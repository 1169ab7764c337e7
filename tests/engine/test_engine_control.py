"""How the engine reacts when something is missing, breaks or does not fit, on a CPU that poses as a GPU."""

from __future__ import annotations

import pytest
import torch
from engine_control import CPU, GIB, Replay, compilers_work, engine_of, fake_gpu, inputs, run_short  # noqa: F401 (fixtures)
from engine_helpers import adapted

from charloom.core.errors import UserError
from charloom.engine import compile as compiling
from charloom.engine import engine as engines
from charloom.engine import fitting, graphs, memory
from charloom.engine.fitting import Fitting
from charloom.engine.options import EngineOptions


def step(engine, *batches):
    """Losses and gradients of one step."""
    engine.zero_grad()
    losses = torch.cat([engine.accumulate(one) for one in batches])
    return losses.clone(), {name: p.grad.clone() for name, p in engine.adapter.parameters.items()}


@pytest.fixture
def plain():
    """A step of the untouched model."""

    def run(*batches):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engines, "is_gpu", lambda device: False)
            return step(engine_of(), *batches)

    return run


def assert_same(a, b):
    torch.testing.assert_close(a[0], b[0], rtol=1e-5, atol=1e-6)
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=1e-4, atol=1e-7)


def test_the_first_step_of_a_shape_is_measured_and_recorded_once(plain, fake):
    wanted = [plain(inputs()), plain(inputs(12, 64))]
    said = []
    engine = engine_of(said=said)
    for _ in range(3):
        assert_same(step(engine, inputs()), wanted[0])
        assert_same(step(engine, inputs(12, 64)), wanted[1])
    assert Replay.made == 2 and len(said) == 2
    assert "64x64, 32 caption tokens: 0 of 4 blocks recompute" in said[0]


def test_a_step_that_is_repeated_draws_the_same_random_numbers(fake):
    """Dropout in LoRA draws from the GPU's generator, in LoKr from the CPU's."""

    def run(fails):
        engine, left = engine_of(dropout=0.5), iter([fails])
        compute = engine._plain

        def short(one):
            losses = compute(one)
            if engine.fitting.kept and next(left, False):  # not in a trial
                raise torch.OutOfMemoryError("CUDA out of memory")
            return losses

        engine._plain = short
        torch.manual_seed(1)
        return step(engine, inputs())

    assert_same(run(fails=True), run(fails=False))


@pytest.mark.parametrize(("length", "almost", "measured"), [(32, 1.5, False), (32, 1.4, True), (96, 1.5, True)])
def test_a_hardly_smaller_shape_takes_over_what_was_measured(plain, fake, monkeypatch, length, almost, measured):
    """Trials take seconds, and pictures of many shapes have about as many tokens; here 136, 200 and 264."""
    monkeypatch.setattr("charloom.engine.inputs.ALMOST", almost)
    fake["budget"] = 2 * GIB  # too little for all blocks to keep their activations
    engine = engine_of()
    step(engine, inputs(12, 64))
    trials, peak = [], engine.fitting._peak
    monkeypatch.setattr(engine.fitting, "_peak", lambda run: trials.append(run) or peak(run))
    assert_same(step(engine, inputs(12, length)), plain(inputs(12, length)))
    assert bool(trials) == measured and Replay.made == 2
    first, second = engine.fitting.kept.values()
    assert first == second > 0


def test_only_what_was_measured_is_taken_over(fake, monkeypatch):
    """Else counts would be handed on from shape to shape, to ones much smaller than that of the trials."""
    monkeypatch.setattr("charloom.engine.inputs.ALMOST", 1.5)
    engine, trials = engine_of(), []
    peak = engine.fitting._peak
    monkeypatch.setattr(engine.fitting, "_peak", lambda run: trials.append(run) or peak(run))
    for length, measured in ((64, True), (32, False), (0, True)):
        before = len(trials)
        step(engine, inputs(12 if length else 8, length or 32))
        assert (len(trials) > before) == measured


def test_a_shape_that_needs_more_than_it_took_over_is_measured(plain, fake, monkeypatch):
    monkeypatch.setattr("charloom.engine.inputs.ALMOST", 1.5)
    engine = engine_of()
    step(engine, inputs(12, 64))
    trials, peak = [], engine.fitting._peak
    monkeypatch.setattr(engine.fitting, "_peak", lambda run: trials.append(run) or peak(run))
    left = run_short(engine, 1)
    assert_same(step(engine, inputs(12, 32)), plain(inputs(12, 32)))
    assert not left and trials and Replay.made == 2


def test_a_new_shape_in_the_middle_of_a_step_loses_no_gradient(plain, fake):
    """Measuring and recording run the batch several times; only one of them may count."""
    wanted = plain(inputs(), inputs(12, 64), inputs(8, 64))
    assert_same(step(engine_of(), inputs(), inputs(12, 64), inputs(8, 64)), wanted)


@pytest.mark.parametrize(
    ("budget", "block", "most", "recompute"),
    [
        (8, 0.5, 8, 0),
        (2, 0.5, 8, 1),
        (1.2, 0.5, 8, 3),
        (2, 0.4, 8, 1),  # one takes less than it looked like
        (2, 0.9, 8, 2),  # or more
        (8, 0.5, 1.6, 2),  # the card holds less than the budget allows
    ],
)
def test_the_budget_decides_how_many_blocks_recompute(fake, budget, block, most, recompute):
    fake.update(budget=int(budget * GIB), block=int(block * GIB), most=int(most * GIB))
    said = []
    engine = engine_of(said=said)
    step(engine, inputs())
    assert f"{recompute} of 4 blocks recompute" in said[0]
    assert list(engine.fitting.kept.values()) == [4 - recompute]


def test_blocks_are_put_together_while_the_engine_is_there(fake):
    engine = engine_of()
    attention = engine.model.layers[0].attention
    assert engine.model.__dict__["modulations"] and attention.rotated and attention.fused
    engine.remove()
    assert "modulations" not in engine.model.__dict__
    apart = engine_of(EngineOptions(fuse=False)).model
    assert "modulations" not in apart.__dict__ and not hasattr(apart.layers[0].attention, "rotated")


def test_what_trials_do_not_show_has_its_place_in_the_budget(fake, monkeypatch):
    fake["budget"] = 2 * GIB  # one GiB of blocks that keep half of one each, exactly
    monkeypatch.setattr(memory, "UNSEEN", 1)
    engine = engine_of()
    step(engine, inputs())
    assert list(engine.fitting.kept.values()) == [2]


def test_a_budget_too_small_for_recomputation_swaps(fake):
    fake["budget"], fake["peak"] = 1 * GIB, 2 * GIB
    said = []
    engine = engine_of(said=said)
    step(engine, inputs())
    assert len(engine.swap.blocks) == 4 and any("live in main memory now" in line for line in said)
    assert any("needs 2.0 GiB" in line and "more than the 1.0 GiB" in line for line in said), said

    def short(predict, one):
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine.loss = short
    with pytest.raises(UserError, match="even with every block in main memory"):
        step(engine, inputs(12, 64))


@pytest.mark.parametrize(
    ("offloading", "budget", "blocks"),
    [(False, 2.5, 3), (True, 1.6, 3), (True, 2.1, 2), (True, 1.1, 4)],  # half a GiB is two for the buffers, or one more
)
def test_no_more_blocks_are_swapped_than_are_missing(fake, monkeypatch, offloading, budget, blocks):
    fake["budget"] = int(budget * GIB)
    monkeypatch.setattr(fitting, "size_of", lambda block: GIB // 2)
    monkeypatch.setattr(Fitting, "fixed", lambda self: 0)
    monkeypatch.setattr(Fitting, "_outputs", lambda self, tokens: 0)
    monkeypatch.setattr(Fitting, "_peak", lambda self, step: 3 * GIB - self.swapped * GIB // 2)
    said = []
    engine = engine_of(EngineOptions(layer_offloading=offloading), said=said)
    step(engine, inputs())
    assert engine.fitting.swapped == blocks
    found = ["live in main memory now" in line for line in said]
    assert found == ([False] if blocks == 2 else [True, False]), said


def test_what_swapping_cannot_do_is_not_put_down_to_something_else(fake, monkeypatch):
    """Main memory may be short as well: that must end the run with its own message, and at once."""
    fake["budget"], fake["peak"] = 1 * GIB, 2 * GIB
    said, tried = [], []

    def swap(blocks, device):
        tried.append(len(blocks))
        raise error

    monkeypatch.setattr(engines, "Swap", swap)
    for error in (RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError("CUDA out of memory")):
        engine = engine_of(said=said)
        with pytest.raises(type(error), match="out of memory"):
            step(engine, inputs())
        assert engine.compiled and len(tried) == 1 and not said
        tried.clear()


def test_the_first_guess_at_swapping_leaves_room_for_what_trials_do_not_show(fake, monkeypatch):
    fake["budget"] = 2 * GIB
    monkeypatch.setattr(Fitting, "fixed", lambda self: 2 * GIB - 3 * fitting.size_of(self.model.layers[0]))
    assert engine_of().swap is None
    monkeypatch.setattr(memory, "UNSEEN", 1)
    assert engine_of().swap is not None


@pytest.mark.parametrize("option", ["layer_offloading", "weights", "activations"])
def test_swapping_may_be_asked_for_or_follow_from_the_budget(plain, fake, monkeypatch, option):
    wanted = plain(inputs())
    if option == "weights":
        monkeypatch.setattr(Fitting, "fixed", lambda self: 9 * GIB)
    tokens = 10**9 if option == "activations" else None
    engine = engine_of(EngineOptions(layer_offloading=option == "layer_offloading"), largest=tokens)
    assert len(engine.swap.blocks) == (2 if option == "layer_offloading" else 4)
    for _ in range(2):
        assert_same(step(engine, inputs()), wanted)


def test_running_out_of_memory_goes_down_the_ladder(plain, fake):
    wanted = plain(inputs())
    said = []
    engine = engine_of(EngineOptions(graphs=False), said=said)
    step(engine, inputs())
    run_short(engine, 4)
    assert_same(step(engine, inputs()), wanted)
    steps = [line for line in said if "out of GPU memory" in line]
    assert ["2 instead of 4" in steps[0], "1 instead of 2" in steps[1], "0 instead of 1" in steps[2]] == [True] * 3
    assert "4 of 4 blocks live in main memory now" in steps[3] and len(steps) == 4
    assert_same(step(engine, inputs()), wanted)


def test_recordings_make_room_for_a_new_shape_first(plain, fake):
    wanted = [plain(inputs()), plain(inputs(12, 64))]
    said = []
    engine = engine_of(said=said)
    step(engine, inputs())
    run_short(engine, 1)
    assert_same(step(engine, inputs(12, 64)), wanted[1])
    assert set(engine.fitting.kept.values()) == {4} and Replay.made == 2 and not any("out of" in line for line in said)
    assert_same(step(engine, inputs()), wanted[0])
    assert Replay.made == 3  # without being measured again
    assert len(said) == 2


@pytest.mark.parametrize(("limit", "card", "crowded"), [(6.5, 24, False), (6.5, 8, True), (None, 8, True)])
def test_a_trial_has_no_more_room_than_the_card(monkeypatch, limit, card, crowded):
    """6 GiB are reserved by recordings, 4 allocated, and the trial takes 1.5."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((card - 6.5) * GIB, card * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 * GIB)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 1.0, raising=False)
    assert memory.crowded(limit, torch.device("cuda", 0), int(1.5 * GIB)) is crowded


def test_crowded_recordings_are_made_from_large_to_small(plain, fake):
    """Then they share memory; a trial of a new shape needs room beside them, too."""
    wanted = [plain(inputs()), plain(inputs(12, 64))]
    engine = engine_of()
    fake["crowded"] = True
    seen = []
    for index in (0, 1, 0, 1, 0):
        assert_same(step(engine, inputs() if index == 0 else inputs(12, 64)), wanted[index])
        seen.append((Replay.made, len(engine._recorded)))
    assert seen == [(1, 1), (2, 1), (3, 2), (3, 2), (3, 2)]
    engine.drop_graphs()
    for index in (0, 1, 0):  # sizes are known now: only recording them is left
        assert_same(step(engine, inputs() if index == 0 else inputs(12, 64)), wanted[index])
    assert (Replay.made, len(engine._recorded)) == (6, 2)


def test_crowded_recordings_settle_down(fake):
    """However the shapes take turns, recording them comes to an end."""
    engine = engine_of()
    fake["crowded"] = True
    shapes = [(8, 32), (12, 64), (10, 32), (12, 32), (8, 96)]
    made = []
    for _ in range(4):
        for size, length in shapes:
            step(engine, inputs(size, length))
        made.append(Replay.made)
    assert len(engine._recorded) == len(shapes) and made[1] == made[2] == made[3], made


def test_a_compiler_that_fails_is_left_out_with_one_line(plain, fake, monkeypatch):
    wanted = plain(inputs())

    def broken(*arguments):
        raise RuntimeError("no compiler here\nand more")

    def compile_blocks(model, prefer_cudnn):
        for block in model.layers:
            block.__dict__[compiling._BEFORE] = block.__dict__.get("forward")
            block.forward = broken

    monkeypatch.setattr(compiling, "compile_blocks", compile_blocks)
    said = []
    engine = engine_of(said=said)
    assert_same(step(engine, inputs()), wanted)
    told = [line for line in said if "torch.compile does not work here" in line]
    assert len(told) == 1 and "no compiler here" in told[0] and "and more" not in told[0] and engine.graphed


def test_a_recording_that_fails_is_left_out_with_one_line(plain, fake, monkeypatch):
    wanted = plain(inputs())

    def broken(*arguments):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "Recorded", broken)
    said = []
    engine = engine_of(said=said)
    for _ in range(2):
        assert_same(step(engine, inputs()), wanted)
    assert len([line for line in said if "CUDA graphs do not work here" in line]) == 1 and engine.compiled


def test_what_is_not_the_engines_fault_is_raised(fake):
    engine = engine_of()

    def broken(predict, one):
        raise ValueError("a mistake in the loss")

    engine.loss = broken
    with pytest.raises(ValueError, match="a mistake in the loss"):
        step(engine, inputs())


def test_switched_off_means_off(fake):
    said = []
    engine = engine_of(EngineOptions(compile=False, graphs=False, fuse=False), said=said)
    step(engine, inputs())
    assert not engine.compiled and not engine.graphed and Replay.made == 0
    assert not any("fused" in dict(block.attention.named_children()) for block in engine.model.layers)


def test_dropout_runs_without_recordings(fake):
    model, adapter = adapted(dropout=0.1)
    engine = engines.Engine(model, adapter, None, CPU, EngineOptions(), log=lambda _: None)
    assert not engine.graphed and engine.recompute.random
