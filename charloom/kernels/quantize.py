"""Frozen Linears of fewer bits, which compute with their stored weights and pass gradients on to their input.

``float8`` (e4m3) and ``int8`` have one scale per output channel, ``nf4`` one per block of 64 weights. Only Linears of
the transformer blocks are replaced; embedders, norms, modulation and the final layer stay as they are. On cards
with float8 units the input is rounded to float8 as well, one scale per row, so that the units multiply forward and
backward; everywhere else the weights are widened for each product and forgotten at once. What an adapter adds may be
handed over as two matrices; nothing here knows where they come from, or of memory budgets or files.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charloom.core.errors import UserError
from charloom.kernels.low_rank import Scales, add_product, kernels_work, split_with_products, splits
from charloom.kernels.transpose import transposed

KINDS = ("float8", "int8", "nf4")
MODES = ("units", "emulate", "dequantize")

BLOCKS = re.compile(r"^(layers|noise_refiner|context_refiner)\.")
"""Linears below these are quantised (``layers`` is also what a Qwen text encoder calls its blocks)."""

SENSITIVE = re.compile(r"adaLN_modulation|^noise_refiner\..*\battention\b")
"""Names inside the blocks that stay as they are. Modulation scales and gates whole streams, so that an error of its own
would hit every token alike (on random weights it raises the model's error from 3.6 to 4.0 %), and at 2 % of the weights
it saves next to nothing. What the noise refiner's attention gets wrong is handed to every block: in bf16, with 2 % of
the weights, LoRA gradients are nearer to those of a bf16 model (a cosine of 0.992 instead of 0.990, emulated)."""

GRADIENT_FAST_ACCUM = True
"""Whether the units may accumulate gradients in their short registers, as in the forward product."""

_LARGEST = 448.0  # of e4m3
_TINY = 1e-30  # rows of zeros still need a scale; gradients of 1e-12 are common and must not be cut
_BLOCK = 64
_MULTIPLE = 16
_NARROW = 8192  # columns; of an H100, three scaled products of 3,840 take 281 us and one of 11,520 takes 260


def _to_rows(*parts: Tensor) -> tuple[Tensor, Tensor]:
    """``parts`` (rows, …) beside each other in e4m3, with one fp32 scale a row (rows, 1).

    Plain elementwise operations on purpose: a compiler fuses them with what made the parts and does them once for all
    Linears that share them. No clamp is needed, as nothing exceeds the largest value by more than rounding.
    """
    parts = [part.float() for part in parts]
    largest = functools.reduce(torch.maximum, [part.abs().amax(dim=-1, keepdim=True) for part in parts])
    largest = largest.clamp(min=_TINY)
    # A product with the inverse: exact divisions would cost these passes more time than memory does.
    rows = [(part * (_LARGEST / largest)).to(torch.float8_e4m3fn) for part in parts]
    return torch.cat(rows, dim=-1) if len(rows) > 1 else rows[0].contiguous(), largest / _LARGEST


def _product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor | None, emulate: bool, fast: bool) -> Tensor:
    """``a`` (m, k) times ``b`` (n, k) transposed, both e4m3 with a scale per row (None: 1); (m, n) in bf16."""
    if b_scale is None:
        b_scale = _ones(len(b), b.device)
    if emulate:
        return ((a.float() * a_scale) @ (b.float() * b_scale).t()).to(torch.bfloat16)
    return torch._scaled_mm(a, b.t(), a_scale, b_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=fast)


def _without_scales(a: Tensor, b: Tensor, fast: bool) -> Tensor:
    """``a`` (m, k) times ``b`` (n, k) transposed, both e4m3; (m, n) in bf16, whose range holds whatever comes out.

    For few rows cuBLAS has better kernels if it need not scale: all products of a block with 1,120 rows take 0.59
    instead of 0.79 ms on an H100, with 2,400 rows 1.31 instead of 1.34, with 4,192 the same 2.25.
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
    """:func:`_product` in ``dtype``, and scales that are left to a kernel that adds an adapter's, if that comes
    ``later``."""
    if later and not emulate and dtype != torch.float16:  # whose range is too small
        return _without_scales(a, b, fast).to(dtype), (a_scale, b_scale)
    return _product(a, a_scale, b, b_scale, emulate, fast).to(dtype), (None, None)


_ONES: dict[tuple[int, torch.device], Tensor] = {}
"""A step would fill them hundreds of times."""


def _ones(count: int, device: torch.device) -> Tensor:
    if (count, device) not in _ONES:
        ones = torch.ones(count, 1, device=device)
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return ones  # memory of a recording, which it takes along when it goes
        _ONES[count, device] = ones
    return _ONES[count, device]


# Opaque operators, for three reasons. Kernels of our own add a low-rank product and transpose weights; a compiler's
# take longer, and hold transposed weights of a whole block at a time. It would find a widened weight in forward and
# backward alike and keep it in between, which is what quantising is meant to avoid. And of an autograd.Function in
# their place torch 2.11's compiler made wrong gradients, without a word.


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
    """:func:`_product` in ``dtype``, plus ``inner`` (m, r) times ``up`` (r, n) if they are given.

    ``turn``: ``b`` is (k, n), and transposed in a copy that lives for this one product.
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
    """``x`` (rows, in) times the transposed weight on float8 units, in parts of ``sizes`` columns, each with what an
    adapter adds to it: ``x`` times its share of ``downs`` (all ranks, in) and its matrix of ``ups`` (size, rank), both
    transposed. The last tensor is the product of ``x`` and ``downs`` (rows, all ranks).

    ``rows`` and ``row_scale`` are ``x`` rounded, by a compiler together with what made it. The units multiply
    row-major by column-major only, so the gradient needs the weight transposed: ``weight_t``, or a copy that lives for
    this one product. The weight's scales belong to the dimension that is summed over there, and are therefore
    folded into the gradient before it is rounded. Without an adapter no activation is kept.
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
    """(weight in ``dtype``, scales (out, 1) still to be applied to the product or None).

    Stored values are exact in bf16 and fp32, and scaling rows of the product is cheaper than scaling the weight; in
    fp16 the unscaled product could overflow.
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
            "quantization nf4 needs bitsandbytes, which is not installed: pip install bitsandbytes, or choose float8"
        ) from None
    return bitsandbytes


class QuantizedLinear(nn.Linear):
    """A frozen Linear: ``weight`` in its stored dtype, a buffer with its scales, ``bias`` as in ``nn.Linear``.

    Maps (…, in) to (…, out) in the dtype of its input, with gradients for the input and for an adapter's matrices.
    Casting the module (``model.to(torch.bfloat16)``) moves it but never changes a dtype of it.
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
        """The quantised form of ``linear``, made on ``device`` (default: where its weight is)."""
        wide = linear.weight.detach().to(device)
        bias = None if linear.bias is None else linear.bias.detach().to(device)
        return cls(linear.in_features, linear.out_features, *cls.pack(wide), bias)

    @classmethod
    def empty(cls, linear: nn.Linear) -> QuantizedLinear:
        """On the meta device: dtypes and shapes of the quantised form of ``linear``."""
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
        """Shape and dtype of what :meth:`pack` gives."""
        raise NotImplementedError

    @property
    def scale(self) -> Tensor:
        """The buffer with the scales."""
        return getattr(self, self.scale_name)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (out, in) that the module stands for."""
        wide, after = _widened(self.weight, self.scale, torch.float32)
        return (wide if after is None else wide * after).to(dtype)

    def forward(self, x: Tensor, *adapter: Tensor) -> Tensor:
        """``adapter``: matrices (r, in) and (out, r) in the dtype of ``x`` whose effect is added."""
        out = self.product(x, *adapter)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def product(self, x: Tensor, *adapter: Tensor) -> Tensor:
        """``x`` times the transposed weight, and what an adapter adds to it."""
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

    ``mode`` says how it multiplies: ``units`` on the card's float8 units, ``emulate`` the same numbers in fp32 on any
    device, ``dequantize`` with widened weights and an input that is not rounded. ``weight_t`` is None or the
    transposed copy that :func:`keep_transposed` makes. ``fused``: the weight is a part of a larger one, which is
    what multiplies (:mod:`charloom.engine.fuse`).
    """

    kind = "float8"

    def __init__(self, inputs: int, outputs: int, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__(inputs, outputs, weight, scale, bias)
        self.register_buffer("weight_t", None, persistent=False)
        self.mode = "dequantize"
        self.fused = False

    @staticmethod
    def pack(wide: Tensor) -> tuple[Tensor, Tensor]:
        return _to_rows(wide)

    @staticmethod
    def stored(outputs: int, inputs: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        return ((outputs, inputs), torch.float8_e4m3fn), ((outputs, 1), torch.float32)

    @property
    def fits_units(self) -> bool:
        """Whether the units take these sizes."""
        return not (self.in_features % _MULTIPLE or self.out_features % _MULTIPLE)

    @property
    def multiplies(self) -> bool:
        """Whether float8 numbers are multiplied, instead of widened ones."""
        return self.mode == "emulate" or (self.mode == "units" and self.fits_units)

    def product(self, x: Tensor, *adapter: Tensor) -> Tensor:
        if not self.multiplies:
            return super().product(x, *adapter)
        downs, ups = (adapter[0], [adapter[1]]) if adapter else (None, [])
        return self.parts(x, [self.out_features], downs, ups)[0]

    def parts(self, x: Tensor, sizes: list[int], downs: Tensor | None, ups: list[Tensor]) -> list[Tensor]:
        """The product on the units, without the bias, in parts (…, size), each with an adapter of its own.

        ``downs`` (all ranks, in) are the adapters' first matrices, ``ups`` their second ones, (size, rank) each.
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
        scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) / 127.0
        return (wide / scale).round().to(torch.int8), scale

    @staticmethod
    def stored(outputs: int, inputs: int) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        return ((outputs, inputs), torch.int8), ((outputs, 1), torch.float32)


class NF4Linear(QuantizedLinear):
    """Four-bit weights of bitsandbytes, two a byte (out, in / 2), with a scale per block of 64 in row-major order."""

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


_CLASSES: dict[str, type[QuantizedLinear]] = {cls.kind: cls for cls in (Float8Linear, Int8Linear, NF4Linear)}


def eligible(model: nn.Module) -> list[str]:
    """Names of the Linears that :func:`quantize` replaces."""
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and BLOCKS.match(name)
        and not SENSITIVE.search(name)
        and not module.in_features % 2  # nf4 packs two a byte
    ]


def quantize(model: nn.Module, kind: str, device: str | torch.device | None = None) -> int:
    """Replace the eligible Linears of ``model`` by frozen ones of ``kind``; returns how many.

    One at a time, so that no more than one weight exists twice. With ``device`` each is quantised there and stays
    there; the rest of the model is left where it is. float8 gets the best mode of its device.

    Raises:
        UserError: nf4 without bitsandbytes.
    """
    device = torch.device(device) if device is not None else None
    count = 0
    for name, linear in _replaceable(model, kind):
        new = _CLASSES[kind].from_linear(linear, device)
        if isinstance(new, Float8Linear):
            new.mode = best_mode(new.weight.device)
        model.set_submodule(name, new)
        count += 1
    return count


def restructure(model: nn.Module, kind: str) -> None:
    """Give ``model``, which is on the meta device, the quantised Linears without values, so that
    ``load_state_dict(…, assign=True)`` takes the tensors of a quantised model.

    Raises:
        UserError: nf4 without bitsandbytes.
    """
    for name, linear in _replaceable(model, kind):
        model.set_submodule(name, _CLASSES[kind].empty(linear))


def _replaceable(model: nn.Module, kind: str) -> Iterator[tuple[str, nn.Linear]]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "nf4":
        _bitsandbytes()
    for name in eligible(model):
        yield name, model.get_submodule(name)


def quantized(model: nn.Module) -> list[QuantizedLinear]:
    """The quantised Linears of a model, also those under adapters."""
    return [module for module in model.modules() if isinstance(module, QuantizedLinear)]


def stored_names(model: nn.Module) -> set[str]:
    """Names in the state dict of ``model`` of what is quantised, and of its scales: tensors whose dtype is fixed."""
    return {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
        for part in ("weight", module.scale_name)
    }


def set_mode(model: nn.Module, mode: str) -> None:
    """How the float8 Linears of ``model`` multiply; the other kinds know one way only."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    for module in quantized(model):
        if isinstance(module, Float8Linear):
            module.mode = mode


def best_mode(device: str | torch.device) -> str:
    """``units`` where the device has float8 units that this build of torch can use, else ``dequantize``."""
    device = torch.device(device)
    return "units" if device.type == "cuda" and _units_work(device) else "dequantize"


@functools.cache
def _units_work(device: torch.device) -> bool:
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    # The capability alone does not say whether this build has kernels for scales per row.
    a = torch.zeros(_MULTIPLE, _MULTIPLE, device=device).to(torch.float8_e4m3fn)
    scale = torch.ones(_MULTIPLE, 1, device=device)
    try:
        _product(a, scale, a, scale, emulate=False, fast=True)
        _without_scales(a, a, fast=True)
    except RuntimeError:
        return False
    return True


def keep_transposed(model: nn.Module) -> int:
    """Keep a transposed copy of every float8 weight that the units use, so that backward need not make it each time.

    Returns the bytes that this takes. Not part of the state dict; calling it again changes nothing.
    """
    total = 0
    for module in quantized(model):
        if isinstance(module, Float8Linear) and module.mode != "dequantize" and module.fits_units and not module.fused:
            if module.weight_t is None:
                module.weight_t = transposed(module.weight)
            total += module.weight_t.numel()
    return total


def drop_transposed(model: nn.Module) -> None:
    """Forget what :func:`keep_transposed` made."""
    for module in quantized(model):
        if isinstance(module, Float8Linear):
            module.weight_t = None
