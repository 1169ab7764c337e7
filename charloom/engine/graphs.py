"""Recording a computation as a CUDA graph, which costs the CPU a single launch.

The graph reads and writes the same memory every time, so inputs are copied into static tensors first. Independent of
what is computed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor

WARMUPS = 1


class Recorded:
    """``function`` of tensors of fixed shapes, recorded once; call it with tensors of the same shapes.

    ``function`` must not synchronize. The returned tensors are overwritten by the next call: copy what must survive.
    All graphs of one ``pool`` share their memory, so only one at a time may be in use.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], pool: tuple[int, int]
    ) -> None:
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        # Free what the warm-up needed before the graph's own pool allocates as much again.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        device = torch.cuda.current_device()
        before, cause = torch.cuda.current_stream(), None
        # On the stream of the warm-up, for which the libraries already have workspaces. thread_local: the thread that
        # prepares batches may use the GPU meanwhile.
        capture = torch.cuda.graph(
            self.graph, pool=pool, stream=_side_stream(device), capture_error_mode="thread_local"
        )
        try:
            with capture:
                try:
                    self.outputs = function(*self.inputs)
                except BaseException as error:
                    cause = error
                    raise
        except Exception:
            # A failed capture may leave its stream current and its pool open for allocations.
            torch.cuda.set_stream(before)
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(device, pool)
                torch._C._cuda_releasePool(device, pool)
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            raise
        finally:
            cause = None  # its traceback keeps tensors alive

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for static, tensor in zip(self.inputs, inputs, strict=True):
            static.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.outputs


def warm_up(function: Callable[[], object], times: int = WARMUPS) -> None:
    """Run ``function`` on a side stream, as capturing requires; lazy initialization and compilation happen here.

    Always the same stream, because the allocator only reuses freed memory within a stream.
    """
    stream = _side_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(times):
                function()
    finally:
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()


@functools.cache
def _side_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def shape_key(tensors: tuple[Tensor, ...]) -> tuple[tuple[int, ...], ...]:
    """The key of a recorded graph: the shapes of its inputs."""
    return tuple(tuple(tensor.shape) for tensor in tensors)
