"""Linears of one input multiplied as one: queries, keys and values, and the two gates of the feed-forward part.

One product of three times the width fills the GPU better than three, its input is read and rounded once, and the
backward pass needs no sum of three gradients. The weights are laid end to end; the single Linears become views of
them and still work. Adapters stay where they are. Modulation is written so that its gradients are cheap. Must not
know of budgets, compilers or training.
"""

from __future__ import annotations

import types
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from charloom.engine.quantize import Float8Linear
from charloom.lora.attach import ADAPTER
from charloom.zimage.forward import TOKEN_MULTIPLE


class Fused(nn.Module):
    """``layers`` of one input size, each a Linear or one under a plain LoRA, as one product.

    Maps (…, in) to one (…, out) for each layer.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        # Not registered again: they have their place in the model.
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
        self.share()

    def share(self) -> None:
        """Make the single Linears views of the common weight; to be called whenever that moves."""
        for layer, weight in zip(self.layers, self.base.weight.detach().split(self.sizes), strict=True):
            base_of(layer).weight.data = weight
        if isinstance(self.base, Float8Linear):
            for layer, scale in zip(self.layers, self.base.weight_scale.split(self.sizes), strict=True):
                base_of(layer).weight_scale = scale
                base_of(layer).fused = True

    def shared_tensors(self) -> list[Tensor]:
        """The tensors of single Linears that are views of this module's."""
        bases = [base_of(layer) for layer in self.layers]
        return [base.weight for base in bases] + [b.weight_scale for b in bases if isinstance(b, Float8Linear)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        adapted = [layer for layer in self.layers if isinstance(layer, LoraLinear) and not layer._disable_adapters]
        if len(adapted) < len(self.layers):
            out = self.base(x)
        else:
            downs = torch.cat([layer.lora_A[ADAPTER].weight for layer in adapted]).to(x.dtype)
            ups = self._ups(adapted).to(x.dtype)
            if isinstance(self.base, Float8Linear):
                out = self.base(x, downs, ups)
            else:
                out = self.base(x) + F.linear(F.linear(x, downs), ups)
        return out.split(self.sizes, dim=-1)

    @staticmethod
    def _ups(adapted: Sequence[LoraLinear]) -> Tensor:
        """Scaled B matrices as the blocks of one matrix (all outputs, all ranks).

        Mostly zeros, yet faster than a product for each: both directions then read and write whole tensors.
        """
        total, start, rows = sum(layer.r[ADAPTER] for layer in adapted), 0, []
        for layer in adapted:
            rank = layer.r[ADAPTER]
            up = layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]
            rows.append(F.pad(up, (start, total - start - rank)))
            start += rank
        return torch.cat(rows)


def base_of(layer: nn.Module) -> nn.Module:
    """The frozen Linear of a layer, which may be under an adapter."""
    return layer.base_layer if isinstance(layer, LoraLinear) else layer


def fusable(layers: Sequence[nn.Module]) -> bool:
    """Whether ``layers`` can be one product: under plain LoRAs or none, and float8 on units or unquantised."""
    bases = [base_of(layer) for layer in layers]
    kinds = {type(layer) for layer in layers}
    if len(kinds) != 1 or len({type(base) for base in bases}) != 1 or len({base.in_features for base in bases}) != 1:
        return False
    if kinds == {LoraLinear} and not all("forward" in layer.__dict__ for layer in layers):
        return False  # dropout or DoRA, which is PEFT's own forward
    if any(base.bias is not None for base in bases):
        return False
    if type(bases[0]) is Float8Linear:
        return all(base.multiplies and base.fits_units for base in bases)
    return type(bases[0]) is nn.Linear


def fuse(blocks: Sequence[nn.Module]) -> int:
    """Fuse what can be fused in transformer blocks; returns the number of groups. Doing it twice changes nothing."""
    count = 0
    for block in blocks:
        attention, feed_forward = block.attention, block.feed_forward
        gates, projections = (feed_forward.w1, feed_forward.w3), (attention.to_q, attention.to_k, attention.to_v)
        if getattr(attention, "fused", None) is None and fusable(projections):
            attention.fused = Fused(projections)
            count += 1
        if getattr(feed_forward, "fused", None) is None and fusable(gates):
            feed_forward.fused = Fused(gates)
            feed_forward.forward = types.MethodType(_gated, feed_forward)
            count += 1
        if block.modulation and "forward" not in block.__dict__:
            block.forward = types.MethodType(_modulated, block)
    return count


def unfuse(blocks: Sequence[nn.Module]) -> None:
    """Undo :func:`fuse` on blocks that nothing else wraps; the single Linears get weights of their own again."""
    for block in blocks:
        block.__dict__.pop("forward", None)
        for part in (block.attention, block.feed_forward):
            fused = part.__dict__["_modules"].pop("fused", None)
            if fused is None:
                continue
            part.__dict__.pop("forward", None)
            for layer in fused.layers:
                base = base_of(layer)
                base.weight.data = base.weight.data.clone()
                if isinstance(base, Float8Linear):
                    base.weight_scale = base.weight_scale.clone()
                    base.fused = False


def _gated(self: nn.Module, x: Tensor) -> Tensor:
    """As the feed-forward part of diffusers' Z-Image: ``w2(silu(w1(x)) * w3(x))``."""
    gate, value = self.fused(x)
    return self.w2(F.silu(gate) * value)


def _modulated(
    self: nn.Module, x: Tensor, attn_mask: Tensor | None, freqs_cis: Tensor, adaln_input: Tensor | None = None
) -> Tensor:
    """As a modulated block of diffusers, in a form whose gradients a compiler reduces well.

    ``x`` is (B, T, D), or (B, T / 32, 32, D) for a compiler: it then knows that T is a multiple of 32, and how many
    groups there are needs no division, which it would carry through every shape that follows.
    """
    if x.ndim == 4:
        groups = x.shape[1]
        if x.shape[2] != TOKEN_MULTIPLE:
            raise ValueError(f"tokens in groups of {x.shape[2]} instead of {TOKEN_MULTIPLE}")
        x = x.flatten(1, 2)
    else:
        groups = x.shape[1] // TOKEN_MULTIPLE
    scale_attention, gate_attention, scale_mlp, gate_mlp = self.adaLN_modulation(adaln_input).unsqueeze(1).chunk(4, -1)
    hidden = _times(self.attention_norm1(x), 1.0 + scale_attention, groups)
    hidden = self.attention(hidden, attention_mask=attn_mask, freqs_cis=freqs_cis)
    x = x + _times(self.attention_norm2(hidden), gate_attention.tanh(), groups)
    hidden = self.feed_forward(_times(self.ffn_norm1(x), 1.0 + scale_mlp, groups))
    return x + _times(self.ffn_norm2(hidden), gate_mlp.tanh(), groups)


def takes_groups(block: nn.Module) -> bool:
    """Whether the forward of ``block`` takes tokens in groups of 32 as well: :func:`fuse` wrote it."""
    return getattr(block.forward, "__func__", None) is _modulated


def _times(x: Tensor, factor: Tensor, groups: int) -> Tensor:
    """``x`` (B, T, D) times ``factor`` (B, 1, D), T = 32 ``groups``.

    The factor's gradient is a sum over all tokens. Spread over groups of tokens first, it becomes two sums: one
    sum over thousands of rows for a few thousand columns would keep few of the GPU's units busy, and a compiler
    that does not know T does not split it.
    """
    spread = factor.unsqueeze(1).expand(-1, groups, -1, -1)
    return (x.unflatten(1, (groups, TOKEN_MULTIPLE)) * spread).flatten(1, 2)


def _bytes(tensor: Tensor) -> Tensor:
    """float8 as bytes, for which every device can join tensors."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
