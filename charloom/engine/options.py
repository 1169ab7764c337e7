"""Options of the GPU engine, as the recipe sets them. Plain values only; must not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

LOW_VRAM = 9.0
"""Upper limit in GiB with ``low_vram``."""


@dataclass(frozen=True)
class EngineOptions:
    """How a model is run; none of it changes results by more than rounding.

    Attributes:
        memory: GPU memory in GiB that may be allocated, or ``auto`` for what is free.
        low_vram: allow at most 9 GiB.
        layer_offloading: keep at least half of the blocks in main memory.
        compile: compile the blocks with torch.compile.
        graphs: record steps as CUDA graphs.
        fp8_units: multiply float8 weights on the GPU's fp8 units where it has them.
        cudnn_attention: prefer cuDNN's attention to other kernels.
        fuse: fuse small operations: queries, keys and values, the two gates of the feed-forward part, norm and
            rotation, the modulations of all blocks.
        offload: keep what blocks recompute from in main memory.
        deterministic: accumulate in a fixed order everywhere, so that the same run gives the same bytes.
    """

    memory: float | str = "auto"
    low_vram: bool = False
    layer_offloading: bool = False
    compile: bool = True
    graphs: bool = True
    fp8_units: bool = True
    cudnn_attention: bool = True
    fuse: bool = True
    offload: bool = True
    deterministic: bool = False

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> EngineOptions:
        """Options from the JSON that the rules pass; missing keys take their default."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown engine options: {', '.join(unknown)}")
        return cls(**values)

    @property
    def limit(self) -> float | None:
        """Upper limit in GiB; None for what is free."""
        given = None if self.memory == "auto" else float(self.memory)
        if not self.low_vram:
            return given
        return LOW_VRAM if given is None else min(given, LOW_VRAM)
