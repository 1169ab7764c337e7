"""Activation offloading: what a block recomputes from waits in main memory from the forward to the backward pass.

That is its input and, where it is kept, the output of its attention: little compared to the time in which the block
computes, so that the copies, on a stream of their own, cost hardly any time. The backward pass needs the blocks in
descending order; while one computes, the tensors of the one before it are fetched. Independent of budgets, blocks and
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from charloom.engine import host

SHARE = 1 / 3
"""Share of the spare main memory that activations may take."""
SLACK = 2**20
"""Bytes beyond the activations themselves, because they are aligned."""
SMALL = 2**20
"""Tensors of fewer bytes stay on the GPU: each copy costs time of its own."""


def spare(others: int) -> int:
    """Bytes of main memory that activations may take; ``others`` are left to the weights for previews, if they fit."""
    free = host.available()
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return int(SHARE * (free - others if free > others else free)) // ranks


class Offload:
    """Saved tensors of one step, in ``size`` bytes of main memory; what does not fit there stays on ``device``.

    Tensors of fewer than ``small`` bytes stay as well. :meth:`close` gives the memory back.
    """

    def __init__(self, device: torch.device, size: int, small: int = SMALL) -> None:
        self.device, self.small = device, small
        self.buffer = host.room(size)
        cuda = device.type == "cuda"
        self._unpin = host.pin(self.buffer, self) if cuda else None
        self.usable = not cuda or self._unpin is not None
        """Whether the GPU can copy on its own."""
        self.stream = torch.cuda.Stream(device) if cuda else None
        self.forget()

    def close(self) -> None:
        """Free the main memory now: garbage collection might do it while a graph is being recorded."""
        self.forget()
        self.usable, self.buffer = False, self.buffer[:0]
        if self._unpin:
            self._unpin()

    def forget(self) -> None:
        """Let go of all saved tensors: a new step begins."""
        self.blocks: list[SavedTensors] = []
        self._sending: SavedTensors | None = None
        self._copies = False
        self.used = 0

    def begin_block(self) -> SavedTensors:
        """The place where the next block saves its tensors; the backward pass needs them before all others."""
        self.end_block()
        self.blocks.append(SavedTensors(self, len(self.blocks)))
        return self.blocks[-1]

    def end_block(self) -> None:
        """A block has computed: send its tensors, and free the GPU memory of those sent before."""
        if self._sending:
            self._sending.wait()
        self._sending = self.blocks[-1] if self.blocks else None
        if self._sending:
            self._sending.send()

    def join(self) -> None:
        """Make the current stream wait for outstanding copies."""
        if self._copies:  # else the stream is not part of what is being recorded
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def place(self, tensor: Tensor) -> Tensor | None:
        """Room for ``tensor`` in main memory; None if it stays on the GPU."""
        start, end = self.used, self.used + tensor.nbytes
        if tensor.nbytes < self.small or end > self.buffer.nbytes:
            return None
        self.used = host.aligned(end)
        return self.buffer[start:end].view(tensor.dtype).view(tensor.shape)

    def copy(self, targets: Sequence[Tensor], sources: Sequence[Tensor]) -> Any:
        """Start to copy, after everything launched so far; returns the event to wait for, if any."""
        if self.stream is None:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
            return None
        self._copies = True
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source, non_blocking=True)
            return self.stream.record_event()


class SavedTensors:
    """The tensors that one block saves for the backward pass, loaded in the order in which they were saved."""

    def __init__(self, offload: Offload, index: int) -> None:
        self._offload, self._index = offload, index
        self._tensors: list[Tensor] = []
        self._away: list[int] = []  # which of them are in main memory
        self._sources: list[Tensor] = []  # being copied: their memory must not be reused
        self._copied: Any = None
        self._sent = False

    def save(self, tensor: Tensor) -> None:
        """Add a tensor, which must not change from now on."""
        self._tensors.append(tensor.detach())

    def load(self) -> Tensor:
        """The next tensor, on the GPU, for computations launched from now on; prefetches those of the block before."""
        self.fetch()
        if self._index:
            self._offload.blocks[self._index - 1].fetch()
        self.wait()
        return self._tensors.pop(0)

    def send(self) -> None:
        """Start to copy to main memory, once."""
        if self._sent:
            return
        self._sent = True
        places = {index: self._offload.place(tensor) for index, tensor in enumerate(self._tensors)}
        self._away = [index for index, place in places.items() if place is not None]
        self._sources = self._swap([places[index] for index in self._away])

    def fetch(self) -> None:
        """Start to copy back."""
        self._swap([torch.empty_like(self._tensors[index], device=self._offload.device) for index in self._away])
        self._away = []

    def wait(self) -> None:
        """Let computations launched from now on see the copies as done."""
        if self._copied is not None:
            torch.cuda.current_stream(self._offload.device).wait_event(self._copied)
        self._copied, self._sources = None, []

    def _swap(self, targets: list[Tensor]) -> list[Tensor]:
        """Copy what is away into ``targets``, which take its place; returns what they replace."""
        sources = [self._tensors[index] for index in self._away]
        if sources:
            self._copied = self._offload.copy(targets, sources)
        for index, target in zip(self._away, targets, strict=True):
            self._tensors[index] = target
        return sources
