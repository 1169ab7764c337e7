"""How much GPU memory there is, and how it is best spent. Arithmetic on measured numbers; knows no model."""

from __future__ import annotations

import math

import torch

from charloom.engine.options import EngineOptions

GIB = 2**30
MARGIN = 0.25 * GIB
"""Left free beside what PyTorch allocates: cuBLAS and cuDNN workspaces."""
UNSEEN = 64 * 2**20
"""What a training step takes at most beyond what a trial of it shows (50 MiB on an H100): clipping, the optimiser."""
FRAGMENTATION = 0.92
"""Share of the free memory that allocations may fill when nobody set a budget; the allocator's gaps take the rest."""
BESIDE = 1.25
"""How far what is reserved may exceed a budget that somebody set, which is about what is allocated."""
ACTIVATION_BYTES = 40
"""What a block keeps, per token and channel; from an H100, used only before anything can be measured."""
WORKING_BYTES = 70
"""What a step takes at its worst while all blocks recompute, beside what they hand on; likewise. More than the 60
measured, so that seldom too few blocks live in main memory and everything begins again."""


def budget(limit: float | None, device: torch.device) -> int:
    """Bytes that may be allocated on ``device``: ``limit`` GiB, but never more than this process can get."""
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    available = free + ours
    if hasattr(torch.cuda, "get_per_process_memory_fraction"):
        available = min(available, int(torch.cuda.get_per_process_memory_fraction(device.index) * total))
    reachable = int(FRAGMENTATION * available - MARGIN)
    return reachable if limit is None else min(reachable, int(limit * GIB))


def crowded(limit: float | None, device: torch.device, activations: int) -> bool:
    """Whether trying out a shape beside what is reserved already might take much more than the budget.

    Recordings keep the memory that they need reserved, and a trial has memory of its own until it is over; it takes
    about ``activations`` bytes if nothing holds it back.
    """
    allowed = budget(limit, device)
    trial = min(activations, max(0, allowed - torch.cuda.memory_allocated(device)))
    most = allowed if limit is None else int(BESIDE * allowed)
    return torch.cuda.memory_reserved(device) + trial > most


def blocks_to_keep(limit: int, peak: int, kept: int, boundary: int, blocks: int) -> int:
    """How many blocks can keep their activations.

    Args:
        limit: bytes that may be allocated.
        peak: measured peak when every block recomputes.
        kept: bytes that one block keeps for its backward pass.
        boundary: bytes of a block's input, kept in any case.
        blocks: number of blocks.
    """
    extra = max(kept - boundary, 1)
    return max(0, min(blocks, (limit - peak) // extra))


def blocks_to_swap(limit: int, peak: int, block: int, slots: int, blocks: int) -> int:
    """How many blocks of ``block`` bytes must live in main memory, so that a peak of ``peak`` gets below ``limit``.

    Some of what is freed is taken again by the buffers that the swapped blocks share.
    """
    if peak <= limit:
        return 0
    return min(blocks, math.ceil((peak - limit) / max(block, 1)) + slots)


ROOM_TO_LOAD = 8 * GIB
"""Below this a float8 Z-Image is loaded into main memory, so that blocks that stay there never are on the GPU."""


def home(options: EngineOptions, device: torch.device) -> torch.device:
    """Where a model is to be loaded before the engine places it."""
    if device.type == "cuda" and (options.layer_offloading or budget(options.limit, device) < ROOM_TO_LOAD):
        return torch.device("cpu")
    return device
