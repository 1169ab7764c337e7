"""Block swap: frozen weights of some blocks stay in main memory and are copied to the GPU when needed.

Each swapped block has one pinned buffer; all of them share a few buffers of the same size on the GPU. While one block
computes, the next swapped block is copied on a separate stream. A forward pass visits the blocks in ascending order, a
backward pass (which recomputes every swapped block) in descending order; the direction tells what comes next.
Independent of budgets and training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from charloom.engine import host
from charloom.engine.fuse import Fused, modulation_views
from charloom.engine.host import aligned

SLOTS = 2
"""GPU buffers shared by the swapped blocks."""


def frozen_tensors(block: nn.Module) -> list[Tensor]:
    """Everything in a block that training does not change: base weights, their scales, norms.

    Of weights that share memory, only the owner is listed; views into tensors outside the block are left out.
    """
    views = {id(t) for part in block.modules() if isinstance(part, Fused) for t in part.shared_tensors()}
    views |= {id(t) for t in modulation_views(block)}
    parameters = [p for p in block.parameters() if not p.requires_grad and id(p) not in views]
    return parameters + [b for b in block.buffers() if b is not None and id(b) not in views]


def link_views(block: nn.Module) -> None:
    """Recreate the views of fused weights after these have moved."""
    for part in block.modules():
        if isinstance(part, Fused):
            part.link()


def move(block: nn.Module, device: torch.device) -> None:
    """Move a block to ``device`` and keep views as views."""
    block.to(device)
    link_views(block)


def places(block: nn.Module) -> list[tuple[Tensor, slice]]:
    """A block's frozen tensors with their aligned byte ranges in one buffer."""
    found, start = [], 0
    for tensor in frozen_tensors(block):
        stop = start + tensor.numel() * tensor.element_size()
        found.append((tensor, slice(start, stop)))
        start = aligned(stop)
    return found


def size_of(block: nn.Module) -> int:
    """Bytes of the buffer that a block's frozen tensors need."""
    found = places(block)
    return aligned(found[-1][1].stop) if found else 0


def spread(total: int, count: int) -> list[int]:
    """``count`` of ``total`` indices, evenly spaced, so that copies and computation overlap everywhere."""
    return sorted({(2 * i + 1) * total // (2 * count) for i in range(count)}) if count else []


class Swap:
    """Keeps the frozen weights of ``blocks`` in pinned main memory. The blocks must have the same layout."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, slots: int = SLOTS) -> None:
        self.blocks = list(blocks)
        self.device = device
        self.cuda = device.type == "cuda"
        size = max(map(size_of, self.blocks))
        self.slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(min(slots, len(self.blocks)))]
        room = host.room(size * len(self.blocks))
        self.host = list(room.split(size))
        # Where the driver refuses, copies are slower, and cannot be recorded.
        self._unpin = host.pin(room, self) if self.cuda else None
        self.stream = torch.cuda.Stream(device) if self.cuda else None
        self.ready: list[Any] = [None] * len(self.slots)
        self.holds: list[int | None] = [None] * len(self.slots)
        self.last = -1
        self._inner: list[Callable[..., Any]] = []
        for index, block in enumerate(self.blocks):
            self._move_out(index)
            self._inner.append(block.forward)
            block.forward = self._wrapped(index)

    def _move_out(self, index: int) -> None:
        slot = self.slots[index % len(self.slots)]
        for tensor, place in places(self.blocks[index]):
            self.host[index][place].copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))
            tensor.data = slot[place].view(tensor.dtype).view(tensor.shape)
        link_views(self.blocks[index])

    def _wrapped(self, index: int) -> Callable[..., Any]:
        def forward(*args: Any) -> Any:
            upwards = index > self.last
            self.last = index
            self._need(index)
            if not upwards and args[0].requires_grad:
                # A backward pass: this block's weights are needed until the gradient of its input is computed. Hook
                # before the forward: checkpointing stops recomputing as soon as it has what it saved.
                args[0].register_hook(lambda grad: self._fetch(index - len(self.slots)))
            out = self._inner[index](*args)
            if upwards:
                self._fetch(index + len(self.slots))
            return out

        return forward

    def _need(self, index: int) -> None:
        """Let following computations on the current stream see the block's weights."""
        slot = index % len(self.slots)
        if self.holds[slot] != index:
            self._fetch(index)
        if self.ready[slot] is not None:
            torch.cuda.current_stream(self.device).wait_event(self.ready[slot])
            self.ready[slot] = None

    def _fetch(self, index: int) -> None:
        """Start copying a block's weights, after everything launched so far."""
        if not 0 <= index < len(self.blocks):
            return
        slot = index % len(self.slots)
        if self.holds[slot] == index:
            return
        self.holds[slot] = index
        with torch.no_grad():
            if not self.cuda:
                self.slots[slot].copy_(self.host[index])
                return
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                self.slots[slot].copy_(self.host[index], non_blocking=True)
                self.ready[slot] = self.stream.record_event()

    def forget(self) -> None:
        """Assume nothing about the contents of the GPU buffers: a recorded step must load all it needs."""
        self.holds = [None] * len(self.slots)
        self.ready = [None] * len(self.slots)
        self.last = -1

    def join(self) -> None:
        """Make the current stream wait for outstanding copies."""
        if self.cuda and any(event is not None for event in self.ready):
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            self.ready = [None] * len(self.slots)

    @torch.no_grad()
    def remove(self) -> None:
        """Restore the blocks' own forward and put their weights into ordinary main memory."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
        for index, block in enumerate(self.blocks):
            block.forward = self._inner[index]
            for tensor, place in places(block):
                tensor.data = self.host[index][place].clone().view(tensor.dtype).view(tensor.shape)
            link_views(block)
        self.host = []
        if self._unpin:
            self._unpin()
