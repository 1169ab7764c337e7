"""A batch of characters against each of them alone: wall time, Snakemake's own share of a core, and how it ends.

    python benchmarks/batch.py --part batch --cores 0,1 --output batch.json
    python benchmarks/batch.py --part singles --cores 2,3 --output singles.json      # may run at the same time
    python benchmarks/batch.py --merge batch.json singles.json … --output benchmarks/results/batch.json

Every run starts from nothing in its own folder, on the given cores only (Linux). A batch should take no longer than the
sum of its characters, and a little less because they share the base.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
INTERVAL = 30.0
"""Seconds over which Snakemake's share is averaged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("batch", "singles"), help="all characters at once, or one after another")
    parser.add_argument("--cores", default="0,1", help="cores to run on, for example 0,1")
    parser.add_argument("--characters", nargs="+", help="names; every character of config/characters/ if not given")
    parser.add_argument("--recipe", help="overrides of the recipe for a quick run, for example '{train: {steps: 100}}'")
    parser.add_argument("--merge", nargs="+", type=Path, help="merge the results of earlier runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "batch.json")
    arguments = parser.parse_args()
    if not arguments.merge and not arguments.part:
        parser.error("give --part or --merge")
    record: dict[str, Any] = {}
    if arguments.merge:
        for path in arguments.merge:
            found = json.loads(path.read_text())
            singles = record.get("singles", {}) | found.get("singles", {})
            record |= found | ({"singles": singles} if singles else {})
        if "batch" in record and "singles" in record:
            alone = sum(run["seconds"] for run in record["singles"].values())
            record["batch_by_sum_of_singles"] = round(record["batch"]["seconds"] / alone, 3)
    else:
        names = arguments.characters or sorted(path.stem for path in (ROOT / "config" / "characters").glob("*.yaml"))
        cores = [int(core) for core in arguments.cores.split(",")]
        os.sched_setaffinity(0, cores)  # inherited by all child processes
        record = {"machine": machine(len(cores)), "date": datetime.date.today().isoformat(), "recipe": arguments.recipe}
        if arguments.part == "batch":
            record["batch"] = measure(names, len(cores), arguments.recipe)
        else:
            record["singles"] = {name: measure([name], len(cores), arguments.recipe) for name in names}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def measure(names: list[str], cores: int, recipe: str | None) -> dict[str, Any]:
    """Make the final files of ``names`` from nothing."""
    with tempfile.TemporaryDirectory(prefix="charloom-batch-") as folder:
        for part in ("config", "resources"):
            shutil.copytree(ROOT / part, Path(folder, part))
        config = [f"characters=[{','.join(names)}]", *([f"recipe={recipe}"] if recipe else [])]
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", str(cores)]
        command += [f"results/{name}/final.safetensors" for name in names]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CHARLOOM_TERMINAL": "plain"}
        started = time.monotonic()
        process = subprocess.Popen(
            [*command, "--config", *config],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        watch = Watch(psutil.Process(process.pid))
        last_job, jobs, tail = started, 0, []
        for line in process.stdout:
            tail = [*tail[-30:], line]
            if line.startswith("Finished job"):
                last_job, jobs = time.monotonic(), jobs + 1
        status = process.wait()
        ended = time.monotonic()
        shares = watch.stop()
        if status:
            sys.exit("".join(tail))
    return {
        "characters": names,
        "jobs": jobs,
        "seconds": round(ended - started, 1),
        "seconds_from_last_job_to_exit": round(ended - last_job, 2),
        "snakemake_share_of_a_core": {"mean": mean(shares), "worst": max(shares, default=0.0), "each_30_s": shares},
    }


class Watch(threading.Thread):
    """CPU time of a process without its children, as fractions of a core over :data:`INTERVAL`."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.process, self.shares, self.done = process, [], threading.Event()
        self.start()

    def run(self) -> None:
        before, since = 0.0, time.monotonic()
        while not self.done.wait(INTERVAL):
            try:
                times = self.process.cpu_times()
            except psutil.Error:
                return
            now = time.monotonic()
            self.shares.append(round((times.user + times.system - before) / (now - since), 4))
            before, since = times.user + times.system, now

    def stop(self) -> list[float]:
        self.done.set()
        self.join()
        return self.shares


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def machine(cores: int) -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    versions = {name: version(name) for name in ("snakemake", "torch")}
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": cores,
        "python": platform.python_version(),
        **versions,
    }


if __name__ == "__main__":
    main()
