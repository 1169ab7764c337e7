"""Quantised Linears and models of several kinds, and random tensors for them."""

from __future__ import annotations

import torch
from diffusers import ZImageTransformer2DModel
from tiny_models import build_transformer
from torch import nn

from charloom.kernels import linears
from charloom.kernels import quantize as q
from charloom.zimage import forward

WAYS = [("float8", "dequantize"), ("float8", "emulate"), ("int8", ""), ("nf4", "")]


class Blocks(nn.Module):
    """One Linear where :func:`q.quantize` looks for it."""

    def __init__(self, inputs: int = 256, outputs: int = 192, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.ModuleList([nn.Linear(inputs, outputs, bias=bias)])
        nn.init.normal_(self.layers[0].weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


def quantised(kind: str, mode: str = "", **sizes) -> tuple[linears.QuantizedLinear, torch.Tensor]:
    """A quantised Linear and the weight that it was made of."""
    model = Blocks(**sizes)
    weight = model.layers[0].weight.detach().clone()
    assert q.quantize(model, kind) == 1
    if mode:
        q.set_mode(model, mode)
    return model.layers[0], weight


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm())


def vary(*shape: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def predict(model, seed: int = 0, dtype: torch.dtype = torch.float32):
    with torch.no_grad():
        x, caps = vary(1, 16, 8, 8, seed=seed).to(dtype), vary(1, 9, 32, seed=seed + 1).to(dtype)
        return forward.forward(forward.prepare(model), x, torch.tensor([0.4]), *forward.pad_captions(list(caps)))


def larger() -> nn.Module:
    """A model of 256 channels: sums long enough for rounding to average out as it does in the real one."""
    config = {**build_transformer().config, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "n_layers": 4}
    return forward.prepare(ZImageTransformer2DModel.from_config(config))
