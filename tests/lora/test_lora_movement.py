"""Whether an adapter has learnt at all: the measure, its scale, and the recorded curve it is compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lora_helpers import trained
from tiny_models import build_transformer

from charloom.lora import movement
from charloom.lora.attach import attach
from charloom.lora.network import Network


def test_movement_is_free_of_size():
    """AdamW's first step moves every entry of B by the learning rate: one number for every rank, width and kind."""
    for network in (Network(rank=2, alpha=2), Network(rank=64, alpha=1), Network(type="dora", rank=8, alpha=8)):
        parameters = attach(build_transformer(), network, 1).parameters
        assert movement.moved(parameters) == 0.0
        stepped = {name: p.detach() + 1e-4 * torch.randn_like(p).sign() for name, p in parameters.items()}
        assert movement.moved(stepped) == pytest.approx(1e-4)
        assert movement.share(stepped, 1) == pytest.approx(1.0, abs=0.1)
        folded = {n: p * network.alpha / network.rank if "lora_B" in n else p for n, p in stepped.items()}
        assert movement.share(folded, 1, network.alpha / network.rank) == pytest.approx(movement.share(stepped, 1))


def test_the_norm_of_what_is_added_follows_from_movement():
    """The formula of the module: ||B A|| = rms(B) sqrt(out) ||A||."""
    adapter = trained(Network(rank=16, alpha=16))
    for module in adapter.layers:
        a, b = (adapter.parameters[f"{module}.lora_{x}.weight"].detach() for x in "AB")
        rms = movement.moved({f"{module}.lora_B.weight": b})
        assert (b @ a).norm().item() == pytest.approx(rms * len(b) ** 0.5 * a.norm().item(), rel=0.1)


def test_the_curve_of_movement_is_the_recorded_one():
    file = Path(__file__).parents[2] / "benchmarks/results/adapter_movement.json"
    (run,) = (r for r in json.loads(file.read_text())["runs"] if (r["optimizer"], r["lr"]) == ("adamw", movement.RATE))
    for step, moved, _ in run["step, rms of B, norm of B A"]:
        assert movement.expected(step) == pytest.approx(moved, rel=0.06)
    steps = [movement.expected(step) for step in (1, 2, 7, 100, 999, 3000, 10**6)]
    assert steps == sorted(steps)
