"""Measures training speed on the miniature, alone and beside busy processes, by how idle threads wait.

    taskset -c 0,1 python benchmarks/busy_laptop.py --seconds 30 --repeats 5

Each repeat is a process of its own, which trains for --seconds and counts its steps; the ways of waiting take turns,
so that whatever else the machine does affects all of them alike. Busy processes are Python loops that never sleep, at
the same priority (or lower with --nice). The ways: libgomp's default (threads spin), bounded as in charloom's jobs
(charloom.workflow.jobs.bound_waiting), and passive (threads sleep at once).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from charloom.core import cores
from charloom.workflow import jobs

WAYS = {"default": {}, "charloom": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
WARMUP = 4
"""Steps before the clock starts."""
RESULT = Path(__file__).parent / "results" / "busy_laptop.json"


class Enough(Exception):
    """Raised when the time of a repeat is over."""


def train_for(seconds: float, resolutions: list[int], threads: int) -> float:
    """Steps per second of a training run that lasts ``seconds``."""
    import torch
    from train_miniature import BASE, data_set

    from charloom.core.store import Store
    from charloom.engine.engine import Engine
    from charloom.train.job import TrainJob, build_engine
    from charloom.train.loop import train
    from charloom.train.settings import TrainSettings
    from charloom.zimage import weights

    torch.set_num_threads(threads)
    moments: list[float] = []

    def clocked(*parts: Any) -> Engine:
        engine = build_engine(*parts)
        begin = engine.zero_grad

        def zero_grad() -> None:
            moments.append(time.perf_counter())  # before the first step, and after each
            if len(moments) > WARMUP + 1 and moments[-1] - moments[WARMUP] > seconds:
                raise Enough
            begin()

        engine.zero_grad = zero_grad
        return engine

    train_section = {"steps": 10**5, "batch_size": 2, "optimizer": "adamw", "lr": 1e-3}
    recipe = {
        "network": {"rank": 16, "alpha": 16},
        "train": train_section,
        "save": {"every": 10**6},
        "data": {"resolutions": resolutions, "caption_dropout": 0.0},
    }
    with tempfile.TemporaryDirectory() as name:
        job = TrainJob(
            settings=TrainSettings.from_recipe(recipe),
            run_key="benchmark",
            manifest=data_set(Path(name), resolutions, weights.empty_transformer(BASE).config.cap_feat_dim),
            load_model=lambda dtype, device: weights.load_transformer(BASE, dtype=dtype, device=device),
            log_dir=Path(name) / "log",
            title="benchmark",
            trigger="token",
            device="cpu",
            make_engine=clocked,
        )
        try:
            train(job, Store(Path(name) / "store"), train_section["steps"], lambda _: None)
        except Enough:
            pass
    return (len(moments) - 1 - WARMUP) / (moments[-1] - moments[WARMUP])


@contextmanager
def busy(count: int, nice: int) -> Iterator[None]:
    """Start processes that never sleep."""
    code = f"import os\nif hasattr(os, 'nice'): os.nice({nice})\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()


def once(arguments: argparse.Namespace, beside: int, way: str) -> float:
    """Steps per second of one repeat, in a process of its own, because libgomp reads its settings when it is loaded."""
    environment = {k: v for k, v in os.environ.items() if k not in jobs.WAITING} | WAYS[way]
    command = [sys.executable, __file__, "--child", way, "--seconds", str(arguments.seconds)]
    command += ["--threads", str(arguments.threads), "--resolutions", *map(str, arguments.resolutions)]
    with busy(beside, arguments.nice):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="length of a repeat (30)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each figure (5)")
    parser.add_argument("--busy", type=int, default=2, help="number of busy processes (2)")
    parser.add_argument("--nice", type=int, default=0, help="niceness of the busy processes (0)")
    parser.add_argument("--threads", type=int, default=2, help="training threads (2)")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--output", type=Path, default=RESULT, help=f"JSON file to write ({RESULT.name})")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        if arguments.child == "charloom":
            jobs.bound_waiting()
        print(train_for(arguments.seconds, arguments.resolutions, arguments.threads))
        return
    from train_miniature import processor_name

    rates: dict[tuple[int, str], list[float]] = {(b, w): [] for b in (0, arguments.busy) for w in WAYS}
    for repeat in range(arguments.repeats):
        for (beside, waiting), found in rates.items():
            found.append(once(arguments, beside, waiting))
            print(f"{repeat + 1}/{arguments.repeats}  {beside} beside, {waiting}: {found[-1]:.2f} steps/s", flush=True)
    figures = [
        {
            "busy_processes": beside,
            "waiting": waiting,
            "steps_per_second": {
                "min": round(min(found), 3),
                "median": round(statistics.median(found), 3),
                "max": round(max(found), 3),
            },
        }
        for (beside, waiting), found in rates.items()
    ]
    given = {key: getattr(arguments, key) for key in ("seconds", "repeats", "nice", "threads", "resolutions")}
    result = {
        "benchmark": "busy_laptop",
        "date": datetime.date.today().isoformat(),
        **given,
        "figures": figures,
        "machine": processor_name(),
        "cores": cores.usable(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "diffusers", "peft")},
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
