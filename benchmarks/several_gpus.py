"""Measures the gain from several GPUs in one machine: for one character, and for several characters at once.

    python benchmarks/several_gpus.py                           # all parts, for as many of 1, 2, 4 GPUs as there are
    python benchmarks/several_gpus.py --parts one --gpus 1 2    # one character on one and on two
    python benchmarks/several_gpus.py --small --device cpu      # the same code on a small model, to see that it runs

The full-size Z-Image transformer with random weights, rank 32, trained by the trainer itself on random latents; each
job leases its GPUs as in a run. Parts:

- ``one``: one character at ``--batch`` samples per step, on one GPU in batches and one by one, then on several;
- ``many``: several characters at once, each on a GPU of its own, against one alone, at one sample per step;
- ``exchange``: milliseconds that the exchange of one round of gradients takes;
- ``bytes``: whether several GPUs give the same bytes as one (``deterministic``).

Speed is measured over a window of ``--window`` seconds that begins when every run of the measurement is past its
warm-up. A measurement that is not done after ``--seconds`` is stopped and says how far it came. The JSON is written
after each measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_model import CAPTION, FULL, SMALL

from charloom.core.errors import UserError
from charloom.train import progress, stopping
from charloom.workflow import devices

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("one", "many", "exchange", "bytes")
WARM = 8
"""Steps before a run counts as warm: kernels are compiled, graphs recorded, memory is fitted."""
FEWEST = 5
"""Fewest steps in a window, which is extended if necessary."""
ITEMS = 8
BYTES_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4], help="numbers of GPUs; others are left out")
    parser.add_argument("--batch", type=int, default=4, help="samples per step of one character")
    parser.add_argument("--size", type=int, default=1024, help="side of the images in pixels")
    parser.add_argument("--seconds", type=float, default=180, help="limit for each measurement")
    parser.add_argument("--window", type=float, default=30, help="seconds over which speed is measured")
    parser.add_argument("--small", action="store_true", help="a small model")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--engine", type=json.loads, default={}, help="engine options, JSON")
    parser.add_argument("--alone", type=float, help="steps/s of one character by itself, if measured here before")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "several_gpus.json")
    arguments = parser.parse_args()
    there = len(devices.visible()) if arguments.device == "cuda" else (os.cpu_count() or 1)
    counts = [count for count in sorted(set(arguments.gpus)) if count <= there]
    record = {
        "benchmark": "several_gpus",
        "date": datetime.date.today().isoformat(),
        **machine(arguments.device),
        "gpus_there": there,
        "not_run": [f"{count} GPUs: this machine shows {there}" for count in arguments.gpus if count > there],
        "batch": arguments.batch,
        "size": arguments.size,
        "small": arguments.small,
        "engine": arguments.engine,
        "window_s": arguments.window,
        "rows": [],
    }
    with tempfile.TemporaryDirectory(prefix="charloom-several-") as folder:
        bench = Bench(arguments, Path(folder), counts, record)
        for part in arguments.parts:
            getattr(bench, part)()
    print(table(record))


class Bench:
    """The measurements; each appends a row and writes the JSON."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, counts: list[int], record: dict[str, Any]) -> None:
        self.arguments, self.folder, self.counts, self.record = arguments, folder, counts, record
        self.number = 0
        write_data(folder / "data", arguments.size, SMALL if arguments.small else FULL)

    def one(self) -> None:
        """One character on one GPU and on several."""
        batch = self.arguments.batch
        base = self.speed("one", "1 GPU, in batches", [self.run(batch, 1)])
        if batch > 1:
            self.speed("one", "1 GPU, one by one", [self.run(1, batch)], base)
        for count in self.counts:
            if 1 < count <= batch:
                self.speed("one", f"{count} GPUs", [self.run(batch, 1, count)], base)

    def many(self) -> None:
        """Several characters at once."""
        base = self.arguments.alone or self.speed("many", "1 character", [self.run(1, 1)])
        for count in self.counts:
            if count > 1:
                self.speed("many", f"{count} characters", [self.run(1, 1) for _ in range(count)], base)

    def exchange(self) -> None:
        """One round of gradients."""
        for count in self.counts:
            if count > 1:
                self.once("exchange", f"{count} GPUs", {"mode": "exchange"}, count)

    def bytes(self) -> None:
        """Checkpoints of several GPUs against those of one."""
        batch, found = max(2, self.arguments.batch), {}
        for count in [count for count in self.counts if count <= batch]:
            what = {"mode": "bytes", "batch": 1, "accumulation": batch, "steps": BYTES_STEPS, "deterministic": True}
            row = self.once("bytes", f"{count} GPUs" if count > 1 else "1 GPU", what, count)
            found[count] = row.get("sha256")
            if count > 1:
                row["same_as_one"] = bool(found.get(1)) and found[count] == found[1]
                self.write()

    def run(self, batch: int, accumulation: int, gpus: int = 1) -> dict[str, Any]:
        return {"mode": "train", "batch": batch, "accumulation": accumulation, "gpus": gpus}

    def speed(self, part: str, name: str, runs: list[dict[str, Any]], base: float | None = None) -> float | None:
        """Updates (of all runs together) and samples per second, and how many times ``base``."""
        started, limit = time.monotonic(), self.arguments.seconds
        row = {"part": part, "name": name}
        jobs = [Job(self.asked(run), run["gpus"]) for run in runs]
        try:
            row |= measure(jobs, self.arguments.window, started + limit)
        except UserError as error:
            row["failed"] = str(error)
        finally:
            for job in jobs:
                job.stop()
        row["said"] = sorted({line for job in jobs for line in job.said() if "engine" in line or "warning" in line})
        if rate := row.get("steps_per_s"):
            samples = runs[0]["batch"] * runs[0]["accumulation"]
            row["samples_per_s"] = round(rate * samples, 4)
            if base:
                row["times"] = round(rate / base, 3)
        row["took_s"] = round(time.monotonic() - started, 1)
        self.add(row)
        return row.get("steps_per_s")

    def once(self, part: str, name: str, what: dict[str, Any], count: int) -> dict[str, Any]:
        """The result that a run writes when it ends by itself."""
        started = time.monotonic()
        row: dict[str, Any] = {"part": part, "name": name}
        job = Job(self.asked({**what, "gpus": count}), count)
        job.wait(self.arguments.seconds)
        try:
            row |= json.loads((job.folder / "result.json").read_text())
        except (OSError, ValueError):
            row["failed"] = job.problem()
        job.stop()
        row["took_s"] = round(time.monotonic() - started, 1)
        self.add(row)
        return row

    def asked(self, run: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        own = self.folder / f"run-{self.number}"
        own.mkdir()
        arguments = self.arguments
        common = {"small": arguments.small, "size": arguments.size, "device": arguments.device}
        return {"folder": str(own), "data": str(self.folder / "data"), "engine": arguments.engine, **common, **run}

    def add(self, row: dict[str, Any]) -> None:
        self.record["rows"].append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def write(self) -> None:
        self.arguments.output.parent.mkdir(parents=True, exist_ok=True)
        self.arguments.output.write_text(json.dumps(self.record, indent=1) + "\n")


class Job:
    """One training in a process of its own, which starts its ranks if it has several GPUs."""

    def __init__(self, asked: dict[str, Any], count: int) -> None:
        self.folder = Path(asked["folder"])
        self.log = open(self.folder / "log.txt", "w", encoding="utf-8")
        threads = max(1, (os.cpu_count() or 1) // max(1, count))
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": str(min(8, threads)), "PYTHONPATH": paths}
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "several_gpus_job.py"),
            json.dumps({**asked, "threads": min(8, threads)}),
        ]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        self.seen: list[tuple[float, int]] = []

    def look(self) -> None:
        """Note the newest step with the time at which it was done."""
        if (now := progress.read(self.folder)) and (not self.seen or now.step > self.seen[-1][1]):
            self.seen.append((now.updated, now.step))

    @property
    def warm_since(self) -> float | None:
        return next((when for when, step in self.seen if step >= WARM), None)

    def rate(self, begin: float) -> tuple[float, int] | None:
        """(Steps per second, steps) since ``begin``."""
        inside = [(when, step) for when, step in self.seen if when >= begin]
        if len(inside) < 2:
            return None
        (first, low), (last, high) = inside[0], inside[-1]
        return (high - low) / (last - first), high - low

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)

    def stop(self) -> None:
        """Ask the run to save and end; if it does not, kill it."""
        if self.process.poll() is None:
            stopping.request(self.folder)
            self.wait(30)
        if self.process.poll() is None:
            self.process.terminate()
            self.wait(5)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def said(self) -> list[str]:
        return [line.strip() for line in (self.folder / "log.txt").read_text(errors="replace").splitlines()]

    def problem(self) -> str:
        lines = [line for line in self.said() if line]
        state = f"exit status {self.process.poll()}" if self.process.poll() is not None else "time is up"
        return f"{state}; {' | '.join(lines[-6:])}"


def measure(jobs: list[Job], window: float, deadline: float) -> dict[str, Any]:
    """Speed of all jobs together while all of them run.

    Raises:
        UserError: one ended, or was not warm in time.
    """
    while time.monotonic() < deadline:
        for job in jobs:
            job.look()
            if job.process.poll() is not None:
                raise UserError(job.problem())
        warm = [job.warm_since for job in jobs]
        if all(warm) and all(job.seen[-1][0] >= max(warm) + window for job in jobs):
            rates = [job.rate(max(warm)) for job in jobs]
            if all(rate and rate[1] >= FEWEST for rate in rates):
                break
        time.sleep(0.05)
    warm = [job.warm_since for job in jobs]
    if not all(warm):
        steps = [job.seen[-1][1] if job.seen else 0 for job in jobs]
        raise UserError(f"not warm in time: steps {steps}; {jobs[0].problem()}")
    rates = [job.rate(max(warm)) for job in jobs]
    if not all(rates):
        raise UserError("time was up before two steps of the window were done")
    memory = [round(found.memory / 2**30, 2) for job in jobs if (found := progress.read(job.folder))]
    return {
        "steps_per_s": round(sum(rate for rate, _ in rates), 4),
        "each": [round(rate, 4) for rate, _ in rates],
        "steps_in_window": [steps for _, steps in rates],
        "peak_gib": memory,
    }


def write_data(folder: Path, size: int, shape: dict[str, Any]) -> None:
    """A data set of random latents and embeddings."""
    import torch

    from charloom.core.canonical import file_digest
    from charloom.core.tensors import write_safetensors

    generator = torch.Generator().manual_seed(0)
    items = []
    for index in range(ITEMS):
        name = f"shot-{index:02d}"
        latents, embeddings = folder / "latents" / f"{name}.safetensors", folder / "embeddings" / f"{name}.safetensors"
        for path in (latents, embeddings):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(latents, {f"{size}x{size}": torch.randn(16, size // 8, size // 8, generator=generator)}, {})
        words = torch.randn(CAPTION - 7, shape["cap_feat_dim"], generator=generator)
        write_safetensors(embeddings, {"embeds": words}, {})
        items.append(
            {
                "name": name,
                "latents": f"latents/{name}.safetensors",
                "latents_sha256": file_digest(latents),
                "embeddings": f"embeddings/{name}.safetensors",
                "embeddings_sha256": file_digest(embeddings),
            }
        )
    (folder / "dataset.json").write_text(json.dumps({"items": items, "variants": {}}))


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on; asked in a process of its own, so that this one holds no GPU."""
    found: dict[str, Any] = {"device": platform.processor() or platform.machine(), "python": platform.python_version()}
    if device == "cuda":
        ask = "import torch as t; print(t.cuda.get_device_name(0)); print('.'.join(map(str, t.cuda.nccl.version())))"
        said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
        lines = said.stdout.splitlines() or [said.stderr.strip()[-200:]]
        found |= {"device": lines[0], "nccl": lines[1] if lines[1:] else "?"}
    for package in ("torch", "triton", "bitsandbytes", "diffusers", "peft"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found | {"commit": commit.stdout.strip() or "?"}


def table(record: dict[str, Any]) -> str:
    """The rows as a table."""
    lines = [f"{record['device']}, torch {record['torch']}, {record['date']}, commit {record['commit']}"]
    lines += [f"{'part':9} {'what':20} {'steps/s':>9} {'samples/s':>9} {'times':>6}  remarks"]
    for row in record["rows"]:
        numbers = [row.get(key) for key in ("steps_per_s", "samples_per_s", "times")]
        texts = ["" if number is None else f"{number:.3f}" for number in numbers]
        remarks = {key: row[key] for key in ("ms", "received_gb_per_s", "right", "same_as_one", "failed") if key in row}
        said = ", ".join(f"{key} {value}" for key, value in remarks.items())
        lines.append(f"{row['part']:9} {row['name']:20} {texts[0]:>9} {texts[1]:>9} {texts[2]:>6}  {said}".rstrip())
    return "\n".join([*lines, *record["not_run"]])


if __name__ == "__main__":
    main()
