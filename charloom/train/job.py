"""The definition of a training run, and what follows from it alone: the engine, the device and the dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charloom.core.store import Store
from charloom.engine.engine import Engine
from charloom.engine.inputs import Inputs
from charloom.engine.options import EngineOptions
from charloom.lora import export
from charloom.lora.attach import Adapter
from charloom.train import step
from charloom.train.keys import CHECKPOINT, checkpoint_key
from charloom.train.ranks import ALONE, Ranks
from charloom.train.settings import TrainSettings
from charloom.zimage.forward import Predict

TYPICAL_CAPTION = 96
"""Caption tokens assumed when memory is planned, before any caption has been seen."""


def build_engine(
    model: nn.Module,
    adapter: Adapter,
    settings: TrainSettings,
    device: torch.device,
    options: EngineOptions,
    reserve: Callable[[], int],
    log: Callable[[str], None],
) -> Engine:
    """An :class:`charloom.engine.engine.Engine` that computes the loss of the settings."""
    passes = 2 if settings.train.differential.enabled or settings.train.blank.enabled else 1
    tokens = (max(settings.data.resolutions) // 16) ** 2 + TYPICAL_CAPTION
    largest = passes * settings.train.batch_size * tokens

    def loss(predict: Predict, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return step.loss_of(predict, adapter, inputs, settings.train)

    return Engine(model, adapter, loss, device, options, reserve=reserve, largest=largest, log=log)


@dataclass(frozen=True)
class TrainJob:
    """What to train, and how the model is run.

    ``load_model(dtype, device)`` returns the prepared base (training adapter merged in). ``provenance`` are JSON values
    for the header of every checkpoint; no times or paths. ``holdout`` is a manifest with held-out images, ``init`` a
    LoRA to start from; it becomes the checkpoint of step 0.
    ``on_checkpoint(step, path, engine, asked)`` is called when a checkpoint and the state behind it are stored, and
    with step 0 and no path before a run's first; once ``asked()`` is true it returns soon. ``ranks`` are the processes
    that share the run; those after the first write their records to a ``log_dir`` that nobody reads.
    """

    settings: TrainSettings
    run_key: str
    manifest: Path
    load_model: Callable[[torch.dtype, torch.device], nn.Module]
    log_dir: Path
    title: str
    trigger: str
    device: str = "auto"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    holdout: Path | None = None
    init: Path | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    make_engine: Callable[..., Engine] = build_engine
    on_checkpoint: Callable[[int, Path | None, Engine, Callable[[], bool]], None] | None = None
    ranks: Ranks = ALONE
    trial: int = 0
    """The step at which ``charloom try`` ends the run, for displays of progress; 0 if it does not."""

    def stored(self, store: Store, step: int) -> bool:
        """Whether the checkpoint of a step is in the store."""
        return store.has(CHECKPOINT, checkpoint_key(self.run_key, step), ".safetensors")


def resolve(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """The device (``auto``: CUDA where there is one) and the dtype of the frozen base (``auto``: fp32 on the CPU)."""
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if dtype == "auto":
        dtype = "bf16" if chosen.type == "cuda" else "fp32"
    return chosen, export.DTYPES[dtype]
