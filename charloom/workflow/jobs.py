"""What the scripts of the rules share: arguments, a log that also goes to the terminal, and self-batching.

Self-batching: a job whose result is stored links it from the store in milliseconds. The first job without a stored
result takes a lock, checks again, and makes the results of all its siblings in the same process. Importing this module
does not import torch.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from charloom.core import cores
from charloom.core.store import Store, job_store
from charloom.workflow import arguments, devices

DEVICE, GPUS = "CHARLOOM_DEVICE", "CHARLOOM_GPUS"
"""Environment variables that the workflow sets for jobs: its ``device:`` and ``gpus:``."""
QUIET = "CHARLOOM_JOBS_QUIET"
"""Environment variable: a job with a log file writes only to that. Set by a parent that shows the logs' lines."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Environment variables by which libgomp, torch's OpenMP on Linux, decides how idle threads wait."""
SPINS = "10000"
"""How long idle threads spin before they sleep: as fast as endless spinning if it is quiet, bearable if it is not."""
KEEPING = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which users tell glibc what to do with freed memory."""
JSON = "JSON or @FILE"
BIG = 4e9
"""Size of a base (bytes) above which it would take days on a CPU."""


class Log:
    """Writes lines to the terminal (unless :data:`QUIET`) and, with the seconds since the start, to the job's log file.

    From construction on, everything on standard error (warnings, tracebacks) goes to both.
    """

    def __init__(self, path: str | Path | None, name: str = "", mode: str = "w") -> None:
        self.started = time.monotonic()
        self.name = name
        self.terminal: TextIO = sys.stderr
        if path and os.environ.get(QUIET):
            self.terminal = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
        self.file = None
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, mode, encoding="utf-8", buffering=1)  # noqa: SIM115 (as long as the process)
            sys.stderr = _Both(self.terminal, self.file)

    def __call__(self, text: str) -> None:
        """Write one line to both."""
        with contextlib.suppress(OSError):  # a terminal that was closed
            print(f"  {self.name}: {text}" if self.name else text, file=self.terminal, flush=True)
        self.quietly(text)

    def quietly(self, text: str) -> None:
        """Write one line to the file only."""
        if self.file:
            with contextlib.suppress(OSError):  # a full disk is reported by whoever writes results
                self.file.write(f"{time.monotonic() - self.started:8.1f} s  {text}\n")


class _Both(io.TextIOBase):
    """Standard error, copied to a file."""

    def __init__(self, terminal: TextIO, file: TextIO) -> None:
        self.terminal = terminal
        self.file = file

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self.file.write(text)
        with contextlib.suppress(OSError):
            self.terminal.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.terminal.flush()

    def fileno(self) -> int:
        return self.terminal.fileno()

    def isatty(self) -> bool:
        return False


def parser(description: str | None, *, heavy: bool = False) -> argparse.ArgumentParser:
    """A parser with the arguments of every rule; ``heavy`` adds those of rules that load a model."""
    made = argparse.ArgumentParser(
        description=(description or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--settings", type=arguments.value, required=True, help=f"the rule's slice of the settings, {JSON}"
    )
    made.add_argument("--output", type=Path, help="file to write")
    made.add_argument("--store", type=Store, default=job_store(), help="folder of the store")
    made.add_argument("--log", help="log file; the terminal shows the main lines")
    if heavy:
        device = os.environ.get(DEVICE, "auto")
        made.add_argument("--device", default=device, help="auto, cpu, mps, cuda, cuda:1")
        made.add_argument("--threads", type=int, default=cores.usable(), help="CPU threads")
    return made


def bound_waiting() -> None:
    """Let idle threads spin for a limited time only, then sleep. To be called before anything loads torch.

    Between two parallel regions libgomp's threads spin. On a quiet machine that is fastest; beside other busy processes
    they burn the time that the others wait for, and training crawls. A limit costs nothing on a quiet machine and
    rescues a busy one (``benchmarks/busy_laptop.py``). The user's own setting is kept.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def keep_memory() -> None:
    """Let the C library keep up to a gigabyte of what torch frees, because torch needs it again a moment later.

    glibc returns tensors of many megabytes to the system at once, which then has to clear every page anew: about a
    tenth of the CPU time of training on a CPU. The user's own setting is kept; other C libraries have no such switch.
    """
    if any(name in os.environ for name in KEEPING):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(AttributeError, TypeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        # Older releases take no more than 32 MB.
        _ = mallopt(mmap_threshold, 2**28) or mallopt(mmap_threshold, 2**25)
        mallopt(trim_threshold, 2**30)


def character_of(output: Path, stage: str) -> str:
    """The character that ``output`` belongs to, which may be in a subfolder of ``stage`` (latents/<data set>/…)."""
    return next((folder.parent.name for folder in output.parents if folder.name == stage), "any") or "any"


def serve(store: Store, kind: str, key: str, suffix: str, output: Path, lock: str, make: Callable[[], object]) -> None:
    """Put the stored result at ``output``; if there is none, call ``make`` to store it (usually with its siblings).

    ``make`` runs under the lock ``lock`` (one per character, so that other characters need not wait), and only if the
    result is still missing then. It returns something true if it has written ``output`` itself, because the result is
    not for the store.
    """
    if store.fetch(kind, key, suffix, output):
        return
    with store.lock(lock):
        if store.fetch(kind, key, suffix, output):
            return
        if make():
            return
        if not store.fetch(kind, key, suffix, output):
            raise RuntimeError(f"nothing was stored as {kind} {key}")


def stored(store: Store, kind: str, key: str, suffix: str, lock: str, make: Callable[[], object]) -> Path:
    """The stored result itself, for a job that processes it further; made as in :func:`serve` if there is none."""
    if not store.has(kind, key, suffix):
        with store.lock(lock):
            if not store.has(kind, key, suffix):
                make()
    return store.path(kind, key, suffix)


def torch_device(
    name: str,
    threads: int,
    limit: float | None = None,
    lock: dict[str, Any] | None = None,
    *,
    alone: bool = True,
) -> Any:
    """The torch device called ``name`` (``auto`` is the best available), with the CPU limited to ``threads``.

    A GPU is leased for this process (:mod:`charloom.workflow.devices`), which sees no other from then on; ``alone`` is
    False for a job that needs so little of a GPU that it may run beside another one. ``limit`` caps what
    torch allocates on a GPU, in GiB. ``lock`` is the base's lock file; for a base of many GB ``auto`` never falls back
    to the CPU.

    Raises:
        UserError: there is no such device, or none that could run the base in reasonable time; or a package that the
            character's training will need is missing, which would otherwise be noticed after minutes of encoding.
    """
    if places := _leased(name, alone):
        # Before CUDA starts, which then knows no other GPU.
        os.environ[devices.VISIBLE], name = places[0], "cuda"
    elif name in ("auto", "cpu"):
        bound_waiting()
    import torch

    from charloom.base import locks
    from charloom.config import packages
    from charloom.core.errors import UserError

    torch.set_num_threads(max(1, threads))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        size = locks.size(lock) if lock else 0
        if name == "cpu" and size > BIG:
            raise UserError(
                f"base {lock['name']} ({size / 1e9:.0f} GB) needs a GPU and torch {torch.__version__} finds none: "
                "`charloom doctor` says why; else rent one (docs/cluster.md), or set device: cpu and wait for days"
            )
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {name}: torch finds no CUDA device; `charloom doctor` says why, or set device: cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps: torch finds none of Apple's GPUs; set device: auto")
    if lines := packages.of_job(os.environ.get(packages.VARIABLE, ""), sys.argv, name.startswith("cuda")):
        raise UserError.several(lines)
    device = torch.device(name)
    if device.type == "cpu":
        keep_memory()
    if device.type == "cuda" and device.index:
        torch.cuda.set_device(device)
    if device.type == "cuda" and limit is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit * 2**30 / total), device.index)
    return device


def _leased(name: str, alone: bool) -> list[str]:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return []  # too late; whoever initialised CUDA has chosen a device
    return devices.lease(name) if alone else devices.beside(name)
