"""How much GPU memory may be used, and for what. Arithmetic on measured numbers, independent of the model."""

from __future__ import annotations

import math

import torch

from charloom.engine.options import EngineOptions

GIB = 2**30
MARGIN = 0.25 * GIB
"""Bytes left for allocations outside PyTorch: cuBLAS and cuDNN workspaces."""
UNSEEN = 64 * 2**20
"""Upper bound in bytes that a step needs beyond a trial: clipping, the optimizer (50 MiB measured on an H100)."""
FRAGMENTATION = 0.92
"""Share of the free memory that may be allocated without a user-set budget; the rest is lost to fragmentation."""
BESIDE = 1.25
"""Reserved memory may exceed a user-set budget (which counts allocated memory) by this factor."""
ACTIVATION_BYTES = 40
"""Bytes that a block keeps per token and channel, measured on an H100; used only before anything can be measured."""
WORKING_BYTES = 70
"""Peak bytes of a step per token and channel while all blocks recompute, block outputs excluded; also an estimate. More
than the 60 measured, because too few swapped blocks mean starting over."""


def budget(limit: float | None, device: torch.device) -> int:
    """Bytes that may be allocated on ``device``: ``limit`` GiB, but at most what this process can get."""
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    available = free + ours
    if hasattr(torch.cuda, "get_per_process_memory_fraction"):
        available = min(available, int(torch.cuda.get_per_process_memory_fraction(device.index) * total))
    reachable = int(FRAGMENTATION * available - MARGIN)
    return reachable if limit is None else min(reachable, int(limit * GIB))


def crowded(limit: float | None, device: torch.device, activations: int) -> bool:
    """Whether trying out a shape on top of what is already reserved might far exceed the budget.

    Recorded graphs keep their memory reserved, and a trial needs its own until it is over: about ``activations`` bytes
    if nothing limits it.
    """
    allowed = budget(limit, device)
    trial = min(activations, max(0, allowed - torch.cuda.memory_allocated(device)))
    # A budget may be all that a small card has.
    most = allowed if limit is None else min(int(BESIDE * allowed), budget(None, device))
    return torch.cuda.memory_reserved(device) + trial > most


def blocks_to_keep(limit: int, peak: int, kept: int, boundary: int, blocks: int) -> int:
    """How many blocks can keep their activations.

    Args:
        limit: bytes that may be allocated.
        peak: measured peak when every block recomputes.
        kept: bytes that one block keeps for its backward pass.
        boundary: bytes of a block's output, kept in any case.
        blocks: number of blocks.
    """
    extra = max(kept - boundary, 1)
    return max(0, min(blocks, (limit - peak) // extra))


def blocks_to_swap(limit: int, peak: int, block: int, slots: int, blocks: int) -> int:
    """How many blocks of ``block`` bytes must live in main memory to bring a peak of ``peak`` bytes below ``limit``.

    ``slots`` of them only make up for the GPU buffers that the swapped blocks share.
    """
    if peak <= limit:
        return 0
    return min(blocks, math.ceil((peak - limit) / max(block, 1)) + slots)


ROOM_TO_LOAD = 8 * GIB
"""Below this budget the model is loaded into main memory, so that swapped blocks are never on the GPU."""


def load_device(options: EngineOptions, device: torch.device) -> torch.device:
    """Where to load a model before the engine places it."""
    if device.type == "cuda" and (options.layer_offloading or budget(options.limit, device) < ROOM_TO_LOAD):
        return torch.device("cpu")
    return device
