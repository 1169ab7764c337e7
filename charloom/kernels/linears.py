"""Frozen Linears with quantized weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charloom.kernels.products import (
    _BLOCK,
    _TINY,
    _bitsandbytes,
    _float8_linear,
    _frozen_linear,
    _to_rows,
    _widened,
)

_MULTIPLE = 16
"""Sizes that the fp8 units take are multiples of this."""


class QuantizedLinear(nn.Linear):
    """A frozen Linear: ``weight`` in its stored dtype, a buffer with its scales, ``bias`` as in ``nn.Linear``.

    Maps (…, in) to (…, out) in the dtype of its input, with gradients for the input and an adapter's matrices.
    ``module.to(device, dtype)`` moves it but never changes its dtypes.
    """

    kind: str
    scale_name = "weight_scale"

    def __init__(self, inputs: int, outputs: int, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(inputs, outputs, bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer(self.scale_name, scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, device: torch.device | None = None) -> QuantizedLinear:
        """The quantized form of ``linear``, computed on ``device`` (default: that of its weight)."""
        wide = linear.weight.detach().to(device)
        bias = None if linear.bias is None else linear.bias.detach().to(device)
        return cls(linear.in_features, linear.out_features, *cls.pack(wide), bias)

    @classmethod
    def empty(cls, linear: nn.Linear) -> QuantizedLinear:
        """The quantized form of ``linear`` on the meta device: dtypes and shapes only."""
        shapes = cls.stored(linear.out_features, linear.in_features)
        weight, scale = (torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in shapes)
        bias = None if linear.bias is None else linear.bias.detach().to("meta")
        return cls(linear.in_features, linear.out_features, weight, scale, bias)

    @staticmethod
    def pack(wide: Tensor) -> tuple[Tensor, Tensor]:
        """(stored weight, scales) of a weight (out, in)."""
        raise NotImplementedError

    @staticmethod
    def stored(outputs: int, inputs: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Shapes and dtypes of what :meth:`pack` returns."""
        raise NotImplementedError

    @property
    def scale(self) -> Tensor:
        """The buffer with the scales."""
        return getattr(self, self.scale_name)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dequantized weight (out, in)."""
        wide, after = _widened(self.weight, self.scale, torch.float32)
        return (wide if after is None else wide * after).to(dtype)

    def forward(self, x: Tensor, *adapter: Tensor) -> Tensor:
        """``adapter``: low-rank matrices (r, in) and (out, r) in the dtype of ``x``, whose product is added."""
        out = self.product(x, *adapter)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def product(self, x: Tensor, *adapter: Tensor) -> Tensor:
        """``x`` times the transposed weight, plus the adapter's part; no bias."""
        out = _frozen_linear(x, self.weight, self.scale)
        return out + F.linear(F.linear(x, adapter[0]), adapter[1]) if adapter else out

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}"

    def _apply(self, fn, recurse: bool = True):
        def moved(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            # A cast would drop the scales.
            return out if out.dtype == tensor.dtype else tensor.to(out.device)

        return super()._apply(moved, recurse)


class Float8Linear(QuantizedLinear):
    """e4m3 weights (out, in) with one scale per output channel.

    ``mode`` says how it multiplies: ``units`` on the GPU's fp8 units, ``emulate`` the same values in fp32 on any
    device, ``dequantize`` with dequantized weights and an input that is not rounded. ``weight_t`` is None or the
    transposed copy made by :func:`charloom.kernels.quantize.keep_transposed`. ``is_part``: the weight is a view into a
    fused one, which is used instead (:mod:`charloom.engine.fuse`).
    """

    kind = "float8"

    def __init__(self, inputs: int, outputs: int, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(inputs, outputs, weight, scale, bias)
        self.register_buffer("weight_t", None, persistent=False)
        self.mode = "dequantize"
        self.is_part = False

    @staticmethod
    def pack(wide: Tensor) -> tuple[Tensor, Tensor]:
        return _to_rows(wide)

    @staticmethod
    def stored(outputs: int, inputs: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        return ((outputs, inputs), torch.float8_e4m3fn), ((outputs, 1), torch.float32)

    @property
    def fits_units(self) -> bool:
        """Whether the fp8 units support these sizes."""
        return not (self.in_features % _MULTIPLE or self.out_features % _MULTIPLE)

    @property
    def multiplies(self) -> bool:
        """Whether products are computed in float8, instead of with dequantized weights."""
        return self.mode == "emulate" or (self.mode == "units" and self.fits_units)

    def product(self, x: Tensor, *adapter: Tensor) -> Tensor:
        if not self.multiplies:
            return super().product(x, *adapter)
        downs, ups = (adapter[0], [adapter[1]]) if adapter else (None, [])
        return self.parts(x, [self.out_features], downs, ups)[0]

    def parts(self, x: Tensor, sizes: list[int], downs: Tensor | None, ups: list[Tensor]) -> list[Tensor]:
        """The float8 product without the bias, split into parts (…, size), each with its own adapter.

        ``downs`` (sum of ranks, in) are the adapters' first matrices, ``ups`` their second ones, (size, rank) each.
        """
        flat = x.reshape(-1, x.shape[-1])
        weights = self.weight, self.weight_scale, self.weight_t
        emulate = self.mode == "emulate"
        *parts, _ = _float8_linear(flat, *_to_rows(flat.detach()), *weights, downs, ups, sizes, emulate)
        return [part.view(*x.shape[:-1], size) for part, size in zip(parts, sizes, strict=True)]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode}"


class Int8Linear(QuantizedLinear):
    """int8 weights (out, in) with one scale per output channel."""

    kind = "int8"

    @staticmethod
    def pack(wide: Tensor) -> tuple[Tensor, Tensor]:
        wide = wide.float()
        scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) * (1 / 127.0)  # as in _to_rows
        return (wide / scale).round().to(torch.int8), scale

    @staticmethod
    def stored(outputs: int, inputs: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        return ((outputs, inputs), torch.int8), ((outputs, 1), torch.float32)


class NF4Linear(QuantizedLinear):
    """Four-bit weights of bitsandbytes, two per byte (out, in / 2), one scale per 64 weights in row-major order."""

    kind = "nf4"
    scale_name = "weight_absmax"

    @staticmethod
    def pack(wide: Tensor) -> tuple[Tensor, Tensor]:
        packed, state = _bitsandbytes().functional.quantize_4bit(
            wide.contiguous(), blocksize=_BLOCK, compress_statistics=False, quant_type="nf4"
        )
        return packed.view(wide.shape[0], -1), state.absmax.float()

    @staticmethod
    def stored(outputs: int, inputs: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        return ((outputs, inputs // 2), torch.uint8), ((-(-outputs * inputs // _BLOCK),), torch.float32)
