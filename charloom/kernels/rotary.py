"""Normalizes and rotates queries and keys in a single pass over them, forward and backward.

On a GPU by Triton kernels, one program per token: Inductor's code reads the rotation table once per head, and its
tiling is unpredictable. Elsewhere by PyTorch's operations. Independent of attention and adapters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charloom.kernels.low_rank import kernels_work
from charloom.zimage.forward import neighbours, rotate

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

WARPS, WARPS_BACK = 8, 4


def rotated(attention: nn.Module, query: Tensor, key: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """``query`` and ``key`` (B, T, heads, head_dim), normalized like in ``attention``, then rotated.

    ``rotations`` (2, 1, T, 1, head_dim) are those of :func:`charloom.zimage.forward.rotation_table`.
    """
    norms = attention.norm_q, attention.norm_k
    return _rotate(query, key, *(norm.weight for norm in norms), rotations, *(norm.eps for norm in norms))[:2]


def fits(attention: nn.Module, heads: int) -> bool:
    """Whether the kernels support the norms and sizes of ``attention``."""
    norms = attention.norm_q, attention.norm_k
    plain = all(getattr(norm, "weight", None) is not None and not norm.weight.requires_grad for norm in norms)
    return plain and heads <= 128 and norms[0].weight.numel() in (32, 64, 128, 256)


@torch.library.custom_op("charloom::rotate", mutates_args=())
def _rotate(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    rotations: Tensor,
    query_eps: float,
    key_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rotated query and key, and the inverse root mean squares (B, T, heads) of both."""
    pairs = (query, query_weight, query_eps), (key, key_weight, key_eps)
    if _by_kernel(query, key, rotations):
        outs = [x.new_empty(x.shape) for x in (query, key)]
        roots = [x.new_empty(x.shape[:-1], dtype=torch.float32) for x in (query, key)]
        with torch.cuda.device(query.device):
            launch(pairs, rotations, outs, roots)
        return *outs, *roots
    outs, roots = [], []
    for x, weight, eps in pairs:
        root = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
        outs.append(rotate((x * root).to(weight.dtype) * weight, *rotations).to(x.dtype).contiguous())
        roots.append(root.squeeze(-1).contiguous())
    return *outs, *roots


@_rotate.register_fake
def _(query: Tensor, key: Tensor, query_weight, key_weight, rotations, query_eps, key_eps):
    outs = [x.new_empty(x.shape) for x in (query, key)]
    return *outs, *(x.new_empty(x.shape[:-1], dtype=torch.float32) for x in (query, key))


@torch.library.custom_op("charloom::rotate_gradient", mutates_args=())
def _rotate_gradient(
    query_gradient: Tensor,
    key_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_root: Tensor,
    key_root: Tensor,
    rotations: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``query`` and ``key`` (B, T, heads, head_dim); incoming gradients may have any strides."""
    gradients = [query_gradient.contiguous(), key_gradient.contiguous()]
    pairs = (query, query_weight, query_root), (key, key_weight, key_root)
    if _by_kernel(query, key, rotations):
        outs = [x.new_empty(x.shape) for x in (query, key)]
        with torch.cuda.device(query.device):
            launch_back(gradients, pairs, rotations, outs)
        return tuple(outs)
    outs = []
    for gradient, (x, weight, root) in zip(gradients, pairs, strict=True):
        cos, sin = rotations
        wide, root = gradient.float(), root.unsqueeze(-1)
        through = (wide * cos + neighbours(wide * sin)) * weight.float()
        along = (through * x.float()).mean(-1, keepdim=True)
        outs.append((root * through - x.float() * root**3 * along).to(x.dtype).contiguous())
    return tuple(outs)


@_rotate_gradient.register_fake
def _(query_gradient: Tensor, key_gradient: Tensor, query: Tensor, key: Tensor, *_):
    return query.new_empty(query.shape), key.new_empty(key.shape)


def _remember(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    query, key, query_weight, key_weight, rotations, _, _ = inputs
    ctx.save_for_backward(query, key, query_weight, key_weight, output[2], output[3], rotations)


def _back(ctx, query_gradient: Tensor, key_gradient: Tensor, *_):
    return *_rotate_gradient(query_gradient, key_gradient, *ctx.saved_tensors), None, None, None, None, None


_rotate.register_autograd(_back, setup_context=_remember)


def _by_kernel(query: Tensor, key: Tensor, rotations: Tensor) -> bool:
    inputs = _in_rows(query) and _in_rows(key) and rotations.is_contiguous() and rotations.shape[1] == 1
    return inputs and kernels_work(query.device)


def _in_rows(x: Tensor) -> bool:
    """Whether the tokens of (B, T, heads, head_dim) are evenly spaced in memory and each is contiguous."""
    batch, token, *inner = x.stride()
    return tuple(inner) == (x.shape[3], 1) and (x.shape[0] == 1 or batch == x.shape[1] * token)


def launch(pairs, rotations: Tensor, outs: list[Tensor], roots: list[Tensor]) -> None:
    """Launch the forward kernel; inputs satisfy :func:`_in_rows`, everything else is contiguous."""
    (query, query_weight, query_eps), (key, key_weight, key_eps) = pairs
    arguments = query, key, *outs, *roots, query_weight, key_weight, rotations, query_eps, key_eps
    _forward[_grid(query)](*arguments, *_sizes(query, key, rotations), num_warps=WARPS)


def launch_back(gradients: list[Tensor], pairs, rotations: Tensor, outs: list[Tensor]) -> None:
    """Launch the backward kernel, with the same requirements."""
    (query, query_weight, query_root), (key, key_weight, key_root) = pairs
    arguments = *gradients, query, key, *outs, query_root, key_root, query_weight, key_weight, rotations
    _backward[_grid(query)](*arguments, *_sizes(query, key, rotations), num_warps=WARPS_BACK)


def _grid(x: Tensor) -> tuple[int]:
    return (x.shape[0] * x.shape[1],)


def _sizes(query: Tensor, key: Tensor, rotations: Tensor) -> tuple[int, ...]:
    """Strides and sizes that both kernels take."""
    heads, dim = query.shape[-2:]
    return query.stride(1), key.stride(1), rotations.shape[2], heads, triton.next_power_of_2(heads), dim


if triton is not None:

    @triton.jit
    def _neighbours(x, rows: tl.constexpr, dim: tl.constexpr):
        even, odd = tl.split(tl.reshape(x, (rows, dim // 2, 2)))
        return tl.reshape(tl.join(odd, even), (rows, dim))

    @triton.jit
    def _one(
        x, step, out, root, weight, cos, sin, eps, within, inside, row, heads, rows: tl.constexpr, dim: tl.constexpr
    ):
        token = tl.program_id(0).to(tl.int64)
        place = token * heads * dim + within
        wide = tl.load(x + token * step + within, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(wide * wide, 1) / dim + eps)
        kind = out.dtype.element_ty
        # Round wherever PyTorch's operations round.
        normal = ((wide * inverse[:, None]).to(kind).to(tl.float32) * weight).to(kind).to(tl.float32)
        tl.store(out + place, (normal * cos + _neighbours(normal, rows, dim) * sin).to(kind), mask=inside)
        tl.store(root + row, inverse, mask=tl.max(inside.to(tl.int32), 1) > 0)

    @triton.jit
    def _one_back(
        gradient,
        x,
        step,
        out,
        root,
        weight,
        cos,
        sin,
        within,
        inside,
        row,
        heads,
        rows: tl.constexpr,
        dim: tl.constexpr,
    ):
        token = tl.program_id(0).to(tl.int64)
        place = token * heads * dim + within
        given = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        wide = tl.load(x + token * step + within, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(root + row, mask=tl.max(inside.to(tl.int32), 1) > 0, other=0.0)
        through = (given * cos + _neighbours(given * sin, rows, dim)) * weight
        along = tl.sum(through * wide, 1) / dim * inverse * inverse * inverse
        result = through * inverse[:, None] - wide * along[:, None]
        tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _where(rotations, tokens, heads: tl.constexpr, rows: tl.constexpr, dim: tl.constexpr):
        token = tl.program_id(0)
        head = tl.arange(0, rows)
        column = tl.arange(0, dim)[None, :]
        row = token.to(tl.int64) * heads + head
        within = head[:, None] * dim + column
        inside = (head[:, None] < heads) & (column < dim)
        angle = token % tokens * dim + column
        cos, sin = tl.load(rotations + angle), tl.load(rotations + tokens * dim + angle)
        return within, inside, row, column, cos, sin

    @triton.jit
    def _forward(
        query,
        key,
        query_out,
        key_out,
        query_root,
        key_root,
        query_weight,
        key_weight,
        rotations,
        query_eps,
        key_eps,
        query_step,
        key_step,
        tokens,
        heads: tl.constexpr,
        rows: tl.constexpr,
        dim: tl.constexpr,
    ):
        within, inside, row, column, cos, sin = _where(rotations, tokens, heads, rows, dim)
        weight = tl.load(query_weight + column).to(tl.float32)
        _one(
            query, query_step, query_out, query_root, weight, cos, sin, query_eps, within, inside, row, heads, rows, dim
        )
        weight = tl.load(key_weight + column).to(tl.float32)
        _one(key, key_step, key_out, key_root, weight, cos, sin, key_eps, within, inside, row, heads, rows, dim)

    @triton.jit
    def _backward(
        query_gradient,
        key_gradient,
        query,
        key,
        query_out,
        key_out,
        query_root,
        key_root,
        query_weight,
        key_weight,
        rotations,
        query_step,
        key_step,
        tokens,
        heads: tl.constexpr,
        rows: tl.constexpr,
        dim: tl.constexpr,
    ):
        within, inside, row, column, cos, sin = _where(rotations, tokens, heads, rows, dim)
        weight = tl.load(query_weight + column).to(tl.float32)
        _one_back(
            query_gradient,
            query,
            query_step,
            query_out,
            query_root,
            weight,
            cos,
            sin,
            within,
            inside,
            row,
            heads,
            rows,
            dim,
        )
        weight = tl.load(key_weight + column).to(tl.float32)
        _one_back(
            key_gradient, key, key_step, key_out, key_root, weight, cos, sin, within, inside, row, heads, rows, dim
        )
