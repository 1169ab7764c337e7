"""The training loop, to be read from top to bottom.

Update N depends only on the state and on the samples that :mod:`charloom.train.data` plans for N, so a run can be
stopped anywhere and resumed, and every checkpoint has the same bytes. What is loaded and stored is in
:mod:`charloom.train.run`; how the model computes is up to the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from charloom.config import knobs
from charloom.core import randomness
from charloom.core.errors import Stopped
from charloom.core.store import Store
from charloom.train import optim
from charloom.train.data import Share
from charloom.train.job import TrainJob
from charloom.train.metrics import Progress, print_progress
from charloom.train.records import Launched, Numbers
from charloom.train.run import Run
from charloom.train.step import inputs_of


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
        Stopped: on request (:mod:`charloom.train.stopping`); the next call resumes from there.
    """
    settings, ranks = job.settings.train, job.ranks
    if ranks.decided(job.stored(store, until)):
        return
    for line in (knobs.odd_rate(settings.optimizer, settings.lr), knobs.odd_mean(settings.ema, settings.steps)):
        if line:
            log(f"warning: {line}")
    run = Run(job, store, until, on_progress, log)
    engine, trainable, records = run.engine, run.trainable, run.records

    with records:
        run.together(run.begin, run.start)
        engine.zero_grad()
        steps = range(run.start + 1, until + 1)
        for step, share in run.data.stream(steps, ahead=run.device.type == "cuda", part=(ranks.rank, ranks.count)):
            losses, asked = accumulate(run, step, share)
            norm = clip(trainable.parameters, settings.max_grad_norm)
            lr = optim.learning_rate(settings, step)
            # Read a step's losses one step late so that the GPU never waits for the CPU.
            records.launched(Launched(step, share.draws, lr, Numbers(torch.cat([losses, norm.view(1), asked]))))
            trainable.update(lr)
            engine.zero_grad()
            trainable.average()

            if step in run.checkpoints:
                records.read()
                run.together(run.save, step)
            if step < run.last and stops(run):
                records.read()
                if step not in run.checkpoints:
                    run.together(run.keep_state, step)
                raise Stopped(f"after step {step} of {run.last}; all is saved: run snakemake again to go on")


def accumulate(run: Run, step: int, share: Share) -> tuple[Tensor, Tensor]:
    """Forward and backward passes of an update: leaves the gradient of all its samples in the parameters.

    Returns:
        the plain loss of every sample (N,), and how many ranks were asked to stop (1,); neither has been waited for.
    """
    engine, sums = run.engine, run.trainable.sums
    losses = []
    for place, batch in share.batches:
        # Only dropout in PEFT's layers uses torch's generator.
        torch.manual_seed(randomness.torch_seed(run.settings.train.seed, "torch", step, place))
        if batch:
            losses.append(engine.accumulate(inputs_of(batch, run.data, run.device)))
        if sums:
            sums.add(losses[-1] if batch else None, share.filled(place))
            engine.zero_grad()
    if sums:
        return sums.finish(len(share.draws), run.records.stop.asked())
    all_losses = torch.cat(losses)
    return all_losses, torch.zeros_like(all_losses[:1])


def clip(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Clip gradients to the global norm ``max_norm`` (0: no clipping); returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm or math.inf, foreach=True)


def stops(run: Run) -> bool:
    """Whether a stop was requested; several ranks stop together, one step after the first got the request."""
    return run.records.ranks_asked or (run.records.stop.asked() and not run.trainable.sums)
