"""What an adapter adds to a wide product: a thin one, added where the wide one lies, or while it is taken apart.

On a GPU a kernel of its own, which as good as only reads and writes the wide matrix; cuBLAS takes half as long again.
Elsewhere PyTorch's. On the way the wide product may get the scales of its rows and columns, a factor for each. Must not
know what is added to what.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

ROWS, COLUMNS, RANKS = 64, 128, 64
"""Of a tile, and how many ranks are multiplied at once."""

Scales = tuple[Tensor | None, Tensor | None]


@functools.cache
def kernels_work(device: torch.device) -> bool:
    """Whether kernels of Triton can be built and run on ``device``: it takes a C compiler, and a card it knows."""
    if triton is None or device.type != "cuda":
        return False
    out = torch.zeros(ROWS, COLUMNS, device=device, dtype=torch.bfloat16)
    try:
        with torch.cuda.device(device):
            launch(out, [out], [out[:, :16]], [out[:16]])
    except Exception:  # of gcc, of the linker, of Triton itself
        return False
    return True


def add_product(out: Tensor, left: Tensor, right: Tensor, scales: Scales = (None, None)) -> Tensor:
    """``out`` (m, n) plus ``left`` (m, r) times ``right`` (r, n), in place; summed in fp32 and rounded once.

    ``scales``: fp32 factors of the rows (m, 1) and of the columns (n, 1) of ``out`` as it was, or None. PyTorch rounds
    once more for them.
    """
    if not (out.is_contiguous() and kernels_work(out.device)):
        return out.copy_(_scaled(out, scales)).addmm_(left, right)
    with torch.cuda.device(out.device):
        launch(out, [out], [left], [right], scales)
    return out


def split_with_products(
    wide: Tensor, lefts: Sequence[Tensor], rights: Sequence[Tensor], scales: Scales = (None, None)
) -> list[Tensor]:
    """The parts of ``wide`` (m, n), each plus ``left`` (m, r) times ``right`` (r, n of the part), as new tensors;
    ``scales`` as for :func:`add_product`."""
    sizes = [right.shape[1] for right in rights]
    if not splits(lefts, rights):
        parts = zip(_scaled(wide, scales).split(sizes, dim=1), lefts, rights, strict=True)
        return [torch.addmm(part, left, right) for part, left, right in parts]
    outs = [wide.new_empty(len(wide), size) for size in sizes]
    with torch.cuda.device(wide.device):
        launch(wide, outs, lefts, rights, scales)
    return outs


def splits(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> bool:
    """Whether :func:`split_with_products` has a kernel for these: there must be three of the same sizes."""
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
    """Both of the above by Triton: one part or three equal ones of multiples of 128 columns, everything contiguous but
    the thin matrices, of which those on the same side have the same strides."""
    m, n = wide.shape
    ranks = lefts[0].shape[1]
    at_once = min(RANKS, max(16, triton.next_power_of_2(ranks)))
    if ranks > at_once and ranks % 32 == 0:
        at_once = 32  # nothing to mask
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
