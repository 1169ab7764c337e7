"""A tiny adapted transformer, batches for it, and an engine on a CPU that it takes for a GPU."""

from __future__ import annotations

import torch
from diffusers import ZImageTransformer2DModel
from tiny_models import build_transformer

from charloom.kernels import attention, quantize
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.zimage import forward

CPU = torch.device("cpu")


LAYERS = 4


def adapted(dropout: float = 0.0, kind: str = "none"):
    """A tiny transformer with a LoRA that already does something; float8 as the units would compute it."""
    torch.manual_seed(0)
    model = ZImageTransformer2DModel.from_config({**build_transformer().config, "n_layers": LAYERS})
    forward.prepare(model)
    if kind != "none":
        quantize.quantize(model, kind)
        quantize.set_mode(model, "emulate")
    adapter = attach(model, Network(rank=4, alpha=6, dropout=dropout), 1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model, adapter


def gradients(model, adapter, times: int = 1):
    """Output of the last pass and the accumulated gradients of a fixed loss."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 16, 20, 20, generator=generator)
    caps = torch.randn(2, 32, model.config.cap_feat_dim, generator=generator)
    pad = torch.zeros(2, 32, 1, dtype=torch.bool)
    for parameter in adapter.parameters.values():
        parameter.grad = None
    for _ in range(times):
        torch.manual_seed(11)
        out = forward.forward(model, x, torch.tensor([0.3, 0.8]), caps, pad)
        out.square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in adapter.parameters.items()}


def assert_same(a, b):
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=0)
    for name in a[1]:
        torch.testing.assert_close(a[1][name], b[1][name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def gradients_free(model):
    """Output of the pass that :func:`gradients` makes, without gradients."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 16, 20, 20, generator=generator)
    caps = torch.randn(2, 32, model.config.cap_feat_dim, generator=generator)
    return forward.forward(model, x, torch.tensor([0.3, 0.8]), caps, torch.zeros(2, 32, 1, dtype=torch.bool))


class Attending(torch.nn.Module):
    """Stands in for a block: its attention, whose operator runs on GPUs only, doubles. ``computed`` notes each time."""

    def __init__(self, computed: list[int]) -> None:
        super().__init__()
        self.computed = computed

    def forward(self, x):
        kept = attention._kept
        if kept:
            return x * kept.take()[0]
        self.computed.append(1)
        found = (2 * x).detach()
        if kept is not None:
            kept.put(found, found.sum())
        return x * found


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8)
