"""Compiling the transformer's blocks, and the choice of the attention kernel.

All main blocks share one compiled function, and it is compiled for shapes that vary, so a new resolution costs
no compilation. Must not know of training or sampling.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.nn.attention import SDPBackend, sdpa_kernel

from charloom.engine import fuse
from charloom.kernels import attention as attentions
from charloom.kernels import quantize, rotary
from charloom.zimage import forward
from charloom.zimage.forward import TOKEN_MULTIPLE

RECOMPILE_LIMIT = 64
"""Variants of a block's code: with and without gradients, adapter on and off, refiners and main blocks."""

NOISE = 0.02
"""Of the adapters' matrices when compiled blocks are compared with uncompiled ones."""

_BEFORE, _COMPILED = "_forward_before_compiling", "_compiled_forward"
_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """All transformer blocks of a Z-Image model in the order in which they run."""
    return [*model.noise_refiner, *model.context_refiner, *model.layers]


def compile_blocks(model: nn.Module, prefer_cudnn: bool = True, **how: Any) -> None:
    """Replace the forward of the blocks by its compiled version; :func:`plain_blocks` takes it back.

    Not that of the context refiner: it sees a caption and no image, and would cost as much to compile as the others.

    ``prefer_cudnn`` as for :func:`attention`; ``how`` goes to ``torch.compile``.
    """
    _choose_cache(cache_folder(prefer_cudnn))
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    torch._dynamo.config.accumulated_recompile_limit = max(
        torch._dynamo.config.accumulated_recompile_limit, 4 * RECOMPILE_LIMIT
    )
    # A strength or an epsilon is a constant. As a variable it would be a number in main memory, for which torch looks
    # for a C++ compiler and what the CPU can do, at half a minute.
    torch._dynamo.config.specialize_float = True
    # Each step casts dozens of small matrices of the adapters: in a few kernels instead of one for each.
    inductor.combo_kernels = True
    if hasattr(inductor, "combo_kernels_pointwise_only"):
        inductor.combo_kernels_pointwise_only = True
    # Sizes that happen to be equal (32 groups of 32 tokens) are not the same size.
    torch.fx.experimental._config.use_duck_shape = False
    for block in (*model.noise_refiner, *model.layers):
        if _BEFORE not in block.__dict__:
            block.__dict__[_BEFORE] = block.__dict__.get("forward")
            compiled = torch.compile(_of_groups, **{"dynamic": True, **how})
            block.forward = functools.partial(_in_groups, compiled, type(block).forward, block)
            block.__dict__[_COMPILED] = block.forward


def sums_along(on: bool) -> None:
    """Let sums over all tokens be taken along by passes that sum up each token's channels, or see that they are not.

    The gradient of a block's modulation is such a sum, and a pass of its own takes as long as the others. torch 2.11 is
    right about it only if something is computed with the sum before it leaves the block: as a part of what is handed
    out it would be left undefined. :class:`charloom.engine.fuse.Modulations` takes care of that.
    """
    if hasattr(inductor.triton, "mix_order_reduction"):
        inductor.triton.mix_order_reduction = on
    if hasattr(inductor.triton, "mix_order_reduction_non_strict_mode"):
        inductor.triton.mix_order_reduction_non_strict_mode = on


def chosen_by_rule(on: bool) -> None:
    """Let the compiler cut up its kernels by rule, or by the clock, which may choose otherwise another time."""
    if hasattr(inductor, "deterministic"):
        inductor.deterministic = on
    # torch takes these for harmless. But how many elements a thread computes may decide which products and sums become
    # one instruction, and with that the last bit.
    inductor.triton.autotune_pointwise = not on


def likeness(block: nn.Module, hidden: Tensor, *others: Any) -> float:
    """The lowest cosine between what the compiled ``block`` gives and what it gives uncompiled: its output, and the
    gradients of its input, of what others have one, and of its adapters.

    A compiler that is wrong about a gradient does not say so. Adapters are compared with noise added to them, for at
    first half of their matrices are zero.
    """
    parameters = [p for p in block.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in parameters]
    generator = torch.Generator(hidden.device).manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)

    hidden = hidden.detach().requires_grad_()
    pairs = [apart(o) if isinstance(o, Tensor) and o.requires_grad else (None, o) for o in others]
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


def apart(x: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf, and ``x`` made of it: a view if ``x`` is one, which to a compiler is another kind of input."""
    if not x._is_view():
        leaf = x.detach().requires_grad_()
        return leaf, leaf
    leaf = torch.stack((x, x), 1).detach().requires_grad_()
    return leaf, leaf.unbind(1)[0]


def _in_groups(compiled: Callable[..., Tensor], forward: Callable, block: nn.Module, x: Tensor, *others: Any) -> Tensor:
    x = x.unflatten(1, (-1, TOKEN_MULTIPLE))
    # What a view is a view of counts as well; two blocks that differ in that alone would be compiled twice.
    return compiled(forward, block, x if x.requires_grad else x.data, *others)


def _of_groups(forward: Callable, block: nn.Module, x: Tensor, *others: Any) -> Tensor:
    """``forward`` of tokens in groups (B, T / 32, 32, D): a compiler then knows that T is a multiple of 32."""
    # Expanded to what it is: as long as nobody says so, 32 is a variable as well.
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
    """Whether :func:`compile_blocks` is in force."""
    return any(_BEFORE in block.__dict__ for block in blocks_of(model))


def cache_folder(prefer_cudnn: bool) -> Path:
    """Where compiled kernels are kept from run to run: beside the store, which may always be deleted.

    One folder for each choice of attention and each state of the code that is compiled: torch's own key of an entry
    knows neither the one nor how operators of ours are differentiated.
    """
    code = hashlib.sha256()
    for module in (attentions, fuse, quantize, rotary, forward):
        code.update(Path(module.__file__).read_bytes())
    name = f"{code.hexdigest()[:12]}-{'cudnn' if prefer_cudnn else 'torch'}"
    return Path(os.environ.get("CHARLOOM_STORE", "work/store")).resolve().parent / "compiled" / name


def _choose_cache(folder: Path) -> None:
    """Let torch keep its kernels in ``folder``, unless the user has named another."""
    # torch sets the variable itself, when its compiler is imported; and it may name a sister of ``folder``.
    given = os.environ.get(_CACHE_VARIABLE, default_cache_dir())
    if given == default_cache_dir() or Path(given).parent == folder.parent:
        os.environ[_CACHE_VARIABLE] = str(folder)


@contextlib.contextmanager
def attention(prefer_cudnn: bool) -> Iterator[None]:
    """Inside the block cuDNN's attention comes first, and the others follow where it does not apply."""
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
