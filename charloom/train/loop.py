"""The training loop, to be read from top to bottom.

Update N uses the samples that :mod:`charloom.train.data` plans for N and nothing else that isn't in the
state, so runs may be stopped anywhere and continued: the bytes of every checkpoint stay the same. It
knows nothing of how the model computes: that is the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charloom.config import knobs
from charloom.core import randomness
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.engine import memory
from charloom.engine.engine import Engine
from charloom.engine.inputs import Inputs, Predict
from charloom.engine.options import EngineOptions
from charloom.lora import export, movement
from charloom.lora.attach import Adapter, attach
from charloom.train import holdout, optim, origin, step
from charloom.train import state as states
from charloom.train.data import Draw, TrainingData
from charloom.train.keys import CHECKPOINT, METRICS, RECIPE, checkpoint_key, manifest_digest
from charloom.train.metrics import Metrics, Progress, print_progress
from charloom.train.settings import TrainSettings

TYPICAL_CAPTION = 96
"""Caption tokens that memory is planned for before any caption was seen."""


class TrainingStopped(UserError):
    """The numbers broke: NaN or infinity in a loss or gradient."""


def build_engine(
    model: nn.Module,
    adapter: Adapter,
    settings: TrainSettings,
    device: torch.device,
    options: EngineOptions,
    reserve: Callable[[], int],
    tell: Callable[[str], None],
) -> Engine:
    """The engine that runs the model: :class:`charloom.engine.engine.Engine` on the loss of the settings."""
    passes = 2 if settings.train.differential.enabled or settings.train.blank.enabled else 1
    tokens = (max(settings.data.resolutions) // 16) ** 2 + TYPICAL_CAPTION
    largest = passes * settings.train.batch_size * tokens

    def loss(predict: Predict, inputs: Inputs) -> tuple[Tensor, Tensor]:
        return step.loss_of(predict, adapter, inputs, settings.train)

    return Engine(model, adapter, loss, device, options, reserve=reserve, largest=largest, tell=tell)


@dataclass(frozen=True)
class TrainJob:
    """What to train, and with what the model is run.

    ``load_model(dtype, device)`` gives the prepared base (training adapter merged in). ``provenance`` are plain
    values for the header of every checkpoint; times and paths don't belong there. ``holdout`` is a manifest of
    images that are never trained on.
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
    engine: EngineOptions = field(default_factory=EngineOptions)
    make_engine: Callable[..., Engine] = build_engine


def train(
    job: TrainJob,
    store: Store,
    until: int,
    on_progress: Callable[[Progress], None] = print_progress,
    tell: Callable[[str], None] = print,
) -> None:
    """Train up to update ``until``, storing a checkpoint and a state every ``save.every`` updates and at the end.

    Continues from the newest intact state of this run in the store. ``tell`` takes what the engine has to say.

    Raises:
        TrainingStopped: a loss or gradient that is not finite; the last good checkpoint is named.
        UserError: broken input files, a state of another run, missing packages.
    """
    if store.has(CHECKPOINT, checkpoint_key(job.run_key, until), ".safetensors"):
        return
    settings, train_settings = job.settings, job.settings.train
    if line := knobs.odd_rate(train_settings.optimizer, train_settings.lr):
        tell(line)
    device, dtype = resolve(job.device, train_settings.dtype)
    data = TrainingData(job.manifest, settings)
    model = job.load_model(dtype, memory.home(job.engine, device))
    adapter = attach(model, settings.network, train_settings.seed)
    model.train()
    names, parameters = list(adapter.parameters), list(adapter.parameters.values())
    optimizer = None

    def reserve() -> int:
        expected = optim.state_bytes(train_settings, parameters)
        return max(0, expected - (optim.allocated_bytes(optimizer) if optimizer else 0))

    earlier = states.newest(store, job.run_key, until)
    made = earlier.values.get("engine", {}) if earlier else {}
    options = origin.taken_over(job.engine, made)
    engine = job.make_engine(model, adapter, settings, device, options, reserve, tell)
    if changed := origin.differences(made, origin.facts(engine.facts(), made)):
        tell(changed)
    optimizer = optim.build(train_settings, adapter.parameters, device)
    ema = [p.detach().clone() for p in parameters] if train_settings.ema else []

    start = 0
    if earlier is not None:
        start = earlier.step
        states.check_shapes(earlier, adapter.parameters)
        _restore(earlier, names, parameters, ema, optimizer)
    whole = settings.checkpoint_steps(max(until, train_settings.steps))
    metrics = Metrics(job.log_dir, job.run_key, start, until, whole, on_progress)
    record = store.path(METRICS, checkpoint_key(job.run_key, start), ".jsonl") if start else None
    metrics.begin(record, earlier.values["metrics"] if earlier else None)

    def shipped() -> dict[str, Tensor]:
        return dict(zip(names, ema or parameters, strict=True))

    def checkpoint(step: int) -> None:
        with store.put(CHECKPOINT, checkpoint_key(job.run_key, step), ".safetensors") as path:
            export.export(path, shipped(), settings.network, settings.save.dtype, _header(job, data, step))

    def evaluate() -> dict[str, float]:
        """Of the file that is written, not of what is being trained: without dropout, averaged and rounded."""
        assert job.holdout is not None, "asked for only where there are held-out images"
        with adapter.holding(export.as_written(shipped(), settings.network, settings.save.dtype)):
            model.eval()
            try:
                return holdout.evaluate(engine.predict, adapter, job.holdout, settings, device)
            finally:
                model.train()

    def movement_at(step: int) -> dict[str, Any]:
        """How far what is written has moved, and what is to be said of that."""
        share = movement.share(shipped(), step)
        found: dict[str, Any] = {"moved": movement.moved(shipped()), "of_adamw": share}
        if line := movement.complaint(share, step):
            tell(line)
            found["problem"] = line
        return found

    def save(step: int) -> None:
        record: dict[str, Any] = {"adapter": movement_at(step)}
        if job.holdout is not None:
            record["holdout"] = evaluate()
        metrics.write(step, record)
        key = checkpoint_key(job.run_key, step)
        with store.put(METRICS, key, ".jsonl") as path:
            metrics.copy_to(path)
        facts = origin.facts(engine.facts(), made)
        state = _state(job.run_key, step, names, parameters, ema, optimizer, metrics, facts)
        states.save(store, state)
        # Last, because its presence means that the step is complete.
        checkpoint(step)

    def look(seen: _Seen | None) -> None:
        if seen is None:
            return
        *values, norm = seen.numbers.wait()
        _guard(seen.step, values, norm, seen.draws, job, store)
        sigmas, items = [d.sigma for d in seen.draws], [d.name for d in seen.draws]
        metrics.step(seen.step, values, sigmas, items, seen.lr, norm)

    checkpoints = set(settings.checkpoint_steps(until))
    try:
        if start and not store.has(CHECKPOINT, checkpoint_key(job.run_key, start), ".safetensors"):
            checkpoint(start)  # killed between the two
        engine.zero_grad()
        last: _Seen | None = None
        for number, batches in data.stream(range(start + 1, until + 1), ahead=device.type == "cuda"):
            # Only dropout inside PEFT's layers draws from torch's generator.
            torch.manual_seed(randomness.torch_seed(train_settings.seed, "torch", number))
            draws, item_losses = [], []
            for batch in batches:
                item_losses.append(engine.accumulate(step.inputs_of(batch, data, device)))
                draws += batch.draws
            norm = clip(parameters, train_settings.max_grad_norm)
            lr = optim.learning_rate(train_settings, number)
            # The numbers of a step are looked at when the next one is under way, so that the GPU never waits for it.
            now = _Seen(number, draws, lr, Numbers(torch.cat([*item_losses, norm.view(1)])))
            look(last)
            last = now
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            engine.zero_grad()
            if ema and train_settings.ema:
                torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1.0 - train_settings.ema)

            if number in checkpoints:
                look(last)
                last = None
                save(number)
    finally:
        metrics.close()


def resolve(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """The device (``auto``: CUDA where there is one) and the dtype of the frozen base (``auto``: fp32 on the CPU)."""
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if dtype == "auto":
        dtype = "bf16" if chosen.type == "cuda" else "fp32"
    return chosen, export.DTYPES[dtype]


def clip(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Global gradient norm before clipping to ``max_norm`` (0: no clipping)."""
    return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf, foreach=True)


class Numbers:
    """A few numbers on their way to main memory, while the GPU goes on."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)
        self._arrived = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    def wait(self) -> list[float]:
        """The numbers, as soon as they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()


@dataclass(frozen=True)
class _Seen:
    """A step that has been launched: its losses and its gradient norm are still to be looked at."""

    step: int
    draws: list[Draw]
    lr: float
    numbers: Numbers


def _guard(step: int, values: list[float], norm: float, draws: list[Draw], job: TrainJob, store: Store) -> None:
    """Stop when a loss or the gradient is not finite, before anything is stored that it has reached."""
    if math.isfinite(norm) and all(math.isfinite(value) for value in values):
        return
    bad = [draw for draw, value in zip(draws, values, strict=True) if not math.isfinite(value)]
    what = "loss" if bad else "gradient"
    where = "; ".join(f"sigma {draw.sigma:.4f}, item {draw.name}" for draw in bad or draws)
    good = [
        s
        for s in job.settings.checkpoint_steps()
        if s < step and store.has(CHECKPOINT, checkpoint_key(job.run_key, s), ".safetensors")
    ]
    last = f"the last good checkpoint is step {good[-1]}" if good else "there is no checkpoint yet"
    raise TrainingStopped(
        f"step {step}: the {what} is not a finite number ({where}); {last}; nothing later was kept: "
        "lower train.lr or look at that image and its caption"
    )


def _state(
    run_key: str,
    step: int,
    names: list[str],
    parameters: list[nn.Parameter],
    ema: list[Tensor],
    optimizer: torch.optim.Optimizer,
    metrics: Metrics,
    facts: dict[str, Any],
) -> states.State:
    tensors = {f"adapter|{name}": p.detach().cpu().clone() for name, p in zip(names, parameters, strict=True)}
    tensors |= {f"ema|{name}": p.cpu().clone() for name, p in zip(names, ema, strict=False)}
    entries, values = optim.state_tensors(optimizer, names)
    tensors |= {f"optimizer|{name}": tensor for name, tensor in entries.items()}
    values = {"optimizer": values, "metrics": metrics.values(), "engine": facts}
    return states.State(run_key, step, tensors, values)


@torch.no_grad()
def _restore(
    earlier: states.State,
    names: list[str],
    parameters: list[nn.Parameter],
    ema: list[Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    for index, name in enumerate(names):
        parameters[index].copy_(earlier.tensors[f"adapter|{name}"])
        if ema:
            ema[index].copy_(earlier.tensors[f"ema|{name}"])
    entries = {k.removeprefix("optimizer|"): v for k, v in earlier.tensors.items() if k.startswith("optimizer|")}
    optim.restore(optimizer, names, entries, earlier.values["optimizer"])


def _header(job: TrainJob, data: TrainingData, step: int) -> dict[str, str]:
    provenance = {
        **job.provenance,
        "recipe": RECIPE,
        "dataset_digest": manifest_digest({"items": data.items, "variants": data.variants}),
        "run_key": job.run_key,
        "settings": job.settings.slice(),
        "step": step,
        "sigma_histogram": data.sigma_histogram(step),
    }
    return export.metadata(job.settings.network, title=job.title, trigger=job.trigger, step=step, provenance=provenance)
