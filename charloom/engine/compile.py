"""Compiling the transformer's blocks, and the choice of the attention kernel.

All main blocks share one function compiled for dynamic shapes, so a new resolution costs no compilation. Independent of
training and sampling.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch._inductor.runtime import triton_heuristics
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.nn.attention import SDPBackend, sdpa_kernel

from charloom.core.store import job_store
from charloom.zimage.forward import TOKEN_MULTIPLE

RECOMPILE_LIMIT = 64
"""Variants of a block: with and without gradients, adapter on and off, refiner or main block."""

NOISE = 0.02
"""Standard deviation added to the adapter when compiled blocks are compared with uncompiled ones."""

TRACED = (
    "charloom.engine.compile",
    "charloom.engine.fuse",
    "charloom.engine.previews",
    "charloom.kernels.attention",
    "charloom.kernels.linears",
    "charloom.kernels.products",
    "charloom.kernels.rotary",
    "charloom.lora.attach",
    "charloom.zimage.forward",
)
"""Modules with code that is compiled into the blocks, or with operators that compiled blocks call."""

OPERATORS = (
    *("attend", "attend_gradient", "rotate", "rotate_gradient", "frozen_linear", "frozen_linear_gradient"),
    *("float8_linear", "float8_product"),
)
"""Our own, by their names in ``torch.ops.charloom``."""

_MIXED = ("mix_order_reduction", "mix_order_reduction_non_strict_mode")
_BEFORE, _COMPILED = "_forward_before_compiling", "_compiled_forward"
_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_TIMED = "_charloom_timed"
"""Attribute in which torch's autotuner keeps its own method while :func:`_ranks` replaces it."""
_by_rule = False
"""What :func:`choose_by_rule` was last called with."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """All transformer blocks of a Z-Image model in the order in which they run."""
    return [*model.noise_refiner, *model.context_refiner, *model.layers]


def compile_blocks(model: nn.Module, prefer_cudnn: bool = True, **how: Any) -> None:
    """Replace the forward of the blocks by its compiled version; :func:`plain_blocks` undoes it.

    Not that of the context refiner: it only sees a caption, and would take as long to compile as the others.

    ``prefer_cudnn`` as for :func:`attention`; ``how`` goes to ``torch.compile``.
    """
    _choose_cache(cache_folder(prefer_cudnn))
    _introduce_operators()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 4 * RECOMPILE_LIMIT
    )
    # Strengths and epsilons are constants. As variables they would live on the CPU, for which torch probes the C++
    # compiler and the instruction set: half a minute.
    torch._dynamo.config.specialize_float = True
    # Each step casts dozens of small adapter matrices: in a few kernels instead of one each.
    inductor.combo_kernels = True
    if hasattr(inductor, "combo_kernels_pointwise_only"):
        inductor.combo_kernels_pointwise_only = True
    # Sizes that happen to be equal (32 groups of 32 tokens) are independent.
    torch.fx.experimental._config.use_duck_shape = False
    for block in (*model.noise_refiner, *model.layers):
        if _BEFORE not in block.__dict__:
            block.__dict__[_BEFORE] = block.__dict__.get("forward")
            compiled = torch.compile(_of_groups, **{"dynamic": True, **how})
            block.forward = functools.partial(_in_groups, compiled, type(block).forward, block)
            block.__dict__[_COMPILED] = block.forward


def start_workers() -> None:
    """Start the processes in which torch compiles kernels; they take seconds to import what they need.

    Otherwise torch starts them when it first compiles something, and compiles in this process until they are there.
    """
    with contextlib.suppress(Exception):  # private to torch, and only saves time
        from torch._inductor.async_compile import AsyncCompile

        AsyncCompile.warm_pool()
        AsyncCompile.use_process_pool()


def _introduce_operators() -> None:
    """Tell Inductor of our operators before it compiles any.

    It learns that their inputs must be in memory when it first meets one, halfway through a block. The first block that
    a process compiled was therefore fused differently from all later ones, with other last bits, and a preview depended
    on whether the process had trained before.
    """
    from charloom.kernels import attention, products, rotary  # noqa: F401 (they register the operators)

    with contextlib.suppress(ImportError, AttributeError):  # private to torch
        from torch._inductor import lowering

        for name in OPERATORS:
            lowering.add_needs_realized_inputs(getattr(torch.ops.charloom, name).default)


def mixed_order_reductions(on: bool) -> None:
    """Turn Inductor's mixed-order reductions on or off (token sums fused into per-token channel sums).

    The gradient of a block's modulation is a sum over tokens, and a kernel of its own takes as long as the others.
    torch 2.11 miscompiles it if the sum leaves the block without further arithmetic: the result is left uninitialized.
    :class:`charloom.engine.fuse.Modulations` takes care of that.
    """
    for name in _MIXED:
        if hasattr(inductor.triton, name):
            setattr(inductor.triton, name, on)


def choose_by_rule(on: bool) -> None:
    """Let the compiler choose tile sizes by rules, instead of by timings that may differ from run to run.

    Not by ``inductor.deterministic``: torch switches it off after each function that it compiles, so that kernels
    depended on what was compiled before them.
    """
    global _by_rule
    # torch considers these harmless. But the number of elements per thread can decide which products and sums are
    # contracted to one instruction, and with that the last bit.
    inductor.triton.autotune_pointwise = not on
    # Whether a product of odd width is padded is timed too, and padding changes the fusion, forward and backward.
    inductor.shape_padding = not on
    autotuner = triton_heuristics.CachingAutotuner
    if on and not hasattr(autotuner, _TIMED):
        setattr(autotuner, _TIMED, autotuner.benchmark_all_configs)
        autotuner.benchmark_all_configs = _ranks
    _by_rule = on


def _ranks(autotuner: Any, *arguments: Any, **named: Any) -> dict[Any, float]:
    """In place of timings: what torch would try first wins."""
    if _by_rule:
        return {launcher: float(rank) for rank, launcher in enumerate(autotuner.launchers)}
    return getattr(autotuner, _TIMED)(*arguments, **named)


@contextlib.contextmanager
def by_rule() -> Iterator[None]:
    """Inside the block, compile so that the result does not depend on timings or on what this process did before."""
    of_triton = ["autotune_pointwise", *(name for name in _MIXED if hasattr(inductor.triton, name))]
    ruled, padding = _by_rule, inductor.shape_padding
    before_triton = {name: getattr(inductor.triton, name) for name in of_triton}
    choose_by_rule(True)
    mixed_order_reductions(False)
    try:
        yield
    finally:
        choose_by_rule(ruled)
        inductor.shape_padding = padding
        for name, value in before_triton.items():
            setattr(inductor.triton, name, value)


def likeness(block: nn.Module, hidden: Tensor, *others: Any) -> float:
    """The lowest cosine between results of ``block`` compiled and uncompiled.

    Results are its output and the gradients of ``hidden``, of those of ``others`` that require one, and of its
    adapters. Miscompiled gradients are silent otherwise. Noise is added to the adapters for the comparison, because
    half of their matrices start at zero.
    """
    parameters = [p for p in block.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in parameters]
    generator = torch.Generator(hidden.device).manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)

    hidden = hidden.detach().requires_grad_()
    pairs = [like_input(o) if isinstance(o, Tensor) and o.requires_grad else (None, o) for o in others]
    leaves = [hidden, *(leaf for leaf, _ in pairs if leaf is not None), *parameters]
    others = [other for _, other in pairs]
    given, found = noise(hidden), []
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(noise(parameter), alpha=NOISE)
        for forward in (functools.partial(type(block).forward, block), block.__dict__[_COMPILED]):
            out = forward(hidden, *others)
            gradients = torch.autograd.grad(out, leaves, given, allow_unused=True)
            found.append([out.detach(), *(g for g in gradients if g is not None)])
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    pairs = [(a.flatten().float(), b.flatten().float()) for a, b in zip(*found, strict=True)]
    return torch.stack([torch.cosine_similarity(a, b, dim=0) for a, b in pairs]).min().item()


def like_input(x: Tensor) -> tuple[Tensor, Tensor]:
    """A new leaf and a tensor made from it that is a view exactly when ``x`` is; Dynamo specializes on that."""
    if not x._is_view():
        leaf = x.detach().requires_grad_()
        return leaf, leaf
    leaf = torch.stack((x, x), 1).detach().requires_grad_()
    return leaf, leaf.unbind(1)[0]


def _in_groups(compiled: Callable[..., Tensor], forward: Callable, block: nn.Module, x: Tensor, *others: Any) -> Tensor:
    x = x.unflatten(1, (-1, TOKEN_MULTIPLE))
    # Dynamo also guards on a view's base; without .data, identical blocks would be compiled twice.
    return compiled(forward, block, x if x.requires_grad else x.data, *others)


def _of_groups(forward: Callable, block: nn.Module, x: Tensor, *others: Any) -> Tensor:
    """``forward`` on tokens in groups (B, T / 32, 32, D), so that the compiler knows T to be a multiple of 32."""
    # expand() pins the group size; otherwise 32 becomes dynamic too.
    return forward(block, x.expand(-1, -1, TOKEN_MULTIPLE, -1).flatten(1, 2), *others)


def plain_blocks(model: nn.Module) -> None:
    """Undo :func:`compile_blocks`."""
    for block in blocks_of(model):
        if _BEFORE not in block.__dict__:
            continue
        before = block.__dict__.pop(_BEFORE)
        block.__dict__.pop(_COMPILED, None)
        if before is None:
            del block.forward
        else:
            block.forward = before


def is_compiled(model: nn.Module) -> bool:
    """Whether the blocks of ``model`` are compiled."""
    return any(_BEFORE in block.__dict__ for block in blocks_of(model))


def cache_folder(prefer_cudnn: bool) -> Path:
    """Where compiled kernels are cached across runs: beside the store, and safe to delete.

    One folder per choice of attention and per version of the code that is compiled (:data:`TRACED`): torch's own cache
    key covers neither the former nor the gradients of our custom operators.
    """
    code = hashlib.sha256()
    for module in TRACED:
        code.update(Path(importlib.util.find_spec(module).origin).read_bytes())
    name = f"{code.hexdigest()[:12]}-{'cudnn' if prefer_cudnn else 'torch'}"
    return job_store().root.resolve().parent / "compiled" / name


def _choose_cache(folder: Path) -> None:
    """Let torch cache its kernels in ``folder``, unless the user chose another."""
    # torch sets the variable itself when its compiler is imported, and we may have set it to a sibling of ``folder``.
    given = os.environ.get(_CACHE_VARIABLE, default_cache_dir())
    if given == default_cache_dir() or Path(given).parent == folder.parent:
        os.environ[_CACHE_VARIABLE] = str(folder)


@contextlib.contextmanager
def attention(prefer_cudnn: bool) -> Iterator[None]:
    """Inside the block, try cuDNN's attention first and the others where it does not apply."""
    if not prefer_cudnn or not torch.cuda.is_available():
        yield
        return
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield
