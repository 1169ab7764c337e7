"""Adapters that look trained, as files, and what a model with them gives."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import build_transformer

from charloom.lora import export
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.zimage import forward


def trained(network: Network, model=None):
    """An adapter whose zero factors are filled, as if it had been trained, on a model of its own."""
    adapter = attach(model or build_transformer(), network, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapter.parameters.items():
        if "magnitude" in name:
            parameter.data *= 1.0 + 0.1 * torch.rand(parameter.shape, generator=generator)
        elif not parameter.any():
            parameter.data.normal_(std=0.1, generator=generator)
    return adapter


def ship(path: Path, network: Network, dtype: str = "fp32") -> Path:
    header = export.metadata(network, title="x", trigger="l3yla", step=1, provenance={"seed": 42})
    export.export(path, trained(network).parameters, network, dtype, header)
    return path


def outputs(model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 8, 8, generator=generator)
    caps = torch.randn(1, 9, 32, generator=generator)
    with torch.no_grad():
        return forward.forward(forward.prepare(model), x, torch.tensor([0.4]), *forward.pad_captions(list(caps)))
