"""An engine on a CPU that it takes for a GPU: batches, steps, and steps that run out of memory."""

from __future__ import annotations

import pytest
import torch
from engine_helpers import adapted

from charloom.engine import compile as compiling
from charloom.engine import engine as engines
from charloom.engine import graphs, memory
from charloom.engine.fitting import Fitting
from charloom.engine.inputs import Inputs
from charloom.engine.options import EngineOptions
from charloom.train.settings import Optimisation
from charloom.train.step import loss_of

CPU = torch.device("cpu")
GIB = memory.GIB


@pytest.fixture(autouse=True)
def compilers_work():
    """Falling back to eager is for the whole process."""
    yield
    torch.compiler.set_stance("default")


def inputs(size: int = 8, length: int = 32, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    pad = torch.zeros(2, length, 1, dtype=torch.bool)
    pad[:, length - 5 :] = True
    x0, noise = (torch.randn(2, 16, size, size, generator=generator) for _ in range(2))
    caps = torch.randn(2, length, adapted()[0].config.cap_feat_dim, generator=generator)
    return Inputs(x0, noise, torch.rand(2, generator=generator), torch.ones(2), caps, pad)


def run_short(engine, times):
    """Let the next ``times`` passes of ``engine`` run out of memory; returns what is left of them."""
    real, failures = engine.loss, [1] * times

    def short(predict, one):
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(predict, one)

    engine.loss = short
    return failures


class Replay:
    """Stands in for a recording: computes again every time, on its own copies of the inputs."""

    made = 0

    def __init__(self, function, inputs, pool):
        Replay.made += 1
        self.function, self.inputs = function, tuple(tensor.clone() for tensor in inputs)

    def __call__(self, *inputs):
        for static, tensor in zip(self.inputs, inputs, strict=True):
            static.copy_(tensor)
        return self.function(*self.inputs)


@pytest.fixture(name="fake")
def fake_gpu(monkeypatch):
    """A GPU of 8 GiB on which a step takes 1 GiB; a block keeps 0.5 GiB, the first in place of what is recomputed."""
    numbers = {"budget": 8 * GIB, "peak": 1 * GIB, "block": GIB // 2, "most": 8 * GIB, "keep": 0, "crowded": False}
    keep = engines.Recompute.keep

    def kept(recompute, count):
        numbers["keep"] = count
        keep(recompute, count)

    def allocated(device=None):
        found = numbers["peak"] + max(0, numbers["keep"] - 1) * numbers["block"]
        if found > numbers["most"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    monkeypatch.setattr(engines.Recompute, "keep", kept)
    monkeypatch.setattr(engines, "is_gpu", lambda device: True)
    monkeypatch.setattr(memory, "budget", lambda limit, device: numbers["budget"])
    monkeypatch.setattr(memory, "UNSEEN", 0)
    monkeypatch.setattr(memory, "crowded", lambda limit, device, activations: numbers["crowded"])
    monkeypatch.setattr(graphs, "warm_up", lambda function, times=1: function())
    monkeypatch.setattr(graphs, "Recorded", Replay)
    monkeypatch.setattr(Fitting, "_block_bytes", lambda self, arguments: (GIB // 2, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", allocated)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device=None: numbers["peak"])
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *a, **k: None)
    monkeypatch.setattr(compiling, "compile_blocks", lambda model, prefer_cudnn: None)
    Replay.made = 0
    return numbers


def engine_of(options=None, said=None, kind="none", dropout=0.0, **more):
    model, adapter = adapted(dropout, kind)
    model.train()

    def loss(predict, one):
        return loss_of(predict, adapter, one, Optimisation())

    tell = (said if said is not None else []).append
    return engines.Engine(model, adapter, loss, CPU, options or EngineOptions(), log=tell, **more)
