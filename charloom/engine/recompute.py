"""Activation checkpointing: a block either keeps what its backward pass needs, or recomputes it.

:mod:`charloom.engine.fitting` decides how many do which.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from charloom.engine.offload import Offload, SavedTensors
from charloom.kernels import attention


class Recompute:
    """Wraps the forward of ``blocks``; :meth:`keep` sets how many of the last ones keep their activations.

    The last ones, because their backward pass comes first and frees memory for the others.
    """

    def __init__(self, blocks: Sequence[nn.Module], random: bool = False) -> None:
        """``random``: the blocks draw random numbers (dropout), which recomputation must repeat."""
        self.blocks = list(blocks)
        self.random = random
        self.kept = self.results = 0
        self.offload: Offload | None = None
        """Main memory for what blocks recompute from; None leaves it on the GPU."""
        self._inner: list[Callable[..., Any]] = [block.forward for block in self.blocks]
        for index, block in enumerate(self.blocks):
            block.forward = self._wrapped(index)

    def _wrapped(self, index: int) -> Callable[..., Any]:
        inner = self._inner[index]

        def forward(hidden: Tensor, *others: Any) -> Any:
            if torch.is_grad_enabled() and not hidden.requires_grad:
                # The first block's input has no gradient. Computing an unused one is cheaper than compiling the block a
                # second time for an input without one.
                hidden = hidden.detach().requires_grad_()
            if not torch.is_grad_enabled():
                return inner(hidden, *others)
            if index >= len(self.blocks) - self.kept:
                if self.offload:
                    self.offload.end_block()
                return inner(hidden, *others)
            saved = self.offload.begin_block() if self.offload else None
            computed, args = inner, (hidden, *others)
            if index >= len(self.blocks) - self.kept - self.results:
                computed = functools.partial(_keeping_attention, inner, _KeptIn(saved) if saved else attention.Kept())
            if saved:
                computed, args = functools.partial(_from_saved, computed, saved, [hidden]), others
            return checkpoint(
                computed, *args, use_reentrant=False, preserve_rng_state=self.random, determinism_check="none"
            )

        return forward

    def keep(self, count: int) -> None:
        """Let the last ``count`` blocks keep their activations and the others recompute them."""
        self.kept = max(0, min(count, len(self.blocks)))

    def keep_results(self, count: int) -> None:
        """Let the last ``count`` of the recomputing blocks keep the output of their attention."""
        self.results = max(0, min(count, len(self.blocks)))

    def inner(self, index: int) -> Callable[..., Any]:
        """The forward of a block without checkpointing."""
        return self._inner[index]

    def remove(self) -> None:
        """Restore the blocks' own forward."""
        for block, inner in zip(self.blocks, self._inner, strict=True):
            block.forward = inner


class _KeptIn(attention.Kept):
    """The output of a block's attention is among its saved tensors."""

    def __init__(self, saved: SavedTensors) -> None:
        self._saved, self._holds = saved, 0

    def __bool__(self) -> bool:
        return self._holds > 0

    def put(self, *results: Tensor) -> None:
        for result in results:
            self._saved.save(result)
        self._holds = len(results)

    def take(self) -> tuple[Tensor, ...]:
        count, self._holds = self._holds, 0
        return tuple(self._saved.load() for _ in range(count))


def _from_saved(inner: Callable[..., Any], saved: SavedTensors, given: list[Tensor], *others: Any) -> Any:
    """``inner``, the first time on ``given``, which is saved, the second time on what is loaded."""
    if given:
        hidden = given.pop()
        saved.save(hidden)
    else:
        hidden = saved.load().requires_grad_()
    return inner(hidden, *others)


def _keeping_attention(inner: Callable[..., Any], results: attention.Kept, *args: Any) -> Any:
    with attention.keeping(results):
        return inner(*args)
