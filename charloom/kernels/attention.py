"""Attention whose output can be kept for recomputation, on request with deterministic gradients, bit for bit.

The usual kernels accumulate the gradient of the queries with atomic additions, in any order. cuDNN has a deterministic
variant that PyTorch does not expose; it is called through NVIDIA's Python interface (``nvidia-cudnn-frontend``). Where
that is missing, PyTorch's slower deterministic kernels are used. Independent of models, budgets and training.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor, nn

ROOM, MUCH_ROOM = 256 * 2**20, 512 * 2**20
"""Bytes of workspace for cuDNN's partial gradients of the queries; if more are needed, heads are processed in turns."""
_KEYS = 64
"""Keys that one multiprocessor handles at a time."""

log = logging.getLogger(__name__)

KINDS = ("cudnn", "flash", "efficient")
"""Kernels, the fastest first."""
HALF = (torch.bfloat16, torch.float16)
"""Dtypes that the first two support; they would misread the bits of any other."""
PROBED = (64, 96)
"""Tokens on which a kernel is tried."""
ALIKE = 0.99
"""Lowest acceptable cosine between its results and those of plain arithmetic."""


def attend(query: Tensor, key: Tensor, value: Tensor, kind: str, fixed: bool, room: int) -> Tensor:
    """Attention without a mask, scaled by 1 / sqrt(head_dim); all tensors (B, T, heads, head_dim).

    ``fixed``: gradients are accumulated in a fixed order, for which cuDNN may use ``room`` bytes of workspace; the size
    does not affect results.
    """
    return _attend(query, key, value, kind, fixed, room)[0]


def best_kind(
    device: torch.device, dtype: torch.dtype, head_dim: int, fixed: bool, prefer_cudnn: bool = True
) -> str | None:
    """The fastest of :data:`KINDS` that works for this dtype and head size on ``device``; None if none does."""
    order = KINDS if dtype in HALF else KINDS[2:]
    order = [kind for kind in order if prefer_cudnn or kind != "cudnn"]
    return next((kind for kind in order if _works(kind, device, dtype, head_dim, fixed)), None)


def install(blocks: Sequence[nn.Module], kind: str, fixed: bool, room: int) -> None:
    """Use :func:`attend` as the attention of ``blocks``; :func:`remove` undoes it."""
    for block in blocks:
        block.attention.attend = functools.partial(attend, kind=kind, fixed=fixed, room=room)


def remove(blocks: Sequence[nn.Module]) -> None:
    """Undo :func:`install`."""
    for block in blocks:
        block.attention.__dict__.pop("attend", None)


def bytes_of(hidden: Tensor, heads: int) -> int:
    """Bytes that :func:`keeping` keeps for tokens ``hidden`` (B, T, D)."""
    return hidden.numel() * hidden.element_size() + 4 * heads * hidden.shape[0] * hidden.shape[1]


@functools.cache
def _works(kind: str, device: torch.device, dtype: torch.dtype, head_dim: int, fixed: bool) -> bool:
    """Whether ``kind`` computes what plain arithmetic does, output and gradients; tried on a few tokens."""
    try:
        return all(_likeness(kind, tokens, device, dtype, head_dim, fixed) > ALIKE for tokens in PROBED)
    except Exception:  # missing package, unsupported GPU or version; cuDNN has its own exceptions
        return False


def _likeness(kind: str, tokens: int, device: torch.device, dtype: torch.dtype, head_dim: int, fixed: bool) -> float:
    """The lowest cosine between an output or gradient of ``kind`` and that in fp32; nan if there are nans."""
    generator = torch.Generator(device).manual_seed(0)
    gradient, *parts = (
        torch.randn(1, tokens, 2, head_dim, device=device, generator=generator).to(dtype) for _ in range(4)
    )
    with torch.no_grad():
        out, sums = _attend(*parts, kind, fixed, ROOM)
        if kind == "cudnn" and fixed:  # without falling back to the other kernel
            found = _by_cudnn(gradient, *parts, out, sums, ROOM) or ()
        else:
            found = _attend_gradient(gradient, *parts, out, sums, kind, fixed, ROOM)
    leaves = [part.float().requires_grad_() for part in parts]
    with torch.enable_grad():
        query, key, value = (leaf.transpose(1, 2) for leaf in leaves)
        weights = (query @ key.transpose(2, 3) / math.sqrt(head_dim)).softmax(-1)
        wanted = (weights @ value).transpose(1, 2)
    pairs = zip((out, *found), (wanted, *torch.autograd.grad(wanted, leaves, gradient.float())), strict=True)
    likeness = [torch.cosine_similarity(a.flatten().float(), b.flatten(), dim=0) for a, b in pairs]
    return torch.stack(likeness).min().item()


# -- kept results ----------------------------------------------------------------------------------


class Kept:
    """Keeps the output of an attention and its log-sum-exp from its first computation to the second; true meanwhile.

    Subclasses may keep them elsewhere.
    """

    def __init__(self) -> None:
        self._results: tuple[Tensor, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._results)

    def put(self, *results: Tensor) -> None:
        """Hold ``results``."""
        self._results = results

    def take(self) -> tuple[Tensor, ...]:
        """Return the held tensors and let go of them."""
        results, self._results = self._results, ()
        return results


_kept: Kept | None = None


@contextlib.contextmanager
def keeping(results: Kept) -> Iterator[None]:
    """Inside, the first computation of an attention puts its output into ``results``; a second one takes it from there.

    For blocks with one attention that are recomputed: its output is small compared to the time it takes to compute.
    """
    global _kept
    before, _kept = _kept, results
    try:
        yield
    finally:
        _kept = before


# -- operators -------------------------------------------------------------------------------------


@torch.library.custom_op("charloom::attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, kind: str, fixed: bool, room: int) -> tuple[Tensor, Tensor]:
    """The output, and the log-sum-exp in the layout that the kind's backward pass expects."""
    if _kept:
        return _kept.take()
    parts = [x.transpose(1, 2) for x in (query, key, value)]
    aten = torch.ops.aten
    if kind == "cudnn":
        out, sums = aten._scaled_dot_product_cudnn_attention(*parts, None, True)[:2]
    elif kind == "flash":
        out, sums = aten._scaled_dot_product_flash_attention(*parts)[:2]
    else:
        out, sums = aten._scaled_dot_product_efficient_attention(*parts, None, True)[:2]
    found = out.transpose(1, 2).contiguous(), sums.view(*sums.shape[:2], -1).contiguous()
    if _kept is not None:
        _kept.put(*found)
    return found


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, kind: str, fixed: bool, room: int):
    batch, tokens, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty(batch, heads, tokens, dtype=torch.float32)


@torch.library.custom_op("charloom::attend_gradient", mutates_args=())
def _attend_gradient(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    kind: str,
    fixed: bool,
    room: int,
) -> tuple[Tensor, Tensor, Tensor]:
    gradient = gradient.contiguous()
    if kind == "cudnn" and fixed:
        found = _by_cudnn(gradient, query, key, value, out, sums, room)
        if found is not None:
            return found
        kind = "flash"  # its log-sum-exp is the same
    given, *parts, result = (x.transpose(1, 2) for x in (gradient, query, key, value, out))
    tokens, aten = query.shape[1], torch.ops.aten
    # Dropout state; there is no dropout.
    seed, offset = (torch.zeros((), dtype=torch.int64, device=query.device) for _ in range(2))
    with _fixed_order() if fixed else contextlib.nullcontext():
        if kind == "cudnn":
            more = seed, offset, None, None, None, tokens, tokens, 0.0, False
            found = aten._scaled_dot_product_cudnn_attention_backward(given, *parts, result, sums[..., None], *more)
        elif kind == "flash":
            more = None, None, tokens, tokens, 0.0, False, seed, offset
            found = aten._scaled_dot_product_flash_attention_backward(given, *parts, result, sums, *more)
        else:
            more = seed, offset, 0.0, [True, True, True, False]
            found = aten._scaled_dot_product_efficient_attention_backward(given, *parts, None, result, sums, *more)[:3]
    return tuple(x.transpose(1, 2).contiguous() for x in found)


@_attend_gradient.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_):
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _remember(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.how = inputs[3:]


def _back(ctx, gradient: Tensor, _: Tensor):
    return *_attend_gradient(gradient, *ctx.saved_tensors, *ctx.how), *[None] * len(ctx.how)


_attend.register_autograd(_back, setup_context=_remember)


@contextlib.contextmanager
def _fixed_order() -> Iterator[None]:
    """PyTorch's kernels are deterministic inside; they check the flag when launched."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, torch.utils.deterministic.fill_uninitialized_memory = (
        torch.utils.deterministic.fill_uninitialized_memory,
        False,
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill


# -- cuDNN -----------------------------------------------------------------------------------------


def _by_cudnn(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, sums: Tensor, room: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The gradients, or None if cuDNN has no deterministic kernel for these."""
    found = tuple(x.new_empty(x.shape) for x in (query, key, value))
    batch, tokens, heads, head_dim = query.shape
    processors = torch.cuda.get_device_properties(query.device).multi_processor_count
    size = heads // turns(batch, tokens, heads, processors, room)
    workspace = None
    for first in range(0, heads, size):
        some = slice(first, first + size)
        tensors = [x[:, :, some].transpose(1, 2) for x in (gradient, query, key, value, out)]
        # Packed, with the strides of a packed tensor even where a batch of one allows any.
        tensors += [sums[:, some].flatten().view(batch, size, tokens, 1)]
        tensors += [x[:, :, some].transpose(1, 2) for x in found]
        layout = tuple((tuple(x.shape), x.stride()) for x in tensors)
        planned = _plan(query.device, query.dtype, layout)
        if planned is None:
            return None
        plan, names, size_of_it = planned
        if workspace is None:
            workspace = torch.empty(size_of_it, dtype=torch.uint8, device=query.device)
        handle = _handle(query.device)
        _cudnn().set_stream(handle=handle, stream=torch.cuda.current_stream(query.device).cuda_stream)
        plan.execute(dict(zip(names, tensors, strict=True)), workspace, handle=handle)
    return found


def turns(batch: int, tokens: int, heads: int, processors: int, room: int) -> int:
    """Into how many equal groups to split the heads, so that cuDNN's workspace stays within ``room`` bytes.

    The workspace is two bytes per query and key. Among the possible numbers, the one that leaves the fewest
    multiprocessors (``processors``) idle: each handles 64 keys of one head at a time.
    """
    workspace = 2 * batch * heads * tokens**2
    possible = [n for n in range(1, heads + 1) if heads % n == 0 and workspace <= n * room] or [heads]
    rounds = {n: n * math.ceil(batch * heads // n * math.ceil(tokens / _KEYS) / processors) for n in possible}
    return min(possible, key=lambda n: (rounds[n], n))


@functools.cache
def _plan(device: torch.device, dtype: torch.dtype, layout: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]):
    """(cuDNN graph of the backward pass, its tensors in the order of ``layout``, bytes of workspace).

    None if cuDNN does not support it.
    """
    try:
        return _planned(device, dtype, layout)
    except Exception as error:
        log.warning("cuDNN has no deterministic attention for %s, %s: using PyTorch's (%s)", dtype, layout[1][0], error)
        return None


def _planned(device: torch.device, dtype: torch.dtype, layout: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]):
    cudnn = _cudnn()
    kinds = {torch.bfloat16: cudnn.data_type.BFLOAT16, torch.float16: cudnn.data_type.HALF}
    io, wide = kinds[dtype], cudnn.data_type.FLOAT
    graph = cudnn.pygraph(handle=_handle(device), io_data_type=io, intermediate_data_type=wide, compute_data_type=wide)
    given, results = layout[:6], layout[6:]
    gradient, query, key, value, out, sums = (
        graph.tensor(dim=list(shape), stride=list(stride), data_type=wide if place == 5 else io)
        for place, (shape, stride) in enumerate(given)
    )
    found = graph.sdpa_backward(
        q=query, k=key, v=value, o=out, dO=gradient, stats=sums,
        attn_scale=1 / math.sqrt(given[1][0][-1]), use_causal_mask=False, use_deterministic_algorithm=True,
    )  # fmt: skip
    for name, (shape, stride) in zip(found, results, strict=True):
        name.set_output(True).set_dim(list(shape)).set_stride(list(stride)).set_data_type(io)
    # The first plan of the heuristics: nothing is timed, so the choice is reproducible.
    graph.build([cudnn.heur_mode.A])
    return graph, (gradient, query, key, value, out, sums, *found), graph.get_workspace_size()


@functools.cache
def _handle(device: torch.device) -> Any:
    with torch.cuda.device(device):
        return _cudnn().create_handle()


# Before the interpreter exits: cuDNN's interface complains about objects that are left.
atexit.register(lambda: (_plan.cache_clear(), _handle.cache_clear()))


@functools.cache
def _cudnn() -> Any:
    import cudnn

    return cudnn
