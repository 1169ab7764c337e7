"""Measures time and memory of one training step of the full-size Z-Image transformer, random weights, on one GPU.

    python benchmarks/train_step.py                       # everything, in at most nine minutes
    python benchmarks/train_step.py --only default roomy  # some configurations
    python benchmarks/train_step.py --small               # the same code on a small model, to see that it runs

A step is what the trainer does with a batch on the device: forward, loss, backward, gradient clipping, optimizer
update, and reading the previous step's numbers; batch 1, rank 32 on 240 modules, captions of 96 tokens. Preparing
batches and writing metrics are left out. Every configuration runs in its own process and prints one JSON line per
size; one that takes too long is stopped. Peaks cover the whole process except the engine's trials of how much fits
(``trial_gib``). Ceilings are measured in the same run: a large matrix product in bf16 and one in float8. TFLOP count
the minimum for a step (forward, input gradients, attention and its gradients) without recomputation.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from step_model import CAPTION, FULL, GIB, SMALL, VAE, batch, build, ceilings, lora, median_seconds, tflop

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIZES = (1024, 768, 512)

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {"about": "budget 9 GiB", "options": {"memory": 9.0}},
    "roomy": {"about": "budget 32 GiB", "options": {"memory": 32.0}},
    "fixed order": {"about": "budget 9 GiB, sums in a fixed order", "options": {"memory": 9.0, "deterministic": True}},
    "roomy, fixed order": {"about": "budget 32 GiB, likewise", "options": {"memory": 32.0, "deterministic": True}},
    "swap": {"about": "blocks in main memory, budget 6.5 GiB", "options": {"memory": 6.5}},
    "sample": {"about": "8 steps, bf16", "sample": True},
    "16 GiB card": {"about": "memory auto in 16 GiB of the card", "fraction": 16 * GIB, "sizes": (1024,)},
    "gradients": {"about": "float8 against bf16", "gradients": True},
    "eager": {
        "about": "float8, nothing compiled or recorded",
        "options": {"memory": 9.0, "compile": False, "graphs": False, "fuse": False},
        "sizes": (1024,),
    },
    "bf16": {"about": "bf16 weights, budget 64 GiB", "options": {"memory": 64.0}, "kind": "bf16", "sizes": (1024,)},
}
"""Most important first, in case time runs out."""

UNTIMED = 3
"""Warm-up steps per size."""
CACHE_EVENTS = {"cached": "hit", "fresh": "miss", "not cacheable": "bypass"}
MINUTES = 8.8
SECONDS_EACH = 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=CONFIGURATIONS, help="configurations; default: all")
    parser.add_argument("--steps", type=int, default=20, help="timed steps per size")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time limit for all configurations together")
    parser.add_argument("--sizes", type=int, nargs="*", help="image sizes (1024, 768 and 512)")
    parser.add_argument("--small", action="store_true", help="a small model, on any GPU")
    parser.add_argument("--profile", action="store_true", help="also print the slowest kernels of one step")
    parser.add_argument("--output", type=Path, help="also write the JSON lines to this file")
    parser.add_argument("--run", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        for line in run(arguments.run, arguments):
            print(json.dumps(line), flush=True)
        return
    deadline = time.monotonic() + 60 * arguments.minutes
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.unlink(missing_ok=True)

    def say(text: str) -> None:
        # Printed at once, in case the program is stopped later.
        print(text, end="", flush=True)
        if arguments.output and text.startswith("{"):
            with open(arguments.output, "a", encoding="utf-8") as file:
                file.write(text)

    for name in arguments.only or CONFIGURATIONS:
        command = [sys.executable, __file__, "--run", name, "--steps", str(arguments.steps)]
        command += ["--small"] if arguments.small else []
        command += ["--profile"] if arguments.profile else []
        command += ["--sizes", *map(str, arguments.sizes)] if arguments.sizes else []
        seconds = min(SECONDS_EACH, deadline - time.monotonic())
        if seconds < 10:
            say(json.dumps({"configuration": name, "skipped": f"{arguments.minutes:g} minutes are over"}) + "\n")
            continue
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            late = threading.Event()
            timer = threading.Timer(seconds, lambda late=late, process=process: (late.set(), process.kill()))
            timer.start()
            for text in process.stdout:
                say(text)
            process.wait()
            timer.cancel()
        if process.returncode:
            what = f"stopped after {seconds:.0f} s" if late.is_set() else process.returncode
            say(json.dumps({"configuration": name, "failed": what}) + "\n")


def run(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of one configuration."""
    import torch

    from charloom.engine.options import EngineOptions

    os.environ.setdefault("CHARLOOM_STORE", str(ROOT / "work" / "store"))
    device = torch.device("cuda")
    plan = CONFIGURATIONS[name]
    if "fraction" in plan:
        torch.cuda.set_per_process_memory_fraction(plan["fraction"] / torch.cuda.get_device_properties(0).total_memory)
    common = {
        "benchmark": "train_step",
        "configuration": name,
        "about": plan["about"],
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in ("diffusers", "peft")},
    }
    shape = SMALL if arguments.small else FULL
    options = EngineOptions(**plan.get("options", {}))
    sizes = arguments.sizes or plan.get("sizes", SIZES)
    if plan.get("sample"):
        work = sample(shape, device, options)
    elif plan.get("gradients"):
        work = gradients(shape, device)
    else:
        work = train(shape, device, options, plan.get("kind", "float8"), sizes, arguments)
    for line in work:
        yield common | line


def train(
    shape: dict[str, Any], device: Any, options: Any, kind: str, sizes: tuple[int, ...], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Training steps at each size."""
    import functools

    import torch

    from charloom.engine import memory
    from charloom.engine.engine import Engine
    from charloom.train import optim
    from charloom.train.loop import clip
    from charloom.train.records import Numbers
    from charloom.train.settings import Optimisation
    from charloom.train.step import loss_of

    top = ceilings(device)
    torch._C._cuda_clearCublasWorkspaces()
    began = time.perf_counter()
    model = build(shape, device, kind)
    # Via main memory, as if read from a file: quantizing on the GPU would fragment its memory.
    model.to("cpu")
    torch.cuda.empty_cache()
    model.to(memory.load_device(options, device))
    torch.cuda.reset_peak_memory_stats()
    loading = time.perf_counter() - began
    began = time.perf_counter()
    adapter = lora(model)
    model.train()
    settings = Optimisation(optimizer=optimizer_name(), lr=1e-4)
    parameters = list(adapter.parameters.values())
    optimizer = None

    def reserve() -> int:
        made = optim.allocated_bytes(optimizer) if optimizer else 0
        return max(0, optim.state_bytes(settings, parameters) - made)

    loss = functools.partial(_loss, loss_of, adapter, settings)
    tokens = (max(sizes) // 16) ** 2 + CAPTION
    said: list[str] = []
    engine = Engine(model, adapter, loss, device, options, reserve=reserve, largest=tokens, log=said.append)
    optimizer = optim.build(settings, adapter.parameters, device)
    engine.zero_grad()
    for size in sizes:
        inputs = [batch(model, size, device, seed) for seed in range(4)]

        def step(i: int, inputs: list = inputs) -> Numbers:
            reported = engine.accumulate(inputs[i % len(inputs)])
            numbers = Numbers(torch.cat([reported, clip(parameters, 1.0).view(1)]))
            optimizer.step()
            engine.zero_grad()
            return numbers

        first = time.perf_counter()
        last, values, marks = step(0), [], []
        torch.cuda.synchronize()
        first = time.perf_counter() - first
        cold = time.perf_counter() - began
        for i in range(UNTIMED + arguments.steps):  # as in training: read a step's losses one step late
            now = step(i)
            marks.append(torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True)))
            values.append(last.wait()[0])
            last = now
        torch.cuda.synchronize()
        clock = [a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(marks[UNTIMED - 1 :])]
        if arguments.profile:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                step(0)
                torch.cuda.synchronize()
            table = profile.key_averages().table(sort_by="cuda_time_total", row_limit=60, max_name_column_width=90)
            print(table, file=sys.stderr, flush=True)
        median = statistics.median(clock)
        engine.fitting.note_peak()
        flop = tflop(model, size)
        rate = top.get("float8" if kind == "float8" else "bf16", top["bf16"])
        floor = flop["linear"] / rate + flop["attention"] / top["bf16"]
        yield {
            "size": size,
            "weights": kind,
            "optimizer": settings.optimizer,
            "seconds": round(median, 4),
            "p90": round(sorted(clock)[int(0.9 * len(clock))], 4),
            "peak_gib": round(engine.fitting.peak / GIB, 3),
            "reserved_gib": round(engine.fitting.reserved / GIB, 2),
            "trial_gib": round(engine.fitting.trial / GIB, 2),
            "tflops": round(sum(flop.values()) / median, 1),
            "ceilings": top,
            "share_of_floor": round(floor / median, 3),
            "first_step_s": round(first, 1),
            "cold_start_s": round(cold, 1),
            "compiled": compilations(),
            "loading_s": round(loading, 1),
            "losses_finite": all(value == value and abs(value) < 1e4 for value in values),
            "said": said[:],
        }
        said.clear()


def compilations() -> dict[str, int]:
    """Hits and misses of the compiler's cache."""
    from torch._dynamo.utils import counters

    found = counters["aot_autograd"]
    return {name: found[f"autograd_cache_{event}"] for name, event in CACHE_EVENTS.items()}


def optimizer_name() -> str:
    """The recipe's default where it is installed."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return "adamw"
    return "adamw8bit"


def _loss(loss_of: Callable, adapter: Any, settings: Any, predict: Callable, inputs: Any) -> Any:
    return loss_of(predict, adapter, inputs, settings)


def sample(shape: dict[str, Any], device: Any, options: Any) -> Iterator[dict[str, Any]]:
    """Images of 1024 x 1024 in 8 steps: transformer, autoencoder, and both together."""
    import torch
    from diffusers import AutoencoderKL

    from charloom.engine.previews import predict_for, quick_decoder
    from charloom.zimage import forward, sampler
    from charloom.zimage import vae as codec

    size = 1024 if shape is FULL else 256
    model = forward.prepare(build(shape, device, "bf16"))
    torch.manual_seed(0)
    vae = quick_decoder(AutoencoderKL(**VAE).eval().requires_grad_(False), device)
    generator = torch.Generator().manual_seed(0)
    caps = [torch.randn(CAPTION - 7, model.config.cap_feat_dim, generator=generator) for _ in range(8)]
    predict = predict_for(model, options, device)

    def draw(count: int) -> float:
        began = time.perf_counter()
        sampler.sample(
            model, vae, caps[:count], width=size, height=size, seeds=list(range(count)), steps=8, predict=predict,
            batch_size=count,
        )  # fmt: skip
        torch.cuda.synchronize()
        return time.perf_counter() - began

    for count in (1, 4):
        first = draw(count)
        clock = [draw(count) / count for _ in range(4)]
        latents = torch.randn(1, 16, size // 8, size // 8, device=device)
        decoding = median_seconds(lambda latents=latents: codec.decode(vae, latents), 3)
        yield {
            "size": size,
            "weights": "bf16",
            "batch": count,
            "seconds_per_image": round(statistics.median(clock), 4),
            "decoding_s": round(decoding, 4),
            "first_s": round(first, 1),
            "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        }


def gradients(shape: dict[str, Any], device: Any, batches: int = 20) -> Iterator[dict[str, Any]]:
    """LoRA gradients and losses of the engine against plain uncompiled bf16, over 20 batches."""
    import functools

    import torch

    from charloom.engine.engine import Engine
    from charloom.engine.options import EngineOptions
    from charloom.train.settings import Optimisation
    from charloom.train.step import loss_of

    settings = Optimisation()
    size = 512 if shape is FULL else 128

    def collect(kind: str, options: Any) -> tuple[list[float], list[list[Any]]]:
        model = build(shape, device, kind)
        adapter = lora(model)
        model.train()
        engine = Engine(model, adapter, functools.partial(_loss, loss_of, adapter, settings), device, options)
        losses, found = [], []
        for seed in range(batches):
            engine.zero_grad()
            losses.append(engine.accumulate(batch(model, size, device, seed)).item())
            found.append([p.grad.detach().to(torch.bfloat16).cpu() for p in adapter.parameters.values()])
        engine.remove()
        del engine, model, adapter  # reference cycles: freed only by a collection, before the next measurement
        gc.collect()
        torch.cuda.empty_cache()
        return losses, found

    plain = EngineOptions(compile=False, graphs=False, cudnn_attention=False, fuse=False, deterministic=False)
    losses, wanted = collect("bf16", plain)
    for kind, options in (("float8", EngineOptions(memory=24.0)), ("bf16", EngineOptions(memory=40.0))):
        got_losses, got = collect(kind, options)
        cosines = [
            statistics.median(
                torch.nn.functional.cosine_similarity(one[i].flatten().float(), two[i].flatten().float(), dim=0).item()
                for one, two in zip(got, wanted, strict=True)
            )
            for i in range(len(wanted[0]))
        ]
        difference = [abs(a - b) / b for a, b in zip(got_losses, losses, strict=True)]
        yield {
            "size": size,
            "weights": kind,
            "batches": batches,
            "cosine_median": round(statistics.median(cosines), 5),
            "cosine_worst": round(min(cosines), 5),
            "tensors": len(cosines),
            "loss_difference_mean": round(statistics.mean(difference), 5),
            "loss_difference_worst": round(max(difference), 5),
        }


if __name__ == "__main__":
    main()
