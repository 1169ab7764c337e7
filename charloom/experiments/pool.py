"""Runs many trainings in parallel: processes with a few cores each, which append results line by line.

A line is written as soon as it is known, so a run that is stopped keeps its results; known lines are not made again,
and trainings resume from their last checkpoint.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROUND = 2.0
"""Seconds between checks of the workers."""


def known_lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read the lines of the files that exist; a truncated last line is left out."""
    lines = []
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
    return lines


def append(path: Path, line: dict[str, Any]) -> None:
    """Append one line atomically, even if several processes write."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")


def _pin(worker: int, threads: int) -> None:
    """Pin this process to ``threads`` cores of its own, if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = [cores[(worker * threads + i) % len(cores)] for i in range(threads)]
        os.sched_setaffinity(0, set(mine))


def _work(
    worker: int, threads: int, start: Callable[[], Any], do: Callable[[Any, Any], None], tasks: Any, told: Any
) -> None:
    _pin(worker, threads)
    import torch

    torch.set_num_threads(threads)
    state = start()
    while True:
        try:
            number, task = tasks.get(timeout=5)  # get_nowait would raise Empty while another process is reading
        except queue.Empty:
            return
        try:
            do(state, task)
            told.put((number, None))
        except Exception:
            told.put((number, traceback.format_exc()))


def run(
    tasks: Sequence[Any],
    start: Callable[[], Any],
    do: Callable[[Any, Any], None],
    *,
    workers: int,
    threads: int = 2,
    stop_after: float | None = None,
) -> int:
    """Do every task in one of ``workers`` processes; returns how many failed or were not done in time.

    ``start()`` makes the state of a process, once; ``do(state, task)`` does one task; both must be importable. With
    ``stop_after`` the processes are ended after that many seconds.
    """
    began = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    waiting, told = context.Queue(), context.Queue()
    for number, task in enumerate(tasks):
        waiting.put((number, task))
    team = [
        context.Process(target=_work, args=(i, threads, start, do, waiting, told), daemon=True)
        for i in range(min(workers, len(tasks)))
    ]
    for one in team:
        one.start()
    done = failed = 0
    while done + failed < len(tasks):
        try:
            number, problem = told.get(timeout=ROUND)
            done, failed = done + (problem is None), failed + (problem is not None)
            spent = time.monotonic() - began
            print(f"[{spent:6.0f} s] {done + failed} of {len(tasks)}: {problem or 'done'}", file=sys.stderr, flush=True)
        except queue.Empty:
            pass
        late = stop_after is not None and time.monotonic() - began > stop_after
        if late or not any(one.is_alive() for one in team):
            break
    for one in team:
        one.terminate()
    waiting.cancel_join_thread()
    return len(tasks) - done
