"""The full-size transformer with random weights for train_step.py, its batches, and the limits of the card."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

CAPTION = 96
"""Tokens of a caption."""
RANK = 32
GIB = 2**30

FULL = {
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "cap_feat_dim": 2560,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
}
"""The shape of Z-Image-Turbo's transformer; everything else is the class's default."""
SMALL = {**FULL, "dim": 256, "n_layers": 6, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 64}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def ceilings(device: Any) -> dict[str, float]:
    """TFLOP/s of large matrix products of random numbers, bf16 and float8."""
    import torch

    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
    one = torch.ones(n, 1, device=device)

    def float8() -> None:
        torch._scaled_mm(a8, b8.t(), one, one.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    found = {"bf16": 2 * n**3 / median_seconds(lambda: a @ b) / 1e12}
    if torch.cuda.get_device_capability() >= (8, 9):
        found["float8"] = 2 * n**3 / median_seconds(float8) / 1e12
    return {kind: round(value, 1) for kind, value in found.items()}


def median_seconds(work: Callable[[], Any], times: int = 10) -> float:
    """Median over ``times`` calls, each between two events."""
    import torch

    for _ in range(3):
        work()
    marks = []
    for _ in range(times):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        marks.append((start, stop))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in marks) / 1000


def build(shape: dict[str, Any], device: Any, kind: str) -> Any:
    """A transformer of random weights, quantized block by block, so that it is never in memory as a whole in bf16."""
    import torch
    from diffusers import ZImageTransformer2DModel

    from charloom.kernels import quantize

    torch.manual_seed(0)
    with torch.device("meta"):
        model = ZImageTransformer2DModel(**shape).to(torch.bfloat16)
    model.requires_grad_(False).eval()
    for name, module in list(model.named_modules()):
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        for key, parameter in own.items():
            value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
            if parameter.ndim == 2:
                torch.nn.init.normal_(value, std=0.7 / parameter.shape[-1] ** 0.5)
            elif key == "weight":
                value.fill_(1.0)
            else:
                torch.nn.init.normal_(value, std=0.02)
            setattr(module, key, torch.nn.Parameter(value, requires_grad=False))
        if kind in quantize.KINDS and isinstance(module, torch.nn.Linear) and name in quantize.eligible(model):
            model.set_submodule(name, quantize._CLASSES[kind].from_linear(module))
            module.to("meta")  # the list of modules holds on to it
    return model


def lora(model: Any, seed: int = 1) -> Any:
    """Rank 32 on every Linear of the main blocks, with an effect."""
    import torch

    from charloom.lora.attach import attach
    from charloom.lora.network import Network

    adapter = attach(model, Network(rank=RANK, alpha=RANK), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter.parameters.items():
        if "lora_B" in name:
            parameter.data.copy_(0.002 * torch.randn(parameter.shape, generator=generator))
    return adapter


def batch(model: Any, size: int, device: Any, seed: int = 0) -> Any:
    """One sample at ``size`` pixels with a caption of 96 tokens."""
    import torch

    from charloom.engine.inputs import Inputs

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Any:
        return torch.randn(shape, generator=generator).to(device)

    cells = size // 8
    sigma = torch.rand(1, generator=generator).to(device)
    pad = torch.zeros(1, CAPTION, 1, dtype=torch.bool, device=device)
    pad[:, CAPTION - 7 :] = True
    return Inputs(
        x0=normal(1, 16, cells, cells),
        noise=normal(1, 16, cells, cells),
        sigma=sigma,
        weight=torch.ones(1, device=device),
        caps=normal(1, CAPTION, model.config.cap_feat_dim),
        pad=pad,
    )


def tflop(model: Any, size: int) -> dict[str, float]:
    """10^12 operations of a forward pass and the gradients of its inputs, without recomputation."""
    config = model.config
    tokens = (size // 16) ** 2 + CAPTION
    block = 4 * config.dim**2 + 3 * config.dim * int(config.dim / 3 * 8)
    main = 2 * tokens * block * config.n_layers
    refiners = 2 * block * config.n_refiner_layers * tokens  # each token goes through one of the two
    attention = 4 * tokens**2 * config.dim * config.n_layers
    return {"linear": (2 * main + refiners) / 1e12, "attention": 3.5 * attention / 1e12}
