"""Main memory for the GPU: how much of it may be used, and pinned buffers that the GPU copies to and from on its own.

Independent of models and of the contents.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from pathlib import Path

import psutil
import torch
from torch import Tensor

ALIGN = 256
"""Bytes that tensors are aligned to."""


def aligned(size: int) -> int:
    """``size`` bytes rounded up to where the next tensor may begin."""
    return -(-size // ALIGN) * ALIGN


def room(size: int) -> Tensor:
    """``size`` bytes (uint8), in large pages where the system has them: pinning visits every page."""
    # Shared memory, Python's default, has small pages on most systems.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    memory = mmap.mmap(-1, max(size, 1), **private)
    # A forked process would share the pages, and a write would move them away from where the GPU copies to.
    for advice in ("MADV_HUGEPAGE", "MADV_DONTFORK"):
        if hasattr(mmap, advice):
            with contextlib.suppress(OSError):  # a kernel without it
                memory.madvise(getattr(mmap, advice))
    return torch.frombuffer(memory, dtype=torch.uint8)[:size]


def pin(buffer: Tensor, owner: object) -> weakref.finalize | None:
    """Pin a buffer from :func:`room` for as long as ``owner`` lives, or until the returned finalizer is called.

    None where the driver does not allow it. Not pin_memory, which rounds up to a power of two.
    """
    address, size = buffer.data_ptr(), buffer.nbytes
    if int(torch.cuda.cudart().cudaHostRegister(address, size, 0)) == 0:
        # Before the memory is freed: the data of its next owner would be copied from the wrong place.
        unpin = weakref.finalize(owner, _unpin, address)
        unpin.atexit = False
        return unpin
    with contextlib.suppress(RuntimeError):  # the refusal would be reported by the next launch
        torch.zeros(1, device="cuda")
    return None


def _unpin(address: int) -> None:
    try:
        torch.cuda.synchronize()
    finally:
        torch.cuda.cudart().cudaHostUnregister(address)


def available(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of main memory that this process may still use, also in a container or a Slurm job."""
    free = psutil.virtual_memory().available
    for group in _groups(root, own):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            used = int((group / "memory.current").read_text())
            # Cached files count as used, although the kernel drops them when the memory is needed.
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used -= int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
            free = min(free, int((group / "memory.max").read_text()) - used)
    return free


def _groups(root: Path, own: Path) -> list[Path]:
    """The control groups (v2) of this process below ``root``, each of which may set a limit."""
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            if line.startswith("0::"):
                group = root / line[3:].strip().lstrip("/")
                return [one for one in (group, *group.parents) if one.is_relative_to(root)]
    return [root]
