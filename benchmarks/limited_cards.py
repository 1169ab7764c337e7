"""Compares plan and run on one GPU, limited to the memory of a card of 8, 10, 12, 16 or 24 GiB.

    python benchmarks/limited_cards.py --model FOLDER --work FOLDER [--sizes 8 10 12 16 24] [--steps 100]

Another process takes the rest of the GPU's memory, so that CUDA's context and libraries have to fit as well; it also
records the peak memory of the run. Each size trains with its profile and its own seed, so that runs share only the
encoded data and the prepared base. FOLDER is as for ``whole_run.py``. Writes one entry per size: estimated and measured
memory and seconds, and their ratio.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import whole_run
import yaml

from charloom.cli import pricing
from charloom.config.project import load
from charloom.workflow import price

GIB = 2**30
BALLAST = """
import sys, time, torch
left, seen = float(sys.argv[1]) * 2**30, sys.argv[2]
free, total = torch.cuda.mem_get_info()
held = torch.empty(max(0, int(free - left)), dtype=torch.uint8, device="cuda")
before = torch.cuda.mem_get_info()[0]
print(before / 2**30, flush=True)
least = before
while True:
    least = min(least, torch.cuda.mem_get_info()[0])
    open(seen, "w").write(str((before - least) / 2**30))
    time.sleep(0.05)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base")
    parser.add_argument("--work", type=Path, required=True, help="folder to run in; may be an earlier one's")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 10, 12, 16, 24], help="GiB of the card")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=whole_run.ROOT / "benchmarks" / "results" / "limited_cards.json")
    arguments = parser.parse_args()
    work, steps = arguments.work, arguments.steps
    if not (work / "config").is_dir():
        whole_run.prepare(work, arguments.model.resolve(), steps, steps, {})
    found = json.loads(arguments.output.read_text()) if arguments.output.is_file() else []
    for size in arguments.sizes:
        found.append(measured(work, size, steps, arguments.cores))
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
        print(
            json.dumps({key: value for key, value in found[-1].items() if key != "trainer_log"}, indent=1), flush=True
        )


def measured(work: Path, size: int, steps: int, cores: int) -> dict[str, Any]:
    """One run on a card of ``size`` GiB, with the plan's estimate."""
    seed_of(work, size)
    shown = work / f"peak-{size}.txt"
    ballast = subprocess.Popen(
        [sys.executable, "-c", BALLAST, str(size), str(shown)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert ballast.stdout is not None
        left = float(ballast.stdout.readline())
        started = time.time()
        status = whole_run.run(work, f"gpu-{size}gb", cores, ("final.safetensors",))
        wall = time.time() - started
    finally:
        ballast.kill()
        ballast.wait()
    run = {
        "benchmark": "limited_cards",
        "date": datetime.date.today().isoformat(),
        **whole_run.machine(),
        "size_gib": size,
        "free_before_gib": round(left, 2),
        "steps": steps,
        "finished": status == 0,
        "wall_s": round(wall, 1),
        "taken_of_the_card_gib": round(float(shown.read_text()), 2),
    }
    if status:
        return run
    log = whole_run.training(work, started)["trainer_log"]
    return {**run, **compared(work, size, steps, log), "trainer_log": log}


def seed_of(work: Path, size: int) -> None:
    """Give the character a seed of its own, so that it is trained again."""
    file = work / "config" / "characters" / f"{whole_run.CHARACTER}.yaml"
    character = yaml.safe_load(file.read_text())
    character["recipe"]["train"]["seed"] = 1000 + size
    file.write_text(yaml.safe_dump(character, sort_keys=False))


def compared(work: Path, size: int, steps: int, log: Sequence[str]) -> dict[str, Any]:
    """The plan's figures for a card of ``size`` GiB, and those in the trainer's log."""
    given = pricing.overrides(["--profile", f"profiles/gpu-{size}gb"], whole_run.ROOT)
    recipe = load(work, overrides=given).characters[whole_run.CHARACTER].recipe
    budget = pricing.budget_of(recipe, size, pricing.beside(size))
    edges = recipe["data"]["resolutions"]
    drawn = sum(int(one[1]) for line in log if (one := re.search(r"step \d+: (\d+) previews? of", line)))
    jobs = {"train_segment": 1, **({"sample_checkpoint": drawn} if drawn else {})}
    stage = next(one for one in price.stages(jobs, recipe, steps, budget, {}) if one.rule == "train_segment")
    pairs = {
        "allocated_gib": (
            price.training(recipe, budget).peak,
            max(float(one[1]) for line in log if (one := re.search(r"peak memory ([\d.]+) GiB", line))),
        ),
        "seconds_per_step": (
            statistics.fmean(price.step_seconds(recipe, edge, budget) for edge in edges),
            steady(log),
        ),
        "trainer_s": (stage.seconds, float(log[-1].split()[0])),
    }
    return {
        name: {"reckoned": round(said, 3), "measured": round(was, 3), "ratio": round(said / was, 3)}
        for name, (said, was) in pairs.items()
    }


def steady(log: Sequence[str]) -> float:
    """Median seconds per step over neighbouring lines of progress, weighted by the steps between them.

    Nothing was compiled between such lines. Between some, graphs were recorded again, because the card at first has no
    room for those of every shape; the median leaves these out, as a longer training run would.
    """
    rows = [re.match(r" *([\d.]+) s  (?:step (\d+)/)?", line) for line in log]
    rates: list[float] = []
    for before, after in itertools.pairwise(rows):
        if before and after and before[2] and after[2]:
            steps = int(after[2]) - int(before[2])
            rates += [(float(after[1]) - float(before[1])) / steps] * steps
    return statistics.median(rates) if rates else float("nan")


if __name__ == "__main__":
    main()
