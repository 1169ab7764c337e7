"""Attaching a trainable adapter to a frozen transformer.

PEFT builds the layers, so LoRA, DoRA and LoKr are PEFT's; the initial weights come from counter-based
randomness and are always fp32 masters. Plain LoRA layers get a leaner forward than PEFT's. Independent of
optimizers, steps and files.
"""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charloom.core import randomness
from charloom.core.errors import UserError
from charloom.kernels.linears import Float8Linear, QuantizedLinear
from charloom.lora.export import SCALED
from charloom.lora.files import kronecker
from charloom.lora.network import Network
from charloom.zimage.libraries import BaseTunerLayer, LoraLinear, peft

ADAPTER = "default"
_PRESETS = {
    "default": r"(^|\.)layers\.",
    "attention": r"(^|\.)layers\..*\.attention\.",
    "attention+mlp": r"(^|\.)layers\..*\.(attention|feed_forward)\.",
}


@dataclass
class Adapter:
    """A trainable adapter on a model.

    ``parameters`` maps names as in files (``layers.0.attention.to_q.lora_A.weight``) to fp32 parameters, in a fixed
    order; ``layers`` maps module names to the PEFT layers that replaced them.
    """

    network: Network
    parameters: dict[str, nn.Parameter]
    layers: dict[str, BaseTunerLayer]

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside the block, the model is the bare base. Only sets a flag: PEFT's own switch changes requires_grad."""
        for layer in self.layers.values():
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer._disable_adapters = False

    @contextlib.contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block, parameters have other values, in the same memory; the old ones are restored exactly."""
        own = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}
        self._fill(values)
        try:
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


def target_modules(model: nn.Module, modules: str | tuple[str, ...]) -> list[str]:
    """Names of the Linears to adapt: a preset, or every Linear that matches one of the patterns.

    ``default`` is every Linear below ``layers`` (8 per block: 240 on Z-Image-Turbo), ``attention`` its q, k, v
    and output projections (120), ``attention+mlp`` those and w1, w2, w3 (210).

    Raises:
        UserError: nothing matches.
    """
    patterns = [_PRESETS[modules]] if isinstance(modules, str) else list(modules)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(re.search(pattern, name) for pattern in patterns)
    ]
    if not names:
        raise UserError(
            f"recipe key network.modules: no Linear of the base matches {modules!r}; use 'default', for example"
        )
    return names


def attach(model: nn.Module, network: Network, seed: int) -> Adapter:
    """Freeze ``model``, inject the adapter into it, and initialize it from ``seed``.

    A fresh adapter changes nothing: B is zero (LoRA, DoRA) or the second Kronecker factor is (LoKr), the other
    factors are uniform in ±1/sqrt(fan in), and DoRA's magnitudes are the row norms of the base.

    Raises:
        UserError: no module matches, or DoRA on quantized weights.
    """
    model.requires_grad_(False)
    names = target_modules(model, network.modules)
    if network.type == "dora" and any(isinstance(model.get_submodule(name), QuantizedLinear) for name in names):
        raise UserError(
            "recipe key network.type: dora needs quantization.transformer none or bf16; change that, or use lora"
        )
    model = peft.inject_adapter_in_model(_config(network, names), model, ADAPTER)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    if sorted(layers) != sorted(names):
        raise RuntimeError(f"PEFT adapted {len(layers)} modules instead of {len(names)}")
    parameters = {}
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            continue
        key = _file_name(name)
        # PEFT uses the dtype of the base; master weights need fp32 to hold small updates.
        parameter.data = parameter.data.float()
        _initialise(key, parameter, seed)
        parameters[key] = parameter
    if not network.dropout and network.type == "lora":
        for layer in layers.values():
            if type(layer) is LoraLinear:
                layer.forward = types.MethodType(_lean_forward, layer)
    if network.type == "lokr":
        for layer in layers.values():
            # PEFT would compute a change in the shape of the stored weight, which may be packed.
            if isinstance(layer.get_base_layer(), QuantizedLinear):
                layer._get_delta_activations = types.MethodType(_lean_kronecker, layer)
    return Adapter(network, parameters, layers)


def _config(network: Network, names: list[str]) -> peft.PeftConfig:
    if network.type == "lokr":
        return peft.LoKrConfig(
            r=network.rank,
            alpha=network.alpha,
            target_modules=names,
            module_dropout=network.dropout,
            decompose_factor=network.lokr_factor,
            init_weights="lycoris",
        )
    return peft.LoraConfig(
        r=network.rank,
        lora_alpha=network.alpha,
        target_modules=names,
        lora_dropout=network.dropout,
        use_dora=network.type == "dora",
    )


def _file_name(name: str) -> str:
    """PEFT's parameter name without its adapter name: ``….lora_A.default.weight`` becomes ``….lora_A.weight``."""
    return name.replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}")


def _initialise(key: str, parameter: nn.Parameter, seed: int) -> None:
    role = key.removesuffix(".weight").rsplit(".", 1)[-1]
    if role == "lora_magnitude_vector":
        return  # set by PEFT to the row norms of the base
    if role in SCALED:
        parameter.data.zero_()
    else:
        parameter.data.copy_(randomness.kaiming_uniform(seed, key, tuple(parameter.shape)))


def _lean_forward(self: LoraLinear, x: Tensor) -> Tensor:
    """``W x + b + scale B A x`` with the low-rank part in the base's dtype.

    Equal to PEFT's forward, without its intermediate copies of the whole output: accumulated by addmm, or as a plain
    sum if compiled, which the compiler then fuses.
    """
    if self._disable_adapters:
        return self.base_layer(x)
    down, up = self.lora_A[ADAPTER].weight.to(x.dtype), self.lora_B[ADAPTER].weight
    if isinstance(self.base_layer, Float8Linear) and self.base_layer.multiplies:
        return self.base_layer(x, down, (up * self.scaling[ADAPTER]).to(x.dtype))
    out, inner, up = self.base_layer(x), F.linear(x, down), up.to(x.dtype)
    if torch.compiler.is_compiling():
        return out + F.linear(inner, up) * self.scaling[ADAPTER]
    flat = torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=self.scaling[ADAPTER])
    return flat.view(out.shape)


def _lean_kronecker(self: BaseTunerLayer, name: str, x: Tensor) -> Tensor:
    """PEFT's change of the output in ``x``'s dtype, without materializing the Kronecker product."""
    w1, w2 = (
        factors[name] if name in factors else low[name] @ high[name]
        for factors, low, high in (
            (self.lokr_w1, self.lokr_w1_a, self.lokr_w1_b),
            (self.lokr_w2, self.lokr_w2_a, self.lokr_w2_b),
        )
    )
    return kronecker(x, (w1 * self.scaling[name]).to(x.dtype), w2.to(x.dtype))
