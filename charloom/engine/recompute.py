"""Activation checkpointing: a block either keeps what its backward pass needs, or recomputes it.

How many blocks do which is decided in :mod:`charloom.engine.fitting`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
            args = (hidden, *others)
            if index >= len(self.blocks) - self.kept:
                return inner(*args)
            computed = inner
            if index >= len(self.blocks) - self.kept - self.results:
                computed = functools.partial(_keeping_attention, inner, [])
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


def _keeping_attention(inner: Callable[..., Any], results: list, *args: Any) -> Any:
    with attention.keeping(results):
        return inner(*args)
