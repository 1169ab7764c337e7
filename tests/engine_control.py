"""An engine on a CPU that it takes for a GPU: batches, steps, and steps that run out of memory."""

from __future__ import annotations

import pytest
import torch
from engine_helpers import adapted

from charloom.engine.inputs import Inputs


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
