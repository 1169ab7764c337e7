"""Adds a low-rank product to a large matrix, in place or while splitting it into column blocks.

A Triton kernel, limited only by reading and writing the large matrix; cuBLAS takes 1.5x as long. Without Triton,
PyTorch's operations. Row and column scales of the large matrix can be applied on the way.
"""

from __future__ import annotations

import functools
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

ROWS, COLUMNS, RANKS = 64, 128, 64
"""Tile size, and how many ranks are multiplied at once."""

Scales = tuple[Tensor | None, Tensor | None]
"""fp32 factors of the rows (m, 1) and of the columns (n, 1) of a matrix (m, n); None is 1."""


def kernels_work(device: torch.device) -> bool:
    """Whether Triton kernels can be built and run on ``device``; needs a C compiler and a supported GPU."""
    return device.type == "cuda" and not missing(device)


@functools.cache
def missing(device: torch.device) -> str:
    """What Triton lacks on the GPU ``device``, in a few words; empty if it works."""
    if triton is None:
        return "it is not installed"
    out = torch.zeros(ROWS, COLUMNS, device=device, dtype=torch.bfloat16)
    try:
        with torch.cuda.device(device):
            launch(out, [out], [out[:, :16]], [out[:16]])
    except Exception as error:  # from gcc, the linker or Triton itself
        if "C compiler" in str(error):
            return "it needs a C compiler: apt install gcc"
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():  # the compiler says so on standard error
            return "Python's headers are missing: apt install python3-dev"
        return str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return ""


def add_product(out: Tensor, left: Tensor, right: Tensor, scales: Scales = (None, None)) -> Tensor:
    """``out`` (m, n) plus ``left`` (m, r) times ``right`` (r, n), in place; summed in fp32 and rounded once.

    ``scales`` are applied to ``out`` first; PyTorch's operations round once more for them.
    """
    if not (out.is_contiguous() and kernels_work(out.device)):
        return out.copy_(_scaled(out, scales)).addmm_(left, right)
    with torch.cuda.device(out.device):
        launch(out, [out], [left], [right], scales)
    return out


def split_with_products(
    wide: Tensor, lefts: Sequence[Tensor], rights: Sequence[Tensor], scales: Scales = (None, None)
) -> list[Tensor]:
    """The column blocks of ``wide`` (m, n), each plus ``left`` (m, r) times ``right`` (r, n_i), as new tensors.

    ``scales`` as for :func:`add_product`.
    """
    sizes = [right.shape[1] for right in rights]
    if not splits(lefts, rights):
        parts = zip(_scaled(wide, scales).split(sizes, dim=1), lefts, rights, strict=True)
        return [torch.addmm(part, left, right) for part, left, right in parts]
    outs = [wide.new_empty(len(wide), size) for size in sizes]
    with torch.cuda.device(wide.device):
        launch(wide, outs, lefts, rights, scales)
    return outs


def splits(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> bool:
    """Whether the kernel of :func:`split_with_products` applies: three parts of the same size."""
    alike = len({(a.shape, a.stride(), b.shape, b.stride()) for a, b in zip(lefts, rights, strict=True)}) == 1
    return alike and len(rights) == 3 and rights[0].shape[1] % COLUMNS == 0 and kernels_work(lefts[0].device)


def _scaled(wide: Tensor, scales: Scales) -> Tensor:
    rows, columns = scales
    factors = [rows, None if columns is None else columns.t()]
    return functools.reduce(torch.mul, [factor for factor in factors if factor is not None], wide).to(wide.dtype)


def launch(
    wide: Tensor,
    outs: Sequence[Tensor],
    lefts: Sequence[Tensor],
    rights: Sequence[Tensor],
    scales: Scales = (None, None),
) -> None:
    """Launch the kernel for both of the above.

    One part, or three equal ones whose columns are a multiple of 128. Everything is contiguous except the low-rank
    matrices; those on the same side have the same strides.
    """
    m, n = wide.shape
    ranks = lefts[0].shape[1]
    at_once = min(RANKS, max(16, triton.next_power_of_2(ranks)))
    if ranks > at_once and ranks % 32 == 0:
        at_once = 32  # no masking needed
    grid = triton.cdiv(n, COLUMNS), triton.cdiv(m, ROWS)
    (a, b, c), (d, e, f), (g, h, i) = (list(x) if len(x) == 3 else [x[0]] * 3 for x in (outs, lefts, rights))
    strides = *lefts[0].stride(), *rights[0].stride()
    size = n // len(outs)
    scales = [None if scale is None else scale.contiguous() for scale in scales]
    thin = *strides, ranks, at_once
    _add[grid](wide, *scales, a, b, c, d, e, f, g, h, i, m, n, size, *thin, ROWS, COLUMNS, num_warps=4)


if triton is not None:

    @triton.jit
    def _add(
        wide,
        row_scale,
        column_scale,
        out,
        out1,
        out2,
        left,
        left1,
        left2,
        right,
        right1,
        right2,
        m,
        n,
        size,
        left_row,
        left_rank,
        right_rank,
        right_column,
        ranks: tl.constexpr,
        at_once: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        start = tl.program_id(0) * COLUMNS
        part = start // size
        if part == 1:
            out, left, right = out1, left1, right1
        if part == 2:
            out, left, right = out2, left2, right2
        rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
        across = start + tl.arange(0, COLUMNS)[None, :]
        columns = across - part * size
        inside = (rows < m) & (across < n)
        total = tl.load(wide + rows.to(tl.int64) * n + across, mask=inside, other=0.0).to(tl.float32)
        if row_scale is not None:
            total *= tl.load(row_scale + rows, mask=rows < m, other=0.0)
        if column_scale is not None:
            total *= tl.load(column_scale + across, mask=across < n, other=0.0)
        for first in tl.static_range(0, ranks, at_once):
            rank = first + tl.arange(0, at_once)
            one, other = rank[None, :], rank[:, None]
            a = tl.load(left + rows * left_row + one * left_rank, mask=(rows < m) & (one < ranks), other=0.0)
            b = tl.load(
                right + other * right_rank + columns * right_column, mask=(other < ranks) & (across < n), other=0.0
            )
            total = tl.dot(a, b, total, input_precision="ieee")
        tl.store(out + rows.to(tl.int64) * size + columns, total.to(out.dtype.element_ty), mask=inside)
