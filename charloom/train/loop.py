"""The training loop, to be read from top to bottom.

Update N depends only on the state and on the samples that :mod:`charloom.train.data` plans for N, so a run can be
stopped anywhere and resumed, and every checkpoint has the same bytes. How the model computes is up to the engine.
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
from charloom.core.errors import Stopped, UserError
from charloom.core.store import Store
from charloom.engine import memory
from charloom.engine.engine import Engine
from charloom.engine.inputs import Inputs
from charloom.engine.options import EngineOptions
from charloom.lora import export, movement
from charloom.lora import start as starting
from charloom.lora.attach import Adapter, attach
from charloom.train import holdout, optim, origin, step
from charloom.train import state as states
from charloom.train.data import Draw, TrainingData
from charloom.train.keys import CHECKPOINT, METRICS, checkpoint_key, manifest_digest, recipe_number
from charloom.train.metrics import Metrics, Progress, peak_memory, print_progress
from charloom.train.progress import Writer
from charloom.train.ranks import ALONE, Ranks
from charloom.train.settings import TrainSettings
from charloom.train.stopping import Stop
from charloom.zimage.forward import Predict

TYPICAL_CAPTION = 96
"""Caption tokens assumed when memory is planned, before any caption has been seen."""


class TrainingStopped(UserError):
    """NaN or infinity in a loss or gradient."""


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
    with step 0 and no path before a run's first; once ``asked()`` it returns soon. ``ranks`` are the processes that
    share the run; those after the first write their records to a ``log_dir`` that nobody reads.
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


def train(
    job: TrainJob,
    store: Store,
    until: int,
    on_progress: Callable[[Progress], None] = print_progress,
    log: Callable[[str], None] = print,
) -> None:
    """Train up to update ``until``, storing a checkpoint and a state every ``save.every`` updates and at the end.

    Resumes from the newest intact state of this run in the store. ``log`` takes one line of log.

    Raises:
        TrainingStopped: a loss or gradient that is not finite; the last good checkpoint is named.
        UserError: damaged input files, a state of another run, missing packages.
        Stopped: somebody asked for it (:mod:`charloom.train.stopping`); the next call goes on from there.
    """
    ranks = job.ranks
    if ranks.decided(store.has(CHECKPOINT, checkpoint_key(job.run_key, until), ".safetensors")):
        return
    settings, train_settings = job.settings, job.settings.train
    if line := knobs.odd_rate(train_settings.optimizer, train_settings.lr):
        log(f"warning: {line}")
    device, dtype = resolve(job.device, train_settings.dtype)
    # Rank 0 puts damaged states aside; the others read what it has found.
    earlier = states.newest(store, job.run_key, until) if ranks.first else None
    started_at = ranks.decided(earlier.step if earlier else 0)
    if not ranks.first and started_at:
        earlier = states.newest(store, job.run_key, started_at)
    made = earlier.values.get("engine", {}) if earlier else {}
    options = origin.taken_over(job.engine, made)
    apart = origin.one_by_one(train_settings, made, ranks.count)
    computed = settings.one_by_one() if apart else settings
    data = TrainingData(job.manifest, computed)
    model = job.load_model(dtype, memory.load_device(job.engine, device))
    adapter = attach(model, settings.network, train_settings.seed)
    model.train()
    initial: dict[str, Tensor] = {}
    if job.init:
        started = starting.start(adapter, job.init)
        initial = started.values
        for line in started.notes:
            log(f"start: {line}")
    names, parameters = list(adapter.parameters), list(adapter.parameters.values())
    optimizer = sums = None

    def reserve() -> int:
        expected = optim.state_bytes(train_settings, parameters)
        exchange = 0 if sums else ranks.room(parameters)
        return exchange + max(0, expected - (optim.allocated_bytes(optimizer) if optimizer else 0))

    engine = job.make_engine(model, adapter, computed, device, options, reserve, log)

    def facts() -> dict[str, Any]:
        return origin.facts(engine.facts(), made, apart)

    if changed := origin.differences(made, facts()):
        log(changed)
    optimizer = optim.build(train_settings, adapter.parameters, device)
    sums = ranks.sums(parameters)
    ema = [p.detach().clone() for p in parameters] if train_settings.ema else []

    start, asked = 0, False
    if earlier is not None:
        start = earlier.step
        states.check_shapes(earlier, adapter.parameters)
        _restore(earlier, names, parameters, ema, optimizer)
    whole = settings.checkpoint_steps(max(until, train_settings.steps))
    metrics = Metrics(job.log_dir, job.run_key, start, until, whole, on_progress)
    lines = store.path(METRICS, checkpoint_key(job.run_key, start), ".jsonl") if start else None
    metrics.begin(lines, earlier.values["metrics"] if earlier else None)

    def exported() -> dict[str, Tensor]:
        return dict(zip(names, ema or parameters, strict=True))

    def checkpoint(step: int) -> None:
        with store.put(CHECKPOINT, checkpoint_key(job.run_key, step), ".safetensors") as path:
            export.export(path, exported(), settings.network, settings.save.dtype, _header(job, data, step))

    def evaluate() -> dict[str, float]:
        """Held-out loss of the exported weights: averaged, rounded, without dropout."""
        assert job.holdout is not None, "asked for only where there are held-out images"
        with adapter.holding(export.as_written(exported(), settings.network, settings.save.dtype)):
            model.eval()
            try:
                return holdout.evaluate(engine.predict, adapter, job.holdout, settings, device)
            finally:
                model.train()

    def movement_at(step: int) -> dict[str, Any]:
        """How far the exported weights have moved from their start; logs a line if they have hardly moved."""
        way = {name: p.detach().cpu() - initial[name] if name in initial else p for name, p in exported().items()}
        share = movement.share(way, step)
        found: dict[str, Any] = {"moved": movement.moved(way), "of_adamw": share}
        if line := movement.complaint(share, step):
            log(f"warning: {line}")
            found["problem"] = line
        return found

    def keep_state(step: int) -> None:
        """Store what going on from a step takes, and nothing else."""
        with store.put(METRICS, checkpoint_key(job.run_key, step), ".jsonl") as path:
            metrics.copy_to(path)
        states.save(store, _state(job.run_key, step, names, parameters, ema, optimizer, metrics, facts()))

    def save(step: int) -> None:
        values: dict[str, Any] = {"adapter": movement_at(step)}
        if job.holdout is not None:
            values["holdout"] = evaluate()
        metrics.write(step, values)
        keep_state(step)
        # Last: the checkpoint marks the step as complete.
        checkpoint(step)
        progress.checkpoint(step)
        draw(step, store.path(CHECKPOINT, checkpoint_key(job.run_key, step), ".safetensors"))

    def draw(step: int, path: Path | None) -> None:
        if job.on_checkpoint:
            progress.drawing()
            job.on_checkpoint(step, path, engine, stop.asked)
            progress.drawn(job.log_dir / "newest")

    def together(saving: Callable[[int], None], step: int) -> None:
        # One that ended before the first has saved would take it along.
        if ranks.first:
            saving(step)
        ranks.check(parameters)

    def record(seen: _Launched | None) -> None:
        nonlocal asked
        if seen is None:
            return
        *values, norm, others = seen.numbers.wait()
        asked = asked or bool(others)
        _guard(seen.step, values, norm, seen.draws, job, store)
        sigmas, items = [d.sigma for d in seen.draws], [d.name for d in seen.draws]
        metrics.step(seen.step, values, sigmas, items, seen.lr, norm)
        progress.step(seen.step, sum(values) / len(values), metrics.smoothed.value(), peak_memory())

    stop = Stop(job.log_dir)
    newest = max((s for s in whole if store.has(CHECKPOINT, checkpoint_key(job.run_key, s), ".safetensors")), default=0)
    progress = Writer(job.log_dir, first=start, steps=whole[-1], saved=newest)
    checkpoints = set(settings.checkpoint_steps(until))
    try:
        if ranks.first:
            newest_key = checkpoint_key(job.run_key, start)
            if start in (*whole, until) and not store.has(CHECKPOINT, newest_key, ".safetensors"):
                checkpoint(start)  # killed between saving the state and the checkpoint
            if not start:
                if job.init:
                    checkpoint(0)
                draw(0, None)
        ranks.check(parameters)
        engine.zero_grad()
        last: _Launched | None = None
        steps = range(start + 1, until + 1)
        for number, share in data.stream(steps, ahead=device.type == "cuda", part=(ranks.rank, ranks.count)):
            losses, others = [], None
            for place, batch in share.batches:
                # Only dropout in PEFT's layers uses torch's generator.
                torch.manual_seed(randomness.torch_seed(train_settings.seed, "torch", number, place))
                if batch:
                    losses.append(engine.accumulate(step.inputs_of(batch, data, device)))
                if sums:
                    sums.add(losses[-1] if batch else None, share.filled(place))
                    engine.zero_grad()
            item_losses = torch.cat(losses)
            if sums:
                item_losses, others = sums.finish(len(share.draws), stop.asked())
            norm = clip(parameters, train_settings.max_grad_norm)
            lr = optim.learning_rate(train_settings, number)
            # Read a step's losses one step late so that the GPU never waits for the CPU.
            others = torch.zeros_like(item_losses[:1]) if others is None else others
            now = _Launched(number, share.draws, lr, Numbers(torch.cat([item_losses, norm.view(1), others])))
            record(last)
            last = now
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            engine.zero_grad()
            if ema and train_settings.ema:
                torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1.0 - train_settings.ema)

            if number in checkpoints:
                record(last)
                last = None
                together(save, number)
            # Several stop together, one step after the first was asked.
            if number < whole[-1] and (asked or (stop.asked() and not sums)):
                record(last)
                last = None
                if number not in checkpoints:
                    together(keep_state, number)
                raise Stopped(f"after step {number} of {whole[-1]}; all is saved: run snakemake again to go on")
    except BaseException as error:
        progress.ended(error)
        raise
    else:
        progress.finished()
    finally:
        stop.close()
        metrics.close()


def resolve(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """The device (``auto``: CUDA where there is one) and the dtype of the frozen base (``auto``: fp32 on the CPU)."""
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if dtype == "auto":
        dtype = "bf16" if chosen.type == "cuda" else "fp32"
    return chosen, export.DTYPES[dtype]


def clip(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clip gradients to the global norm ``max_norm`` (0: no clipping); returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf, foreach=True)


class Numbers:
    """A few numbers on their way to main memory, copied asynchronously."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)
        self._arrived = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    def wait(self) -> list[float]:
        """Wait for the copy and return the numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()


@dataclass(frozen=True)
class _Launched:
    """A step that has been launched, whose losses and gradient norm have not been read yet."""

    step: int
    draws: list[Draw]
    lr: float
    numbers: Numbers


def _guard(step: int, values: list[float], norm: float, draws: list[Draw], job: TrainJob, store: Store) -> None:
    """Stop if a loss or the gradient is not finite, before anything affected by it is stored."""
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
        "recipe": recipe_number(job.settings.network.dropout, job.settings.train.draws_per_step),
        "dataset_digest": manifest_digest({"items": data.items, "variants": data.variants}),
        "run_key": job.run_key,
        "settings": job.settings.slice(),
        "step": step,
        "sigma_histogram": data.sigma_histogram(step),
    }
    return export.metadata(job.settings.network, title=job.title, trigger=job.trigger, step=step, provenance=provenance)
