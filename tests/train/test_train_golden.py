"""What must stay as ai-toolkit trains: its loss and gradients, its optimiser's path, its merge, its buckets.

Its formulas are stated here once more, in plain torch on the stock model; of its buckets the numbers are recorded.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import build_transformer

from charloom.core import randomness
from charloom.core.tensors import write_safetensors
from charloom.dataset.buckets import bucket
from charloom.engine.inputs import Inputs
from charloom.lora.adapter import merge
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.train import loop, optim
from charloom.train import step as one_step
from charloom.train.settings import Optimisation
from charloom.zimage import forward


def test_loss_and_gradients_on_the_stock_model():
    """time = 1 - sigma, prediction = -output, target = noise - latents, mean of squares over each sample."""
    generator = torch.Generator().manual_seed(3)
    x0, noise = (torch.randn(3, 16, 8, 6, generator=generator) for _ in range(2))
    sigma, captions = torch.tensor([0.05, 0.5, 1.0]), [torch.randn(n, 32, generator=generator) for n in (7, 20, 32)]

    def adapted():
        model = build_transformer()
        adapter = attach(model, Network(rank=4, alpha=4), 1)
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
        return model, adapter

    stock, theirs = adapted()
    noisy = torch.stack([(1 - s) * x + s * n for s, x, n in zip(sigma, x0, noise, strict=True)])
    out = stock(list(noisy.unsqueeze(2)), 1 - sigma, captions, return_dict=False)[0]
    expected = ((-torch.stack(out).squeeze(2)).float() - (noise - x0)).pow(2).mean([1, 2, 3])
    expected.mean().backward()

    model, ours = adapted()
    forward.prepare(model)
    caps, pad = one_step.padded(captions, torch.device("cpu"))
    inputs = Inputs(x0, noise, sigma, torch.ones(3), caps, pad)
    settings = Optimisation(batch_size=3)
    total, each = one_step.loss_of(lambda *a: forward.forward(model, *a), ours, inputs, settings)
    total.backward()
    torch.testing.assert_close(each, expected.detach(), rtol=4e-7, atol=1e-6)
    for name, parameter in ours.parameters.items():
        wanted = theirs.parameters[name].grad
        assert (parameter.grad - wanted).norm() <= 3e-5 * wanted.norm(), name


def test_the_path_of_the_optimiser():
    """50 clipped steps of AdamW by its definition, in double precision (Loshchilov, Hutter 2019, algorithm 2)."""
    rate, decay, eps, limit, (b1, b2) = 1e-2, 0.1, 1e-6, 1.0, (0.9, 0.999)
    parameters = {n: torch.nn.Parameter(randomness.normals(1, n, s)) for n, s in (("a", (4, 16)), ("b", (16, 4)))}
    theirs = {name: p.detach().double().numpy().copy() for name, p in parameters.items()}
    first, second = ({name: np.zeros_like(p) for name, p in theirs.items()} for _ in range(2))
    optimizer = optim.build(
        Optimisation(optimizer="adamw", lr=rate, weight_decay=decay), parameters, torch.device("cpu")
    )
    for step in range(1, 51):
        for name, p in parameters.items():
            p.grad = (0.05 + step % 3) * randomness.normals(2, name, tuple(p.shape), step)
        gradients = {name: p.grad.double().numpy().copy() for name, p in parameters.items()}
        loop.clip(list(parameters.values()), limit)
        optimizer.step()
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        for name, g in gradients.items():
            g = g * min(1.0, limit / (norm + 1e-6))
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g**2
            root = np.sqrt(second[name] / (1 - b2**step)) + eps
            theirs[name] = theirs[name] * (1 - rate * decay) - rate * first[name] / (1 - b1**step) / root
    for name, p in parameters.items():
        np.testing.assert_allclose(p.detach().numpy(), theirs[name], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_merge_of_the_training_adapter_to_the_bit(tmp_path, dtype):
    """In fp32, cast once; every weight that the adapter does not name stays what it was."""
    model = build_transformer().to(dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator, tensors, expected = torch.Generator().manual_seed(5), {}, dict(before)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("layers."):
            rows, columns = module.weight.shape
            a, b = torch.randn(4, columns, generator=generator), torch.randn(rows, 4, generator=generator)
            a, b = a.bfloat16(), (0.02 * b).bfloat16()
            tensors |= {f"diffusion_model.{name}.lora_A.weight": a, f"diffusion_model.{name}.lora_B.weight": b}
            weight = before[f"{name}.weight"].float() + b.float() @ a.float()
            expected[f"{name}.weight"] = weight.to(dtype)
    write_safetensors(tmp_path / "adapter", tensors, {})
    assert merge(model, tmp_path / "adapter").modules == 16
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters())
    assert sum(not torch.equal(before[name], expected[name]) for name in before) == 16


BUCKETS = {
    (1898, 1898): ((256, 256), (512, 512), (768, 768), (1024, 1024)),
    (1920, 1080): ((336, 192), (672, 384), (1024, 576), (1360, 768)),
    (1080, 1920): ((192, 336), (384, 672), (576, 1024), (768, 1360)),
    (1365, 2048): ((208, 304), (416, 624), (624, 944), (832, 1248)),
    (1536, 1024): ((304, 208), (624, 416), (944, 624), (1248, 832)),
    (4000, 3000): ((288, 224), (576, 448), (896, 656), (1168, 896)),
    (1024, 1000): ((256, 256), (512, 512), (768, 768), (1024, 992)),
    (900, 1600): ((192, 336), (384, 672), (576, 1024), (768, 1360)),
}
"""Buckets of ai-toolkit 27a03a91 (divisibility 16) by size of the image, at 256, 512, 768 and 1024. It differs where it
scales up by a few pixels to reach the next multiple of 16, which we never do."""


@pytest.mark.parametrize("size", BUCKETS)
def test_the_buckets(size):
    assert tuple(bucket(*size, resolution) for resolution in (256, 512, 768, 1024)) == BUCKETS[size]
