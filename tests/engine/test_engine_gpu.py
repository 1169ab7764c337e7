"""What only a GPU can show: CUDA graphs, float8 units, block swap, and the fallbacks when memory runs out."""

from __future__ import annotations

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from engine_control import compilers_work, run_short  # noqa: F401 (a fixture for every test)
from tiny_models import build_transformer

from charloom.engine import fitting
from charloom.engine.engine import Engine
from charloom.engine.inputs import Inputs
from charloom.engine.offload import SMALL, Offload
from charloom.engine.options import EngineOptions
from charloom.kernels import attention, linears, quantize
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.train import optim
from charloom.train.records import Numbers
from charloom.train.settings import Optimisation
from charloom.train.step import loss_of, to_device
from charloom.zimage import forward

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

GPU = torch.device("cuda")
PLAIN = EngineOptions(compile=False, graphs=False, cudnn_attention=False, fuse=False, deterministic=False)


def adapted(kind: str = "none", dtype: torch.dtype = torch.bfloat16, dim: int = 256):
    """A small model of six blocks with a LoRA that does something."""
    torch.manual_seed(0)
    config = {**build_transformer().config, "dim": dim, "n_layers": 6, "n_heads": dim // 32, "n_kv_heads": dim // 32}
    model = forward.prepare(ZImageTransformer2DModel.from_config(config)).to(GPU, dtype).requires_grad_(False)
    if kind != "none":
        quantize.quantize(model, kind)
    adapter = attach(model, Network(rank=8, alpha=12), 1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.train()
    return model, adapter


def inputs(size: int = 16, length: int = 64, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    pad = torch.zeros(2, length, 1, dtype=torch.bool)
    pad[:, length - 5 :] = True
    parts = (
        torch.randn(2, 16, size, size, generator=generator),
        torch.randn(2, 16, size, size, generator=generator),
        torch.rand(2, generator=generator),
        torch.ones(2),
        torch.randn(2, length, build_transformer().config.cap_feat_dim, generator=generator),
        pad,
    )
    return Inputs(*(part.to(GPU) for part in parts))


def engine_of(model, adapter, options, said=None, **more) -> Engine:
    def loss(predict, one):
        return loss_of(predict, adapter, one, Optimisation())

    return Engine(model, adapter, loss, GPU, options, log=(said if said is not None else []).append, **more)


def run(options, kind="none", steps=((16, 64), (12, 32), (16, 64)), dtype=torch.bfloat16, said=None, **more):
    """Losses of some steps of several shapes, and the gradients of the last."""
    model, adapter = adapted(kind, dtype)
    engine = engine_of(model, adapter, options, said, **more)
    losses = []
    for seed, (size, length) in enumerate(steps):
        engine.zero_grad()
        losses.append(engine.accumulate(inputs(size, length, seed)).cpu())
    return torch.cat(losses), {name: p.grad.float().cpu().clone() for name, p in adapter.parameters.items()}, engine


def cosine(a, b) -> float:
    values = sorted(torch.nn.functional.cosine_similarity(a[n].flatten(), b[n].flatten(), dim=0).item() for n in a)
    return values[len(values) // 20]


@pytest.mark.parametrize("kind", ["none", "float8", "int8", "nf4"])
def test_the_engine_computes_what_the_plain_model_does(kind):
    if kind == "nf4":
        pytest.importorskip("bitsandbytes")
    losses, wanted, _ = run(PLAIN, kind)
    said = []
    got_losses, got, engine = run(EngineOptions(), kind, said=said)
    assert engine.compiled and engine.graphed and len(engine._recorded) == 2, said
    assert engine.attention in attention.KINDS
    torch.testing.assert_close(got_losses, losses, rtol=2e-2, atol=1e-2)
    assert cosine(got, wanted) > 0.98
    worst = min(torch.cosine_similarity(got[name].flatten(), wanted[name].flatten(), dim=0) for name in wanted)
    assert worst > 0.9  # no tensor at all is something else


def test_a_recording_gives_the_same_as_running_it():
    options = EngineOptions(graphs=False)
    losses, wanted, _ = run(options, dtype=torch.float32)
    got_losses, got, _ = run(EngineOptions(), dtype=torch.float32)
    torch.testing.assert_close(got_losses, losses, rtol=1e-5, atol=1e-6)
    assert cosine(got, wanted) > 0.9999


def test_gradients_accumulate_over_shapes():
    model, adapter = adapted(dtype=torch.float32)
    engine = engine_of(model, adapter, EngineOptions())
    first, second = inputs(16, 64, 1), inputs(12, 32, 2)
    for _ in range(2):  # the second round has nothing to record any more
        sums = {}
        for one in (first, second):
            engine.zero_grad()
            engine.accumulate(one)
            for name, p in adapter.parameters.items():
                sums[name] = sums.get(name, 0) + p.grad.clone()
        engine.zero_grad()
        engine.accumulate(first)
        engine.accumulate(second)
        for name, p in adapter.parameters.items():
            torch.testing.assert_close(p.grad, sums[name], rtol=1e-4, atol=1e-7)
    # A shape that appears for the first time in the middle of a step.
    third = inputs(20, 32, 3)
    engine.zero_grad()
    engine.accumulate(first)
    before = {name: p.grad.clone() for name, p in adapter.parameters.items()}
    engine.accumulate(third)
    together = {name: p.grad.clone() for name, p in adapter.parameters.items()}
    engine.zero_grad()
    engine.accumulate(third)
    for name, p in adapter.parameters.items():
        torch.testing.assert_close(p.grad + before[name], together[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("graphed", [True, False])
def test_swapped_blocks_compute_the_same(graphed):
    # Without deterministic, resident blocks are modulated together and swapped ones are not: other bits.
    options = EngineOptions(layer_offloading=True, graphs=graphed, deterministic=True)
    losses, wanted, _ = run(EngineOptions(deterministic=True), "float8")
    got_losses, got, engine = run(options, "float8", steps=((16, 64), (12, 32), (16, 64)))
    assert len(engine.swap.blocks) == 3
    assert torch.equal(got_losses, losses)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    with torch.no_grad():  # a look between two steps must not disturb the recording
        x = torch.randn(1, 16, 16, 16, device=GPU)
        caps = torch.randn(1, 32, build_transformer().config.cap_feat_dim, device=GPU)
        engine.predict(x, torch.tensor([0.5], device=GPU), caps, torch.zeros(1, 32, 1, dtype=torch.bool, device=GPU))
    engine.zero_grad()
    again = engine.accumulate(inputs(16, 64, 2)).cpu()
    torch.testing.assert_close(again, got_losses[-2:], rtol=0, atol=0)


@pytest.mark.parametrize("graphed", [True, False])
@pytest.mark.parametrize("small", [0, SMALL])
def test_activations_in_main_memory_change_nothing(monkeypatch, graphed, small):
    """However long the copies take."""
    copy = Offload.copy

    def late(self, targets, sources):
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            torch.cuda._sleep(2_000_000)
        return copy(self, targets, sources)

    steps = ((16, 64), (12, 32), (16, 64))
    losses, wanted, plain = run(EngineOptions(deterministic=True, offload=False), "float8", steps)
    monkeypatch.setattr(Offload, "copy", late)
    monkeypatch.setattr(fitting.Fitting, "_offload_for", lambda self, tokens: self._offload)
    monkeypatch.setattr(fitting.Fitting, "_search", lambda *_: 2)
    made = fitting.Fitting.use

    def use(self, *arguments):
        made(self, *arguments)
        self._offload = Offload(GPU, 2**24, small)

    monkeypatch.setattr(fitting.Fitting, "use", use)
    said = []
    options = EngineOptions(deterministic=True, graphs=graphed)
    got_losses, got, engine = run(options, "float8", steps, said=said)
    assert len(engine.fitting.offloads) == 2 and engine.graphed == graphed, said
    assert bool(engine.fitting._offload.used) == (small == 0)
    assert torch.equal(got_losses, losses)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    for seed in range(10):  # replayed without a pause between steps
        found = []
        for one in (engine, plain):
            one.zero_grad()
            one.accumulate(inputs(16, 64, seed))
            found.append([p.grad.clone() for p in one.adapter.parameters.values()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), seed


@pytest.mark.parametrize("deterministic", [True, False])
def test_fp32_gets_a_kernel_for_fp32(deterministic):
    losses, wanted, _ = run(PLAIN, dtype=torch.float32)
    got_losses, got, engine = run(EngineOptions(deterministic=deterministic), dtype=torch.float32)
    assert engine.attention == "efficient"
    torch.testing.assert_close(got_losses, losses, rtol=1e-4, atol=1e-5)
    assert cosine(got, wanted) > 0.999


def test_units_equal_their_emulation():
    if quantize.best_mode(GPU) != "units":
        pytest.skip("this GPU has no float8 units")
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 384, bias=False).to(GPU, torch.bfloat16)
    module = linears.Float8Linear.from_linear(linear)
    results = []
    for mode in ("units", "emulate"):
        module.mode = mode
        x = torch.randn(40, 256, device=GPU, generator=torch.Generator(GPU).manual_seed(1)).bfloat16().requires_grad_()
        out = module(x)
        out.backward(torch.randn(40, 384, device=GPU, generator=torch.Generator(GPU).manual_seed(2)).bfloat16())
        results.append((out.detach().float(), x.grad.float()))
    for units, emulated in zip(*results, strict=True):
        assert (units - emulated).norm() / emulated.norm() < 1e-2


def test_transposed_copies_change_nothing():
    losses, wanted, plain = run(EngineOptions(), "float8")
    got_losses, got, roomy = run(EngineOptions(), "float8", largest=320)
    kept = [m.weight_t is not None for m in quantize.quantized(roomy.model.layers) if m.fits_units and not m.is_part]
    assert all(kept) and not any(m.weight_t is not None for m in quantize.quantized(plain.model))
    assert torch.equal(got_losses, losses)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_out_of_memory_steps_down_and_says_so(monkeypatch):
    said = []
    model, adapter = adapted("float8")
    engine = engine_of(model, adapter, EngineOptions(), said)
    wanted = engine.accumulate(inputs()).cpu()
    engine.drop_graphs()
    failures = run_short(engine, 2)
    engine.zero_grad()
    got = engine.accumulate(inputs()).cpu()
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    assert any("3 instead of 6 blocks keep" in line for line in said), said
    engine.fitting.kept = dict.fromkeys(engine.fitting.kept, 0)
    engine.fitting.results.clear()
    engine.drop_graphs()
    failures.append(1)
    engine.zero_grad()
    got = engine.accumulate(inputs()).cpu()
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    assert engine.swap is not None and any("live in main memory now" in line for line in said), said
    assert engine.graphed, said


@pytest.mark.parametrize("part", ["compile", "graphs"])
def test_what_does_not_work_is_left_out_with_one_line(monkeypatch, part):
    from charloom.engine import compile as compiling
    from charloom.engine import graphs

    def broken(*arguments, **more):
        raise RuntimeError("no compiler here\nand more")

    if part == "compile":

        def compile_blocks(model, prefer_cudnn):
            for block in compiling.blocks_of(model):
                block.__dict__[compiling._BEFORE] = block.__dict__.get("forward")
                block.forward = broken

        monkeypatch.setattr(compiling, "compile_blocks", compile_blocks)
    else:
        monkeypatch.setattr(graphs, "Recorded", broken)
    losses, wanted, _ = run(PLAIN)
    said = []
    got_losses, got, engine = run(EngineOptions(), said=said)
    named = [line for line in said if "no compiler here" in line]
    assert len(named) == 1 and "and more" not in named[0]
    assert (engine.compiled, engine.graphed) == ((False, True) if part == "compile" else (True, False))
    torch.testing.assert_close(got_losses, losses, rtol=2e-2, atol=1e-2)
    assert cosine(got, wanted) > 0.98


def test_eight_bit_adam_on_the_gpu_goes_on_from_its_state():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)

    def fresh():
        return [torch.nn.Parameter(torch.ones(64, 128, device=GPU)), torch.nn.Parameter(torch.ones(100, device=GPU))]

    settings = Optimisation(optimizer="adamw8bit", lr=1e-2)
    gradients = [[torch.randn(64, 128, device=GPU), torch.randn(100, device=GPU)] for _ in range(6)]

    def steps(optimizer, parameters, some):
        for group in some:
            for p, g in zip(parameters, group, strict=True):
                p.grad.copy_(g)
            optimizer.step()

    whole = fresh()
    steps(optim.build(settings, {"a": whole[0], "b": whole[1]}, GPU), whole, gradients)
    first = fresh()
    optimizer = optim.build(settings, {"a": first[0], "b": first[1]}, GPU)
    steps(optimizer, first, gradients[:3])
    tensors, values = optim.state_tensors(optimizer, ["a", "b"])
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    optimizer = optim.build(settings, {"a": second[0], "b": second[1]}, GPU)
    optim.restore(optimizer, ["a", "b"], tensors, values)
    steps(optimizer, second, gradients[3:])
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


def test_numbers_come_and_go_without_a_wait():
    """What a step sends and reads: nothing of it may stop the CPU before the numbers are asked for."""
    values, sums = torch.randn(3, 1000), []
    to_device(values[0], GPU)  # the first pinned buffer of a size is allocated
    with torch.cuda.device(GPU):
        torch.cuda.set_sync_debug_mode("error")
        try:
            for row in values:
                sums.append(Numbers(to_device(row, GPU).sum().view(1)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(torch.tensor([one.wait()[0] for one in sums]), values.sum(1))


def test_nothing_waits_for_the_cpu_inside_a_step():
    """A recorded step may not synchronise; this finds what sneaks in, also outside of recordings."""
    model, adapter = adapted("float8")
    engine = engine_of(model, adapter, EngineOptions(graphs=False))
    one = inputs()
    engine.accumulate(one)
    with torch.cuda.device(GPU):
        torch.cuda.set_sync_debug_mode("error")
        try:
            engine.zero_grad()
            engine.accumulate(one)
        finally:
            torch.cuda.set_sync_debug_mode("default")
