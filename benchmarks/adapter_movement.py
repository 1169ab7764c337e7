"""How far each optimizer moves the adapter on the miniature: the data behind ``charloom/lora/movement.py``.

    snakemake --cores 2 results/leyla/dataset.json
    python benchmarks/adapter_movement.py results/leyla/dataset.json --steps 300

Trains with each optimizer at its usual learning rate (or --rate) and rank 16, and records the root mean square of B and
the norm of B A over all modules at some steps.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from train_miniature import BASE, processor_name

from charloom.config import knobs
from charloom.core.store import Store
from charloom.engine.engine import Engine
from charloom.lora import movement
from charloom.train.job import TrainJob, build_engine
from charloom.train.loop import train
from charloom.train.settings import TrainSettings
from charloom.zimage import weights

AT = (1, 2, 3, 5, 10, 20, 30, 50, 100, 150, 200, 300, 500, 800, 1000, 1500, 2000, 3000)


@torch.no_grad()
def norm(parameters: dict[str, torch.Tensor]) -> float:
    """Frobenius norm of B A over all modules."""
    squares = 0.0
    for name, down in parameters.items():
        if name.endswith("lora_A.weight"):
            up = parameters[name.replace("lora_A", "lora_B")]
            squares += float(((up.t() @ up) * (down @ down.t())).sum())
    return max(squares, 0.0) ** 0.5


def measure(optimizer: str, rate: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The curve of one optimizer."""
    recipe = {
        "network": {"rank": arguments.rank, "alpha": arguments.rank},
        "train": {"steps": arguments.steps + 1, "optimizer": optimizer, "lr": rate, "batch_size": arguments.batch_size},
        "save": {"every": 10**6},
        "data": {"resolutions": arguments.resolutions},
    }
    seen: list[list[float]] = []

    def watched(model: Any, adapter: Any, *others: Any) -> Engine:
        engine = build_engine(model, adapter, *others)
        begin, calls = engine.zero_grad, iter(range(10**9))

        def zero_grad() -> None:
            begin()
            step = next(calls)  # once before the first step, and after each
            if step in AT or step == arguments.steps:
                values = movement.moved(adapter.parameters), norm(adapter.parameters)
                seen.append([step, *(float(f"{value:.4g}") for value in values)])
                print(optimizer, rate, *seen[-1], flush=True)

        engine.zero_grad = zero_grad
        return engine

    with tempfile.TemporaryDirectory() as name:
        job = TrainJob(
            settings=TrainSettings.from_recipe(recipe),
            run_key="benchmark",
            manifest=arguments.manifest,
            load_model=lambda dtype, device: weights.load_transformer(BASE, dtype=dtype, device=device),
            log_dir=Path(name) / "log",
            title="benchmark",
            trigger="token",
            make_engine=watched,
        )
        train(job, Store(Path(name) / "store"), arguments.steps + 1, lambda _: None)
    return {"optimizer": optimizer, "lr": rate, "step, rms of B, norm of B A": seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="dataset.json of a character of the miniature")
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "adafactor", "lion", "prodigy"])
    parser.add_argument("--rate", type=float, help="learning rate in place of each optimiser's usual one")
    parser.add_argument("--steps", type=int, default=300, help="steps of each run (300)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = [measure(o, arguments.rate or knobs.usual_rates()[o], arguments) for o in arguments.optimizers]
    shape = {"rank": arguments.rank, "batch_size": arguments.batch_size, "resolutions": arguments.resolutions}
    result = {
        "benchmark": "adapter_movement",
        "date": datetime.date.today().isoformat(),
        **shape,
        "runs": runs,
        "machine": processor_name(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "diffusers", "peft")},
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
