"""What the steps of a run report: read one step late, checked, and written to metrics and progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.train.data import Draw
from charloom.train.job import TrainJob
from charloom.train.keys import METRICS, checkpoint_key
from charloom.train.metrics import Metrics, Progress, peak_memory
from charloom.train.progress import Writer
from charloom.train.stopping import Stop


class TrainingStopped(UserError):
    """NaN or infinity in a loss or gradient."""


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
class Launched:
    """A step that has been launched and whose numbers have not been read yet.

    ``numbers`` are the plain loss of every sample, the norm of the gradient, and how many ranks were asked to stop.
    """

    step: int
    draws: list[Draw]
    lr: float
    numbers: Numbers


class Records:
    """The records of one call of the trainer, and requests to stop it.

    A context manager around the steps: on exit it records how they ended, and restores the signal handlers.

    Args:
        job: what is trained.
        store: where its checkpoints are.
        start: step from which this call continues.
        until: step with which it ends.
        whole: all checkpoints of the run.
        on_progress: takes progress now and then.
        smoothed: what :meth:`charloom.train.metrics.Metrics.values` gave for the state that the run resumes from.
    """

    def __init__(
        self,
        job: TrainJob,
        store: Store,
        start: int,
        until: int,
        whole: Sequence[int],
        on_progress: Callable[[Progress], None],
        smoothed: dict[str, Any] | None,
    ) -> None:
        self._job, self._store = job, store
        self._pending: Launched | None = None
        self.ranks_asked = False
        """Whether one of several ranks was asked to stop, as far as steps have been read."""
        self.metrics = Metrics(job.log_dir, job.run_key, start, until, whole, on_progress)
        lines = store.path(METRICS, checkpoint_key(job.run_key, start), ".jsonl") if start else None
        self.metrics.begin(lines, smoothed)
        self.stop = Stop(job.log_dir)
        newest = max((step for step in whole if job.stored(store, step)), default=0)
        self.progress = Writer(job.log_dir, first=start, steps=whole[-1], saved=newest, trial=job.trial)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.progress.finished()
            else:
                self.progress.ended(error)
        finally:
            self.stop.close()
            self.metrics.close()

    def launched(self, step: Launched) -> None:
        """Take a step that the GPU still computes, and read the one before it: the GPU never waits for the CPU."""
        self.read()
        self._pending = step

    def read(self) -> None:
        """Read and record the step that was launched last.

        Raises:
            TrainingStopped: a loss or its gradient is not finite.
        """
        if self._pending is None:
            return
        seen, self._pending = self._pending, None
        *losses, norm, others = seen.numbers.wait()
        self.ranks_asked = self.ranks_asked or bool(others)
        self._check(seen, losses, norm)
        sigmas, items = [draw.sigma for draw in seen.draws], [draw.name for draw in seen.draws]
        self.metrics.step(seen.step, losses, sigmas, items, seen.lr, norm)
        self.progress.step(seen.step, sum(losses) / len(losses), self.metrics.smoothed.value(), peak_memory())

    def _check(self, seen: Launched, losses: list[float], norm: float) -> None:
        """Stop if a loss or the gradient is not finite, before anything affected by it is stored."""
        if math.isfinite(norm) and all(math.isfinite(loss) for loss in losses):
            return
        bad = [draw for draw, loss in zip(seen.draws, losses, strict=True) if not math.isfinite(loss)]
        what = "loss" if bad else "gradient"
        where = "; ".join(f"sigma {draw.sigma:.4f}, item {draw.name}" for draw in bad or seen.draws)
        steps = self._job.settings.checkpoint_steps()
        good = [step for step in steps if step < seen.step and self._job.stored(self._store, step)]
        last = f"the last good checkpoint is step {good[-1]}" if good else "there is no checkpoint yet"
        raise TrainingStopped(
            f"step {seen.step}: the {what} is not a finite number ({where}); {last}; nothing later was kept: "
            "lower train.lr or look at that image and its caption"
        )
