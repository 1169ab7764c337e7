"""Kernels of our own give what PyTorch's operations give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from charloom.kernels import low_rank, rotary, transpose
from charloom.zimage.forward import rotate, rotation_table

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]
CPU = torch.device("cpu")


class Norm(nn.Module):
    """What is read of diffusers' RMSNorm."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(dim), requires_grad=False)
        self.eps = eps


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_q, self.norm_k = Norm(dim, 1e-5), Norm(dim, 1e-3)


def plain(x: torch.Tensor, norm: Norm, rotations: torch.Tensor) -> torch.Tensor:
    """As the stock attention does it, all in the dtype of ``x``."""
    root = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + norm.eps)
    return rotate((x * root).to(x.dtype) * norm.weight, *rotations)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1.2e-2)])
@pytest.mark.parametrize(("batch", "heads", "axes"), [(1, 3, (32, 48, 48)), (2, 30, (32, 48, 48)), (2, 5, (8, 12, 12))])
@pytest.mark.parametrize("parts", [False, True])
def test_norm_and_rotation_in_one(device, dtype, tolerance, batch, heads, axes, parts):
    torch.manual_seed(0)
    image, caption = rotation_table(axes, (64, 64, 64), 256.0, 32, 6, 9, CPU)
    rotations = torch.cat((image, caption), dim=2)
    dim, tokens = sum(axes), rotations.shape[2]
    attention = Attention(dim).to(device, dtype)
    assert rotary.fits(attention, heads)
    query, key, *gradients = (torch.randn(batch, tokens, heads, dim) for _ in range(4))
    query, key = (x.to(device, dtype) for x in (query, key))
    if parts:  # of one product, next to each other
        query, key = torch.cat((query, key, key), dim=-2).split(heads, dim=-2)[:2]
        assert rotary._in_rows(query) and not query.is_contiguous()
    query, key = query.detach().requires_grad_(), key.detach().requires_grad_()
    # Attention hands its gradients back in an order of its own.
    gradients = [g.to(device, dtype).transpose(1, 2).contiguous().transpose(1, 2) for g in gradients]
    rotations = rotations.to(device)
    found = rotary.rotated(attention, query, key, rotations)
    wide = [x.detach().float().requires_grad_() for x in (query, key)]
    attention.float()
    wanted = [plain(x, norm, rotations) for x, norm in zip(wide, (attention.norm_q, attention.norm_k), strict=True)]
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype and (one - other).norm() < tolerance * other.norm()
    back = torch.autograd.grad(found, (query, key), gradients)
    for one, other in zip(back, torch.autograd.grad(wanted, wide, [g.float() for g in gradients]), strict=True):
        assert one.dtype == dtype and (one - other).norm() < tolerance * other.norm()


def test_norms_that_the_kernels_do_not_know_stay():
    attention = Attention(128)
    assert rotary.fits(attention, 30) and not rotary.fits(attention, 200)
    attention.norm_q.weight.requires_grad_()
    assert not rotary.fits(attention, 30)
    attention.norm_q = None
    assert not rotary.fits(attention, 30)
    assert not rotary.fits(Attention(96), 30)


def factors(scales):
    """What each number is scaled with."""
    rows, columns = (1.0 if scale is None else scale for scale in scales)
    return rows * (columns if isinstance(columns, float) else columns.t())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rows", "columns", "ranks"), [(4192, 3840, 32), (70, 200, 5), (33, 128, 96), (1, 16, 130)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("scaled", ["", "rows", "rows columns"])
def test_a_thin_product_is_added_in_place(device, rows, columns, ranks, transposed, scaled):
    torch.manual_seed(0)
    sides = {"rows": rows, "columns": columns}
    scales = [torch.rand(size, 1, device=device) if side in scaled else None for side, size in sides.items()]
    out = torch.randn(rows, columns, device=device).bfloat16()
    left = torch.randn(rows, ranks + 8, device=device).bfloat16()[:, 3 : 3 + ranks]
    right = torch.randn(columns, ranks, device=device).bfloat16().t()
    right = right if transposed else right.contiguous()
    wanted = factors(scales) * out.float() + left.float() @ right.float()
    assert low_rank.add_product(out, left, right, scales) is out
    assert (out - wanted).norm() < 4e-3 * wanted.norm()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [(256, 256, 256), (128, 64, 64), (96, 32)])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_wide_product_is_taken_apart(device, sizes, scaled):
    torch.manual_seed(0)
    scales = [torch.rand(size, 1, device=device) if scaled else None for size in (70, sum(sizes))]
    wide = torch.randn(70, sum(sizes), device=device).bfloat16()
    before = wide.clone()
    lefts = torch.randn(70, 16 * len(sizes), device=device).bfloat16().split(16, dim=1)
    rights = [torch.randn(size, 16, device=device).bfloat16().t() for size in sizes]
    found = low_rank.split_with_products(wide, lefts, rights, scales)
    parts = (factors(scales) * wide.float()).split(sizes, dim=1)
    for one, part, left, right in zip(found, parts, lefts, rights, strict=True):
        wanted = part + left.float() @ right.float()
        assert one.is_contiguous() and (one - wanted).norm() < 4e-3 * wanted.norm()
    assert torch.equal(wide, before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("size", [(11520, 3840), (132, 260), (4, 4), (30, 16), (16, 31)])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_bytes_are_transposed(device, dtype, size, start):
    torch.manual_seed(0)
    wide = torch.randint(0, 256, (size[0] * size[1] + 4,), dtype=torch.uint8).to(device)
    matrix = wide[start : start + size[0] * size[1]].view(size)
    found = transpose.transposed(matrix.view(dtype))
    assert found.dtype == dtype and found.is_contiguous() and torch.equal(found.view(torch.uint8), matrix.t())
