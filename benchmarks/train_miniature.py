"""Measures the speed of training on the embedded miniature: one JSON line per resolution.

    python benchmarks/train_miniature.py
    python benchmarks/train_miniature.py --resolutions 256 --steps 40 --threads 8 --device cuda

Everything between two optimizer updates counts: planning the step, noise, forward, backward, update, metrics.
Loading the base, attaching the adapter and the first steps (--warmup) do not. Images and captions are random, with
caption lengths as in the workflow; the cost of a step does not depend on their contents.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from charloom.core.canonical import file_digest
from charloom.core.store import Store
from charloom.core.tensors import write_safetensors
from charloom.engine.engine import Engine
from charloom.engine.inputs import Inputs
from charloom.train.job import TrainJob, build_engine, resolve
from charloom.train.loop import train
from charloom.train.settings import TrainSettings
from charloom.workflow import jobs
from charloom.zimage import weights

BASE = Path(__file__).resolve().parents[1] / "resources" / "bases" / "paperdoll"
IMAGES = 8
CAPTIONS = (52, 58, 61, 64)
"""Caption lengths (tokens) as in the shipped characters; all have the same padded length."""


def data_set(folder: Path, resolutions: Sequence[int], width: int) -> Path:
    """A manifest of random latents and embeddings (``width`` wide)."""
    generator = torch.Generator().manual_seed(0)

    def stored(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
        kind = "latents" if name.startswith("l") else "embeddings"
        write_safetensors(folder / f"{name}.safetensors", tensors, {})
        return {kind: f"{name}.safetensors", f"{kind}_sha256": file_digest(folder / f"{name}.safetensors")}

    def embedding(name: str, length: int) -> dict[str, str]:
        return stored(name, {"embeds": torch.randn(length, width, generator=generator)})

    items = []
    for index in range(IMAGES):
        latents = {f"{r}x{r}": torch.randn(16, r // 8, r // 8, generator=generator) for r in resolutions}
        words = embedding(f"e{index}", CAPTIONS[index % len(CAPTIONS)])
        items.append({"name": f"image-{index}", **stored(f"l{index}", latents), **words})
    variants = {"empty": embedding("empty", 8), "trigger": embedding("trigger", 11)}
    manifest = folder / "dataset.json"
    manifest.write_text(json.dumps({"items": items, "variants": variants}))
    return manifest


def measure(resolutions: Sequence[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step over ``arguments.steps`` steps, after ``arguments.warmup`` more."""
    settings = TrainSettings.from_recipe(
        {
            "network": {"rank": 16, "alpha": 16},
            "train": {
                "steps": arguments.warmup + arguments.steps + 1,
                "batch_size": arguments.batch_size,
                "optimizer": "adamw",
                "lr": 1e-3,
            },
            "save": {"every": 10**6},
            # Without dropped captions every step is one call of the model, which is what is timed.
            "data": {"resolutions": list(resolutions), "caption_dropout": 0.0},
        }
    )
    moments: list[float] = []

    def clocked(*parts: Any) -> Engine:
        engine = build_engine(*parts)
        accumulate = engine.accumulate

        def call(inputs: Inputs) -> torch.Tensor:
            if inputs.x0.is_cuda:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())
            return accumulate(inputs)

        engine.accumulate = call
        return engine

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width = weights.empty_transformer(arguments.base).config.cap_feat_dim
        job = TrainJob(
            settings=settings,
            run_key="benchmark",
            manifest=data_set(folder, resolutions, width),
            load_model=lambda dtype, device: weights.load_transformer(arguments.base, dtype=dtype, device=device),
            log_dir=folder / "log",
            title="benchmark",
            trigger="token",
            device=arguments.device,
            make_engine=clocked,
        )
        started, processor = time.perf_counter(), time.process_time()
        train(job, Store(folder / "store"), settings.train.steps, lambda _: None)
        whole, processor = time.perf_counter() - started, time.process_time() - processor
    assert len(moments) == settings.train.steps, "a step was more than one call"
    clock = moments[arguments.warmup :]
    steps = [b - a for a, b in zip(clock, clock[1:], strict=False)]
    device, dtype = resolve(arguments.device, "auto")
    return {
        "benchmark": "train_miniature",
        "resolutions": list(resolutions),
        "batch_size": arguments.batch_size,
        "steps": len(steps),
        "steps_per_second": round(len(steps) / sum(steps), 3),
        "median_ms": round(1000 * statistics.median(steps), 1),
        "best_ms": round(1000 * min(steps), 1),
        "whole_run_s": round(whole, 2),
        "processor_s": round(processor, 2),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "diffusers", "peft")},
    }


def processor_name() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE, help="folder of the base in the diffusers layout")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[128, 192, 256], help="each on its own")
    parser.add_argument("--mixed", action="store_true", help="also all resolutions in turn, as the workflow trains")
    parser.add_argument("--batch-size", type=int, default=2, help="images per step (2)")
    parser.add_argument("--steps", type=int, default=20, help="measured steps (20)")
    parser.add_argument("--warmup", type=int, default=4, help="steps before them (4)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (auto)")
    parser.add_argument("--output", type=Path, help="file to append the lines to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    jobs.keep_memory()
    for resolutions in [[r] for r in arguments.resolutions] + [arguments.resolutions] * arguments.mixed:
        line = json.dumps(measure(resolutions, arguments))
        print(line, flush=True)
        if arguments.output:
            with open(arguments.output, "a", encoding="utf-8") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
