"""Transposed copies of matrices of bytes, at the speed of the GPU's memory.

Inductor's copy moves single bytes and takes more than twice as long, and unless transposed weights are kept, every step
transposes every weight. Without Triton, PyTorch's copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from charloom.kernels.low_rank import kernels_work

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

SIDE = 32
"""Side of a tile in four-byte words."""


def transposed(matrix: Tensor) -> Tensor:
    """Contiguous transposed copy (n, m) of ``matrix`` (m, n), of any one-byte dtype."""
    m, n = matrix.shape
    in_words = matrix.is_contiguous() and not any(size % 4 for size in (m, n, matrix.storage_offset()))
    if not (in_words and kernels_work(matrix.device)):
        return matrix.t().contiguous()
    out = matrix.new_empty(n, m)
    with torch.cuda.device(matrix.device):
        launch(matrix, out)
    return out


def launch(matrix: Tensor, out: Tensor) -> None:
    """Launch the kernel; both sizes are multiples of four."""
    words, wide = (x.view(torch.uint8).view(torch.int32) for x in (matrix, out))
    down, across = out.shape[1] // 4, words.shape[1]
    grid = triton.cdiv(across, SIDE), triton.cdiv(down, SIDE)
    _transpose[grid](words, wide, down, across, SIDE, num_warps=4)


if triton is not None:

    @triton.jit
    def _transpose(words, out, down, across, SIDE: tl.constexpr):
        # 4 x 4 bytes are four words below each other: transposed by shifts, then whole words are transposed.
        row = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
        column = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
        inside = (row[:, None] < down) & (column[None, :] < across)
        start = 4 * row[:, None].to(tl.int64) * across + column[None, :]
        first = tl.load(words + start, mask=inside, other=0)
        second = tl.load(words + start + across, mask=inside, other=0)
        third = tl.load(words + start + 2 * across, mask=inside, other=0)
        fourth = tl.load(words + start + 3 * across, mask=inside, other=0)
        within = (row[None, :] < down) & (column[:, None] < across)
        for byte in tl.static_range(4):
            low = ((first >> 8 * byte) & 255) | (((second >> 8 * byte) & 255) << 8)
            high = ((third >> 8 * byte) & 255) | (((fourth >> 8 * byte) & 255) << 8)
            place = (4 * column[:, None].to(tl.int64) + byte) * down + row[None, :]
            tl.store(out + place, tl.trans(low | (high << 16)), mask=within)
