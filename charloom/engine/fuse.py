"""Linears that share an input, fused into one matrix product: q, k and v, and the two gates of the feed-forward part.

Their input is read and rounded once, the adapters' first matrices are one product, and the backward pass needs no sum
of three gradients. The weights are concatenated; the single Linears become views of them and still work. float8 outputs
are separate tensors, so that later operations and their gradients read and write contiguous memory. Adapters stay in
place. The modulations of all blocks are fused as well. Independent of budgets, compilation and training.
"""

from __future__ import annotations

import types
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charloom.kernels import rotary
from charloom.kernels.linears import Float8Linear
from charloom.lora.attach import ADAPTER
from charloom.zimage.libraries import LoraLinear


class Fused(nn.Module):
    """``layers`` of equal input size, each a Linear with or without a plain LoRA, as one product.

    Maps (…, in) to one (…, out) per layer.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        # Not registered as submodules: they already belong to the model.
        self.__dict__["layers"] = tuple(layers)
        self.sizes = [base_of(layer).out_features for layer in layers]
        first = base_of(layers[0])
        weight = torch.cat([_bytes(base_of(layer).weight.detach()) for layer in layers]).view(first.weight.dtype)
        if isinstance(first, Float8Linear):
            scale = torch.cat([base_of(layer).weight_scale for layer in layers])
            self.base = Float8Linear(first.in_features, sum(self.sizes), weight, scale, None)
            self.base.mode = first.mode
        else:
            self.base = nn.Linear(first.in_features, sum(self.sizes), bias=False, device="meta")
            self.base.weight = nn.Parameter(weight, requires_grad=False)
        self.link()

    def link(self) -> None:
        """Make the single Linears views of the fused weight; to be called whenever that weight moves."""
        for layer, weight in zip(self.layers, self.base.weight.detach().split(self.sizes), strict=True):
            base_of(layer).weight.data = weight
        if isinstance(self.base, Float8Linear):
            for layer, scale in zip(self.layers, self.base.weight_scale.split(self.sizes), strict=True):
                base_of(layer).weight_scale = scale
                base_of(layer).is_part = True

    def shared_tensors(self) -> list[Tensor]:
        """The tensors of the single Linears that are views of this module's."""
        bases = [base_of(layer) for layer in self.layers]
        return [base.weight for base in bases] + [b.weight_scale for b in bases if isinstance(b, Float8Linear)]

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        adapted = _adapted(self.layers)
        downs, ups = None, []
        if len(adapted) == len(self.layers):
            downs = torch.cat([layer.lora_A[ADAPTER].weight for layer in adapted]).to(x.dtype)
            ups = [(layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]).to(x.dtype) for layer in adapted]
        if isinstance(self.base, Float8Linear):
            return self.base.parts(x, self.sizes, downs, ups)
        parts = self.base(x).split(self.sizes, dim=-1)
        if downs is None:
            return parts
        inners = F.linear(x, downs).split([up.shape[1] for up in ups], dim=-1)
        return [part + F.linear(inner, up) for part, inner, up in zip(parts, inners, ups, strict=True)]


class Modulations:
    """The modulations of all ``blocks`` in one product, which is possible because they only depend on the timestep.

    Maps the timestep's embedding (B, C) to one (B, 4 D) per block, which the blocks get in place of the embedding.
    Computed block by block, these tiny products would leave the GPU idle most of the time. Weights are shared as in
    :class:`Fused`, on ``device`` even if the blocks are elsewhere; biases are copied.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device | None = None) -> None:
        self.parts = [block.adaLN_modulation for block in blocks]
        self.layers = [part[0] for part in self.parts]
        bases = [base_of(layer) for layer in self.layers]
        self.weight = torch.cat([base.weight.detach().to(device) for base in bases])
        self.bias = torch.cat([base.bias.detach().to(device) for base in bases])
        for base, weight in zip(bases, self.weight.chunk(len(bases)), strict=True):
            base.weight.data = weight
        for part in self.parts:
            part.forward = types.MethodType(_given, part)

    def __call__(self, embedding: Tensor) -> Sequence[Tensor]:
        count = len(self.layers)
        out = F.linear(embedding, self.weight, self.bias).unflatten(-1, (count, -1))
        adapted = _adapted(self.layers)
        if len(adapted) == count:
            downs = torch.cat([layer.lora_A[ADAPTER].weight for layer in adapted]).to(embedding.dtype)
            ups = torch.stack([layer.lora_B[ADAPTER].weight for layer in adapted]) * adapted[0].scaling[ADAPTER]
            inner = F.linear(embedding, downs).unflatten(-1, (count, -1)).transpose(0, 1)
            out = out + torch.bmm(inner, ups.to(embedding.dtype).transpose(1, 2)).transpose(0, 1)
        # Cast back inside each block: torch 2.11 miscompiles a gradient that is returned without any arithmetic on it
        # (see compile.mixed_order_reductions).
        return out.float().unbind(1)

    def remove(self) -> None:
        """Restore the blocks' own modulation."""
        for part, layer in zip(self.parts, self.layers, strict=True):
            del part.forward
            base_of(layer).weight.data = base_of(layer).weight.data.clone()


def modulation_views(block: nn.Module) -> list[Tensor]:
    """The tensors of ``block`` that are views of the weight in :class:`Modulations`."""
    part = getattr(block, "adaLN_modulation", None)
    return [base_of(part[0]).weight] if part is not None and "forward" in part.__dict__ else []


def can_batch_modulations(blocks: Sequence[nn.Module]) -> bool:
    """Whether :class:`Modulations` apply to ``blocks``: all under plain LoRAs of equal rank and scale, or none."""
    if not all(block.modulation for block in blocks):
        return False
    layers = [block.adaLN_modulation[0] for block in blocks]
    ranks = {(layer.r[ADAPTER], layer.scaling[ADAPTER]) for layer in layers if isinstance(layer, LoraLinear)}
    return _plain(layers) and {type(base_of(layer)) for layer in layers} == {nn.Linear} and len(ranks) < 2


def _given(self: nn.Module, modulation: Tensor) -> Tensor:
    # Dynamo treats the size of an input as dynamic; expand() makes it static.
    return modulation.expand(-1, self[0].out_features).to(base_of(self[0]).weight.dtype)


def _adapted(layers: Sequence[nn.Module]) -> list[LoraLinear]:
    """Those of ``layers`` whose LoRA is active."""
    return [layer for layer in layers if isinstance(layer, LoraLinear) and not layer._disable_adapters]


def _plain(layers: Sequence[nn.Module]) -> bool:
    """Whether all ``layers`` have plain LoRAs, or none has one."""
    kinds = {type(layer) for layer in layers}
    # With dropout or DoRA, layers keep PEFT's own forward.
    return len(kinds) == 1 and (kinds != {LoraLinear} or all("forward" in layer.__dict__ for layer in layers))


def base_of(layer: nn.Module) -> nn.Module:
    """The frozen Linear of a layer, with or without an adapter on it."""
    return layer.base_layer if isinstance(layer, LoraLinear) else layer


def fusable(layers: Sequence[nn.Module]) -> bool:
    """Whether ``layers`` can be fused: with plain LoRAs or none, and float8 on fp8 units or unquantized."""
    bases = [base_of(layer) for layer in layers]
    if not _plain(layers) or len({(type(base), base.in_features) for base in bases}) != 1:
        return False
    if any(base.bias is not None for base in bases):
        return False
    if type(bases[0]) is Float8Linear:
        return all(base.multiplies and base.fits_units for base in bases)
    return type(bases[0]) is nn.Linear


def fuse(blocks: Sequence[nn.Module]) -> int:
    """Fuse what can be fused in transformer blocks; returns the number of new groups. Idempotent."""
    count = 0
    for block in blocks:
        attention, feed_forward = block.attention, block.feed_forward
        gates, projections = (feed_forward.w1, feed_forward.w3), (attention.to_q, attention.to_k, attention.to_v)
        if getattr(attention, "fused", None) is None and fusable(projections):
            attention.fused = Fused(projections)
            count += 1
        if rotary.fits(attention, attention.heads):
            attention.rotated = types.MethodType(rotary.rotated, attention)
        if getattr(feed_forward, "fused", None) is None and fusable(gates):
            feed_forward.fused = Fused(gates)
            feed_forward.forward = types.MethodType(_gated, feed_forward)
            count += 1
    return count


def _gated(self: nn.Module, x: Tensor) -> Tensor:
    """The feed-forward part of diffusers' Z-Image, ``w2(silu(w1(x)) * w3(x))``."""
    gate, value = self.fused(x)
    return self.w2(F.silu(gate) * value)


def _bytes(tensor: Tensor) -> Tensor:
    """float8 viewed as bytes, which every device can concatenate."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
