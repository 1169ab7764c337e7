"""Records of a run: progress lines, metrics.jsonl, TensorBoard scalars.

Smoothed values are part of the training state, so a resumed run continues the same curves. Nothing here
influences the training.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import torch

from charloom.core import numbers
from charloom.train import timesteps

SMOOTHING = 0.98
"""Decay of the exponential moving averages: about the last 50 samples."""

EVERY_SECONDS = (1.0, 10.0)
"""Seconds between two progress lines: at the start, and at most."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """A progress line. ``last`` is the last step of the run, ``saved`` the step of the next checkpoint.

    ``rate`` in steps per second, ``memory`` (peak) in bytes.
    """

    step: int
    saved: int
    last: int
    loss: float
    smoothed: float
    rate: float
    memory: int

    def __str__(self) -> str:
        speed = f"{self.rate:.2f} it/s" if self.rate >= 1 else f"{1 / max(self.rate, 1e-9):.2f} s/it"
        return (
            f"step {self.step}/{self.last}  loss {self.loss:.4f} (smoothed {self.smoothed:.4f})  {speed}  "
            f"ETA {self._time_to(self.last)}, checkpoint {self.saved} in {self._time_to(self.saved)}  "
            f"peak memory {self.memory / 2**30:.2f} GiB"
        )

    def _time_to(self, step: int) -> str:
        return numbers.clock((step - self.step) / max(self.rate, 1e-9))


@dataclass
class Smoothed:
    """Exponential moving averages of the loss, overall and per band of sigma, with bias correction."""

    sums: list[float] = field(default_factory=lambda: [0.0] * (timesteps.BANDS + 1))
    weights: list[float] = field(default_factory=lambda: [0.0] * (timesteps.BANDS + 1))

    def add(self, loss: float, sigma: float) -> None:
        """Add the loss of one sample."""
        for index in (timesteps.band(sigma), timesteps.BANDS):
            self.sums[index] = SMOOTHING * self.sums[index] + (1 - SMOOTHING) * loss
            self.weights[index] = SMOOTHING * self.weights[index] + (1 - SMOOTHING)

    def value(self, index: int = timesteps.BANDS) -> float:
        """Smoothed loss of a band (default: of all samples); NaN before the first sample."""
        return self.sums[index] / self.weights[index] if self.weights[index] else math.nan

    def bands(self) -> dict[str, float]:
        """Smoothed loss by band, e.g. ``{"0.00-0.25": 0.31}``; bands without samples are left out."""
        n = timesteps.BANDS
        return {f"{i / n:.2f}-{(i + 1) / n:.2f}": self.value(i) for i in range(n) if self.weights[i]}


def print_progress(progress: Progress) -> None:
    """Print progress to standard error; the default."""
    print(progress, file=sys.stderr, flush=True)


class Metrics:
    """Writes the records of a run below ``folder``: ``metrics.jsonl`` and ``tensorboard/<run>/``.

    ``checkpoints`` are all those of the run, ``until`` is the one where this call ends.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        start: int,
        until: int,
        checkpoints: Sequence[int],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.smoothed = Smoothed()
        self._start, self._until, self._checkpoints, self._on_progress = start, until, checkpoints, on_progress
        self._began = self._reported = time.monotonic()
        self._file: IO[str] | None = None
        self._board = _board(Path(folder) / "tensorboard" / run[:12], start)

    def begin(self, earlier: Path | None, values: dict[str, Any] | None) -> None:
        """Start the record, or continue that of the state the run resumes from, dropping later lines."""
        if earlier is not None and earlier.is_file():
            shutil.copyfile(earlier, self.path)
            self.path.chmod(0o644)
        elif self.path.exists():
            self.path.unlink()
        if values is not None:
            self.smoothed = Smoothed(list(values["sums"]), list(values["weights"]))
        self._file = open(self.path, "a")
        self._began = self._reported = time.monotonic()

    def step(
        self, step: int, losses: Sequence[float], sigmas: Sequence[float], names: Sequence[str], lr: float, norm: float
    ) -> None:
        """Record one update: the unweighted loss of every sample, the learning rate and the gradient norm."""
        for loss, sigma in zip(losses, sigmas, strict=True):
            self.smoothed.add(loss, sigma)
        loss = sum(losses) / len(losses)
        now = time.monotonic()
        rate = (step - self._start) / max(now - self._began, 1e-9)
        memory = peak_memory()
        self.write(
            step,
            {
                "loss": loss,
                "smoothed": self.smoothed.value(),
                "bands": self.smoothed.bands(),
                "lr": lr,
                "grad_norm": norm,
            }
            | {"rate": rate, "gpu_memory" if on_gpu() else "memory": memory}
            | {"sigma": list(sigmas), "items": list(names)},
        )
        if now - self._reported >= pause(now - self._began) or step == self._until:
            self._reported = now
            self._flush()
            saved = next(number for number in self._checkpoints if number >= step)
            last = self._checkpoints[-1]
            self._on_progress(Progress(step, saved, last, loss, self.smoothed.value(), rate, memory))

    def write(self, step: int, record: dict[str, Any]) -> None:
        """Append a record; its numbers, including those one level down, become TensorBoard scalars."""
        assert self._file is not None, "begin() opens the file"
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        if self._board is not None:
            for name, value in record.items():
                for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if isinstance(number, int | float):
                        self._board.add_scalar(f"{name}/{part}" if part else name, number, step)

    def values(self) -> dict[str, Any]:
        """The part that belongs in the training state."""
        return {"sums": list(self.smoothed.sums), "weights": list(self.smoothed.weights)}

    def copy_to(self, path: Path) -> None:
        """Copy all records so far."""
        self._flush()
        shutil.copyfile(self.path, path)

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Flush and close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def pause(elapsed: float) -> float:
    """Seconds until the next progress line: short at first, longer in long runs."""
    shortest, longest = EVERY_SECONDS
    return min(longest, max(shortest, elapsed / 20))


def on_gpu() -> bool:
    """Whether this process uses a GPU."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def peak_memory() -> int:
    """Peak memory in bytes: of the GPU allocator if in use, else of this process."""
    if on_gpu():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _board(folder: Path, start: int) -> Any:
    # TensorBoard's own way to be told that there is no TensorFlow, which it would import: seconds at each start, and an
    # error where it does not fit numpy.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=start + 1)
    except ImportError:
        log.warning("TensorBoard is not installed: only metrics.jsonl is written (pip install tensorboard)")
    except Exception as error:
        log.warning("TensorBoard does not work here: only metrics.jsonl is written (%s)", error)
    return None
