"""The training loop, to be read from top to bottom.

Update N uses the samples that :mod:`charloom.train.data` plans for N and nothing else that isn't in the
state, so runs may be stopped anywhere and continued: the bytes of every checkpoint stay the same. It
knows nothing of how the model computes: ``predict`` is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charloom.errors import UserError
from charloom.lora import export
from charloom.lora.attach import Adapter, attach
from charloom.store import Store
from charloom.train import holdout, losses, optim, randomness
from charloom.train import state as states
from charloom.train.data import Batch, Draw, TrainingData
from charloom.train.metrics import Metrics, Progress, print_progress
from charloom.train.settings import RECIPE, Preservation, TrainSettings, checkpoint_key, manifest_digest
from charloom.zimage import flow, forward

CHECKPOINT, METRICS = "checkpoint", "metrics"

Predict = Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor]
"""``predict(x, t, caps, cap_lens)``: raw output of the adapted model, as :func:`charloom.zimage.forward.forward`."""


class TrainingStopped(UserError):
    """The numbers broke: NaN or infinity in a loss or gradient."""


def eager_predict(model: nn.Module, adapter: Adapter) -> Predict:
    """The plain forward. Another engine may compile or capture it, as long as it honours ``adapter.disabled()``."""
    forward.prepare(model)
    return lambda x, t, caps, cap_lens: forward.forward(model, x, t, caps, cap_lens)


@dataclass(frozen=True)
class TrainJob:
    """What to train.

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
    make_predict: Callable[[nn.Module, Adapter], Predict] = eager_predict


def train(job: TrainJob, store: Store, until: int, on_progress: Callable[[Progress], None] = print_progress) -> None:
    """Train up to update ``until``, storing a checkpoint and a state every ``save.every`` updates and at the end.

    Continues from the newest intact state of this run in the store.

    Raises:
        TrainingStopped: a loss or gradient that is not finite; the last good checkpoint is named.
        UserError: broken input files, a state of another run, missing packages.
    """
    if store.has(CHECKPOINT, checkpoint_key(job.run_key, until), ".safetensors"):
        return
    settings, train_settings = job.settings, job.settings.train
    device, dtype = resolve(job.device, train_settings.dtype)
    data = TrainingData(job.manifest, settings)
    model = job.load_model(dtype, device)
    adapter = attach(model, settings.network, train_settings.seed)
    model.train()
    predict = job.make_predict(model, adapter)
    names, parameters = list(adapter.parameters), list(adapter.parameters.values())
    optimizer = optim.build(train_settings, adapter.parameters, device)
    ema = [p.detach().clone() for p in parameters] if train_settings.ema else []

    start = 0
    earlier = states.newest(store, job.run_key, until)
    if earlier is not None:
        start = earlier.step
        states.check_shapes(earlier, adapter.parameters)
        _restore(earlier, names, parameters, ema, optimizer)
    metrics = Metrics(job.log_dir, job.run_key, start, until, on_progress)
    record = store.path(METRICS, checkpoint_key(job.run_key, start), ".jsonl") if start else None
    metrics.begin(record, earlier.values["metrics"] if earlier else None)

    def save(step: int) -> None:
        weights = dict(zip(names, ema or parameters, strict=True))
        if job.holdout is not None:
            metrics.write(step, {"holdout": holdout.evaluate(predict, adapter, job.holdout, settings, device)})
        key = checkpoint_key(job.run_key, step)
        with store.put(METRICS, key, ".jsonl") as path:
            metrics.copy_to(path)
        states.save(store, _state(job.run_key, step, names, parameters, ema, optimizer, metrics))
        # Last, because its presence means that the step is complete.
        with store.put(CHECKPOINT, key, ".safetensors") as path:
            export.export(path, weights, settings.network, settings.save.dtype, _header(job, data, step))

    checkpoints = set(settings.checkpoint_steps(until))
    try:
        for step, batches in data.stream(range(start + 1, until + 1), ahead=device.type == "cuda"):
            # Only dropout inside PEFT's layers draws from torch's generator.
            torch.manual_seed(randomness.torch_seed(train_settings.seed, "torch", step))
            draws, item_losses = [], []
            for batch in batches:
                loss, per_item = batch_loss(batch, data, predict, adapter, device)
                loss.backward()
                draws += batch.draws
                item_losses.append(per_item)
            norm = clip(parameters, train_settings.max_grad_norm)
            *values, norm = torch.cat([*item_losses, norm.view(1)]).tolist()
            _guard(step, values, norm, draws, job, store)

            lr = optim.learning_rate(train_settings, step)
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema:
                torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1.0 - train_settings.ema)

            metrics.step(step, values, [d.sigma for d in draws], [d.name for d in draws], lr, norm)
            if step in checkpoints:
                save(step)
        if start == until:  # the state outlived its checkpoint
            save(until)
    finally:
        metrics.close()


def resolve(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """The device (``auto``: CUDA where there is one) and the dtype of the frozen base (``auto``: fp32 on the CPU)."""
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if dtype == "auto":
        dtype = "bf16" if chosen.type == "cuda" else "fp32"
    return chosen, export.DTYPES[dtype]


def batch_loss(
    batch: Batch, data: TrainingData, predict: Predict, adapter: Adapter, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The batch's share of the step's loss, to call ``backward`` on, and the plain loss of each sample (B,).

    Prediction v = -output against noise - x0, fp32; each sample counts by its weight over the samples of a step.
    """
    settings = data.settings.train
    x0, noise, sigma = batch.latents.to(device), batch.noise.to(device), batch.sigma.to(device)
    noisy, t = flow.noisy(x0, noise, sigma), 1.0 - sigma
    caps, lengths = forward.pad_captions(batch.captions, device)
    per_item = losses.per_item(-predict(noisy, t, caps, lengths), flow.target(x0, noise), settings.loss)
    total = per_item * batch.weight.to(device)
    for term, captions in _preservations(batch, data):
        rows = list(captions)
        for group in _by_padded_length(rows, captions):
            caps, lengths = forward.pad_captions([captions[row] for row in group], device)
            inputs = noisy[group], t[group], caps, lengths
            with torch.no_grad(), adapter.disabled():
                bare = predict(*inputs)
            distance = losses.preservation(predict(*inputs), bare) * term.multiplier
            total = total.index_add(0, torch.tensor(group, device=device), distance)
    return total.sum() / settings.draws_per_step, per_item.detach()


def _preservations(batch: Batch, data: TrainingData) -> Iterator[tuple[Preservation, dict[int, Tensor]]]:
    """(settings, captions by row) of the preservation term that is on; regularisation images need none."""
    settings = data.settings.train
    rows = {row: draw for row, draw in enumerate(batch.draws) if not draw.is_reg}
    if settings.differential.enabled:
        yield settings.differential, {row: data.class_caption(draw.item) for row, draw in rows.items()}
    if settings.blank.enabled:
        yield settings.blank, dict.fromkeys(rows, data.variant("empty"))


def _by_padded_length(rows: list[int], captions: Mapping[int, Tensor]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(forward.padded_length(len(captions[row])), []).append(row)
    return list(groups.values())


def clip(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Global gradient norm before clipping to ``max_norm`` (0: no clipping)."""
    return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf, foreach=True)


def _guard(step: int, values: list[float], norm: float, draws: list[Draw], job: TrainJob, store: Store) -> None:
    """Stop at once when a loss or the gradient is not finite, before it reaches the weights."""
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
) -> states.State:
    tensors = {f"adapter|{name}": p.detach().cpu().clone() for name, p in zip(names, parameters, strict=True)}
    tensors |= {f"ema|{name}": p.cpu().clone() for name, p in zip(names, ema, strict=False)}
    entries, values = optim.state_tensors(optimizer, names)
    tensors |= {f"optimizer|{name}": tensor for name, tensor in entries.items()}
    return states.State(run_key, step, tensors, {"optimizer": values, "metrics": metrics.values()})


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
