"""Learning rates and optimisers: exact restoration, and what each library promises."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

from charloom.core import randomness
from charloom.core.errors import UserError
from charloom.train import optim
from charloom.train.settings import Optimisation


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_learning_rate_is_a_function_of_the_step(kind):
    settings = Optimisation(steps=10, warmup_steps=4, lr=1.0, lr_scheduler=kind)
    rates = [optim.learning_rate(settings, step) for step in range(1, 11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    ends = {"constant": 1.0, "linear": 1 / 6, "cosine": 0.5 * (1 + math.cos(math.pi * 5 / 6))}
    assert rates[-1] == pytest.approx(ends[kind]) and rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 64), "b": (70, 4)}
    return {n: torch.nn.Parameter(torch.randn(s, generator=generator)) for n, s in shapes.items()}


OPTIMIZERS = ["adamw", "adafactor", "prodigy", "lion"]


def make(name, params, **more):
    if name in ("prodigy", "lion"):
        pytest.importorskip({"prodigy": "prodigyopt", "lion": "lion_pytorch"}[name])
    settings = Optimisation(optimizer=name, lr=1.0 if name == "prodigy" else 1e-2, **more)
    return optim.build(settings, params, torch.device("cpu"))


def run(optimizer, params, steps):
    for step in steps:
        for i, p in enumerate(params.values()):
            p.grad = randomness.normals(1, f"grad{i}", tuple(p.shape), step)
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_round_trip_is_exact(name):
    straight = parameters()
    run(make(name, straight), straight, range(10))
    first = parameters()
    optimizer = make(name, first)
    run(optimizer, first, range(5))
    tensors, values = optim.state_tensors(optimizer, list(first))
    values = json.loads(json.dumps(values))
    second = {n: torch.nn.Parameter(p.detach().clone()) for n, p in first.items()}
    resumed = make(name, second)
    optim.restore(resumed, list(second), tensors, values)
    run(resumed, second, range(5, 10))
    assert all(torch.equal(straight[n], second[n]) for n in straight)
    assert not any(torch.equal(straight[n], first[n]) for n in straight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks(name):
    plain, decayed = parameters(), parameters()
    run(make(name, plain, weight_decay=0.0), plain, range(5))
    run(make(name, decayed, weight_decay=0.5), decayed, range(5))
    assert not torch.equal(plain["a"], decayed["a"])


def test_adamw8bit_on_the_cpu_is_adamw_with_a_warning():
    with pytest.warns(UserWarning, match="needs a CUDA GPU"):
        optimizer = make("adamw8bit", parameters())
    assert type(optimizer) is torch.optim.AdamW


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_is_printed_between_the_lines_of_the_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make(name, parameters())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "package"), [("prodigy", "prodigyopt"), ("lion", "lion-pytorch")])
def test_missing_packages_are_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        optim.build(Optimisation(optimizer=name), parameters(), torch.device("cpu"))


def test_eight_bit_adam_goes_on_to_the_bit_from_its_state():
    """bitsandbytes runs on the CPU too; the recipe asks for it on CUDA only. Ours does without a wait for the GPU."""
    library = pytest.importorskip("bitsandbytes.optim", reason="pip install 'charloom[cuda]'").AdamW8bit
    ours = optim._without_waiting(library)

    def made(kind: type = ours) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
        generator = torch.Generator().manual_seed(0)
        # 8 bits from 4096 values on; smaller tensors keep fp32 state
        shapes = ((64, 128), (8, 16))
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        return parameters, kind(parameters, lr=1e-3, weight_decay=1e-4, eps=1e-8)

    def run(parameters, optimizer, steps) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    straight, optimizer = made()
    run(straight, optimizer, range(6))
    first, optimizer = made()
    run(first, optimizer, range(3))
    tensors, values = optim.state_tensors(optimizer, ["a", "b"])
    assert tensors["a|state1"].dtype == torch.uint8
    second, again = made()
    with torch.no_grad():
        for new, old in zip(second, first, strict=True):
            new.copy_(old)
    optim.restore(again, ["a", "b"], tensors, values)
    run(second, again, range(3, 6))
    theirs, optimizer = made(library)
    run(theirs, optimizer, range(6))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(straight, second, theirs, strict=True))


def test_flattened_parameters_learn_what_single_ones_do():
    """One long tensor in place of many: views, gradients, updates and the stored state."""
    torch.manual_seed(0)
    shapes = [(4, 64), (64, 4), (7,), (300,)]
    single = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    views = [torch.nn.Parameter(p.detach().clone()) for p in single]
    views[0].grad = torch.ones(shapes[0])
    flat = optim.flatten(views)
    assert flat.numel() % optim.FLAT_ALIGNMENT == 0 and views[0].grad.data_ptr() == flat.grad.data_ptr()
    assert flat.grad.sum() == 4 * 64  # what was accumulated stays
    ones = torch.optim.AdamW(single, lr=0.01, weight_decay=0.1)
    long = torch.optim.AdamW([flat], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        gradients = [torch.randn(shape) for shape in shapes]
        for p, view, gradient in zip(single, views, gradients, strict=True):
            p.grad = gradient
            view.grad.copy_(gradient)
        ones.step()
        long.step()
    for p, view in zip(single, views, strict=True):
        torch.testing.assert_close(view, p, rtol=1e-6, atol=1e-7)
    tensors, values = optim.state_tensors(long, ["a", "b", "c", "d"])
    assert set(tensors) == {"flat|step", "flat|exp_avg", "flat|exp_avg_sq"}
    again = torch.optim.AdamW([flat], lr=0.01, weight_decay=0.1)
    optim.restore(again, ["a", "b", "c", "d"], tensors, values)
    assert all(torch.equal(again.state[flat][k], long.state[flat][k]) for k in ("step", "exp_avg", "exp_avg_sq"))
