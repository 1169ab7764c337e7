"""Matrix products with quantized weights, forward and backward, as custom operators."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from charloom.core.errors import UserError
from charloom.kernels.low_rank import Scales, add_product, kernels_work, split_with_products, splits
from charloom.kernels.transpose import transposed

GRADIENT_FAST_ACCUM = True
"""Whether fp8 units may accumulate gradients at reduced precision, as in the forward product (``use_fast_accum``)."""


_LARGEST = 448.0  # of e4m3
_TINY = 1e-30  # rows of zeros still need a scale; gradients of 1e-12 are common and must not become zero
_BLOCK = 64  # weights per scale of nf4
_NARROW = 8192  # columns; on an H100, three scaled products of 3,840 take 281 us, one of 11,520 takes 260


def _to_rows(*parts: Tensor) -> tuple[Tensor, Tensor]:
    """``parts`` (rows, …) concatenated in e4m3, with one fp32 scale per row (rows, 1).

    Plain elementwise operations on purpose: the compiler fuses them with whatever produced the parts, once for all
    Linears that share them. No clamp is needed: nothing exceeds the largest value by more than rounding.
    """
    parts = [part.float() for part in parts]
    largest = functools.reduce(torch.maximum, [part.abs().amax(dim=-1, keepdim=True) for part in parts])
    largest = largest.clamp(min=_TINY)
    # Multiply by the inverse: exact division would make these passes compute-bound.
    rows = [(part * (_LARGEST / largest)).to(torch.float8_e4m3fn) for part in parts]
    # By the inverse here too: that is how torch divides by a number on a GPU; a CPU's quotient may differ.
    return torch.cat(rows, dim=-1) if len(rows) > 1 else rows[0].contiguous(), largest * (1 / _LARGEST)


def _product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor | None, emulate: bool, fast: bool) -> Tensor:
    """``a`` (m, k) times ``b`` (n, k) transposed, both e4m3 with a scale per row (None: 1); (m, n) in bf16."""
    if b_scale is None:
        b_scale = _ones(len(b), b.device)
    if emulate:
        return ((a.float() * a_scale) @ (b.float() * b_scale).t()).to(torch.bfloat16)
    return torch._scaled_mm(a, b.t(), a_scale, b_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=fast)


def _without_scales(a: Tensor, b: Tensor, fast: bool) -> Tensor:
    """``a`` (m, k) times ``b`` (n, k) transposed, both e4m3; (m, n) in bf16, whose range is sufficient.

    For few rows, cuBLAS has faster kernels without scaling: all products of a block with 1,120 rows take 0.59 instead
    of 0.79 ms on an H100, with 2,400 rows 1.31 instead of 1.34, with 4,192 rows 2.25 either way.
    """
    one = _ones(1, a.device).view(())
    return torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=fast)


def _product_and_scales(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor | None,
    dtype: torch.dtype,
    emulate: bool,
    fast: bool,
    later: bool,
) -> tuple[Tensor, Scales]:
    """:func:`_product` in ``dtype``, and scales still to be applied.

    With ``later``, scaling is left to the kernel that adds the adapter's product.
    """
    if later and not emulate and dtype != torch.float16:  # fp16's range is too small
        return _without_scales(a, b, fast).to(dtype), (a_scale, b_scale)
    return _product(a, a_scale, b, b_scale, emulate, fast).to(dtype), (None, None)


_ONES: dict[tuple[int, torch.device], Tensor] = {}
"""Cached, because a step needs them hundreds of times."""


def _ones(count: int, device: torch.device) -> Tensor:
    if (count, device) not in _ONES:
        ones = torch.ones(count, 1, device=device)
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return ones  # allocated in the graph's private pool and freed with it
        _ONES[count, device] = ones
    return _ONES[count, device]


# Opaque operators, for three reasons. Our kernels for low-rank products and transposed weights are faster than the
# compiler's, which hold the transposed weights of a whole block at once. The compiler would find the dequantized weight
# in both forward and backward and keep it in between, which quantizing is meant to avoid. And as autograd.Functions,
# torch 2.11 silently compiled wrong gradients.


@torch.library.custom_op("charloom::float8_product", mutates_args=())
def _float8_product(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor | None,
    inner: Tensor | None,
    up: Tensor | None,
    dtype: torch.dtype,
    emulate: bool,
    fast: bool,
    turn: bool = False,
) -> Tensor:
    """:func:`_product` in ``dtype``, plus ``inner`` (m, r) times ``up`` (r, n) if given.

    ``turn``: ``b`` is (k, n) and is transposed into a temporary copy.
    """
    b = transposed(b) if turn else b
    later = inner is not None and kernels_work(a.device)
    out, scales = _product_and_scales(a, a_scale, b, b_scale, dtype, emulate, fast, later)
    return out if inner is None else add_product(out, inner, up, scales)


@_float8_product.register_fake
def _(a: Tensor, a_scale: Tensor, b: Tensor, b_scale, inner, up, dtype, emulate, fast, turn=False) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1 if turn else 0], dtype=dtype)


@torch.library.custom_op("charloom::float8_linear", mutates_args=())
def _float8_linear(
    x: Tensor,
    rows: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    weight_t: Tensor | None,
    downs: Tensor | None,
    ups: list[Tensor],
    sizes: list[int],
    emulate: bool,
) -> list[Tensor]:
    """``x`` (rows, in) times the transposed weight on fp8 units, split into parts of ``sizes`` columns.

    Each part includes its adapter: ``x`` times its rows of ``downs`` (sum of ranks, in) and its matrix of ``ups``
    (size, rank), both transposed. The last tensor returned is the product of ``x`` and ``downs`` (rows, sum of ranks).

    ``rows`` and ``row_scale`` are ``x`` rounded, which the compiler fuses with whatever produced it. fp8 units only
    multiply row-major by column-major, so the gradient needs the weight transposed: ``weight_t``, or a temporary copy.
    There, the weight's scales belong to the summed dimension and are therefore folded into the gradient before it is
    rounded. Without an adapter no activation is kept.
    """
    inner = x.new_empty(0) if downs is None else x @ downs.t()
    inners = inner.split([up.shape[1] for up in ups], dim=-1) if ups else [None] * len(sizes)
    ups = [up.t() for up in ups] or [None] * len(sizes)
    if downs is not None and len(sizes) > 1 and max(sizes) < _NARROW:
        later = splits(inners, ups)
        wide, scales = _product_and_scales(rows, row_scale, weight, scale, x.dtype, emulate, True, later)
        return [*split_with_products(wide, inners, ups, scales), inner]
    parts = zip(weight.split(sizes), scale.split(sizes), inners, ups, strict=True)
    return [*(_float8_product(rows, row_scale, *part, x.dtype, emulate, True) for part in parts), inner]


@_float8_linear.register_fake
def _(x: Tensor, rows: Tensor, row_scale: Tensor, weight, scale, weight_t, downs, ups, sizes: list[int], emulate):
    tokens = x.shape[0]
    parts = [x.new_empty(tokens, size) for size in sizes]
    return [*parts, x.new_empty(0 if downs is None else (tokens, downs.shape[0]))]


def _keep_for_float8(ctx, inputs: tuple, output: list[Tensor]) -> None:
    x, _, _, weight, scale, weight_t, downs, ups, ctx.sizes, ctx.emulate = inputs
    kept = (None, None) if downs is None else (x, output[-1])
    ctx.save_for_backward(weight, scale, weight_t, downs, *kept, *ups)


def _float8_gradients(ctx, gradients: list[Tensor]):
    weight, scale, weight_t, downs, x, inner, *ups = ctx.saved_tensors
    *gradients, _ = gradients
    parts = [g.float() * s.t() for g, s in zip(gradients, scale.split(ctx.sizes), strict=True)]
    rows, row_scale = _to_rows(*parts)
    back = down = None
    if downs is not None:
        inners = inner.split([up.shape[1] for up in ups], dim=-1)
        back = torch.cat([g @ up for g, up in zip(gradients, ups, strict=True)], dim=-1)
        down, ups = back.t() @ x, [g.t() @ part for g, part in zip(gradients, inners, strict=True)]
    turn = weight_t is None
    terms = (back, downs, gradients[0].dtype, ctx.emulate, GRADIENT_FAST_ACCUM, turn)
    return (
        _float8_product(rows, row_scale, weight if turn else weight_t, None, *terms),
        *[None] * 5,
        down,
        ups,
        None,
        None,
    )


_float8_linear.register_autograd(_float8_gradients, setup_context=_keep_for_float8)


@torch.library.custom_op("charloom::frozen_linear", mutates_args=())
def _frozen_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    wide, after = _widened(weight, scale, x.dtype)
    out = x.reshape(-1, x.shape[-1]) @ wide.t()
    if after is not None:
        out.mul_(after.t())
    return out.view(*x.shape[:-1], wide.shape[0])


@torch.library.custom_op("charloom::frozen_linear_gradient", mutates_args=())
def _frozen_linear_gradient(gradient: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    wide, after = _widened(weight, scale, gradient.dtype)
    rows = gradient.reshape(-1, gradient.shape[-1])
    if after is not None:
        rows = (rows * after.t()).to(gradient.dtype)
    return (rows @ wide).view(*gradient.shape[:-1], wide.shape[1])


@_frozen_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@_frozen_linear_gradient.register_fake
def _(gradient: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return gradient.new_empty(*gradient.shape[:-1], weight.shape[1] * (2 if weight.dtype == torch.uint8 else 1))


def _remember(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _pass_on(ctx, gradient: Tensor):
    return _frozen_linear_gradient(gradient, *ctx.saved_tensors), None, None


_frozen_linear.register_autograd(_pass_on, setup_context=_remember)


def _widened(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """(weight in ``dtype``, scales (out, 1) still to be applied to the product, or None).

    Stored values are exact in bf16 and fp32, and scaling the product is cheaper than scaling the weight; in fp16 the
    unscaled product could overflow.
    """
    if weight.dtype == torch.uint8:
        return _dense_nf4(weight, scale, dtype), None
    if dtype == torch.float16:
        return (weight.float() * scale).to(dtype), None
    return weight.to(dtype), scale


def _dense_nf4(packed: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor:
    functional = _bitsandbytes().functional
    shape = (packed.shape[0], 2 * packed.shape[1])
    state = functional.QuantState(absmax, shape=shape, dtype=dtype, blocksize=_BLOCK, quant_type="nf4")
    return functional.dequantize_4bit(packed.view(-1, 1), state)


@functools.cache
def _bitsandbytes():
    try:
        import bitsandbytes
    except ImportError:
        raise UserError(
            "quantization nf4 needs bitsandbytes, which is not installed: "
            "pip install 'charloom[cuda]', or choose float8"
        ) from None
    return bitsandbytes
