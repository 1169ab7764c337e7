"""On one card with one set of versions a run gives the same bytes: undisturbed, in two starts, or killed anywhere."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from tiny_models import CAPTION_WIDTH

from charloom.core.store import Store
from charloom.engine.options import EngineOptions
from charloom.kernels import quantize
from charloom.train import state as states
from charloom.train.job import TrainJob
from charloom.train.keys import checkpoint_key, manifest_digest, run_key
from charloom.train.loop import train
from charloom.train.settings import TrainSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

SIZES = {
    "four blocks": {"dim": 1280, "n_layers": 4, "n_heads": 10, "n_kv_heads": 10},
    "full size": {"dim": 3840, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30},
}
STEPS, EVERY = 24, 6


class Loader:
    """Random weights of one of :data:`SIZES`, the same in every process."""

    def __init__(self, size: str, kind: str) -> None:
        self.size, self.kind = size, kind

    def __call__(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        axes = {"axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512]}
        with torch.device("meta"):
            model = ZImageTransformer2DModel(**SIZES[self.size], **axes, cap_feat_dim=CAPTION_WIDTH).to(dtype)
        model.requires_grad_(False)
        generator = torch.Generator("cuda").manual_seed(0)
        eligible = set(quantize.eligible(model)) if self.kind != "bf16" else set()
        for name, module in list(model.named_modules()):
            for key, parameter in list(module.named_parameters(recurse=False)):
                value = torch.empty(parameter.shape, dtype=dtype, device="cuda")
                value.normal_(std=0.7 / parameter.shape[-1] ** 0.5, generator=generator)
                value = value + 1 if parameter.ndim == 1 and key == "weight" else value
                setattr(module, key, torch.nn.Parameter(value, requires_grad=False))
            if name in eligible:
                model.set_submodule(name, quantize._CLASSES[self.kind].from_linear(module))
                module.to("meta")
        return model.to(device)


@pytest.fixture
def job_of(make_dataset, tmp_path):
    def make(size: str, kind: str, memory: float, train=None) -> TrainJob:
        sides = (128, 192) if size == "four blocks" else (512, 768)
        manifest = make_dataset(captions=[5, 40, 20], sizes=[(side, side) for side in sides])
        recipe = {
            "network": {"rank": 8, "alpha": 8},
            "train": {"steps": STEPS, "batch_size": 1, "optimizer": "adamw", "lr": 1e-3, **(train or {})},
            "save": {"every": EVERY, "dtype": "fp32"},
            "data": {"resolutions": list(sides)},
        }
        settings = TrainSettings.from_recipe(recipe)
        key = run_key(settings.slice(), manifest_digest(json.loads(manifest.read_text())), size + kind)
        options = EngineOptions(memory=memory, deterministic=True)
        return TrainJob(
            settings, key, manifest, Loader(size, kind), tmp_path / "log", title="x", trigger="l3yla", engine=options
        )

    return make


def start(job: TrainJob, root: Path, until: int, seconds: float | None = None) -> bool:
    """Train in a process of its own, killed after ``seconds``; whether it got through."""
    job = replace(job, log_dir=root / "log")
    child = multiprocessing.get_context("spawn").Process(target=_train, args=(job, root, until))
    child.start()
    child.join(seconds)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def _train(job: TrainJob, root: Path, until: int) -> None:
    # Kernels of its own, so that none is the same only because another process has compiled it.
    os.environ["CHARLOOM_STORE"] = str(root / "store")
    train(
        job, Store(root / "store"), until, lambda progress: None, lambda line: print(f"{root.name}: {line}", flush=True)
    )


def files(job: TrainJob, root: Path, until: int = STEPS) -> dict[str, bytes]:
    """Every checkpoint of a run, and its last state."""
    store = Store(root / "store")
    found = {}
    for step in range(EVERY, until + 1, EVERY):
        found[f"checkpoint {step}"] = store.path(
            "checkpoint", checkpoint_key(job.run_key, step), ".safetensors"
        ).read_bytes()
    found["state"] = store.path(states.KIND, checkpoint_key(job.run_key, until), states.SUFFIX).read_bytes()
    return found


def killed(job: TrainJob, root: Path, moments: list[float]) -> None:
    """A run that is killed after each of ``moments`` seconds, and then gets through."""
    for number, seconds in enumerate(moments):
        if start(job, root, STEPS, seconds):  # too late to kill it: begin again, with the compiled kernels it left
            shutil.rmtree(root / "store")
            print(f"{root.name}: kill {number} came too late", flush=True)
    assert start(job, root, STEPS)


def check(job: TrainJob, folder: Path, runs: int, kills: int, longest: float) -> None:
    """``runs`` runs, each killed ``kills`` times, beside one undisturbed run and one in two starts."""
    moments = random.Random(f"{runs} {kills}")

    def in_two(root: Path) -> None:
        assert start(job, root, 2 * EVERY) and start(job, root, STEPS)

    roots = [folder / name for name in ("whole", "two", *(f"killed{i}" for i in range(runs)))]
    with ThreadPoolExecutor(len(roots)) as pool:
        done = [pool.submit(start, job, roots[0], STEPS), pool.submit(in_two, roots[1])]
        for root in roots[2:]:
            done.append(pool.submit(killed, job, root, [moments.uniform(0.3, 1) * longest for _ in range(kills)]))
        for one in done:
            one.result()
    wanted = files(job, roots[0])
    for root in roots[1:]:
        got = files(job, root)
        assert [name for name in wanted if got[name] != wanted[name]] == [], (root.name, parted(roots[0], root))


def parted(one: Path, other: Path) -> str | None:
    """The first lines in which the metrics of two runs differ."""
    pairs = zip(*((root / "log" / "metrics.jsonl").read_text().splitlines() for root in (one, other)), strict=False)
    return next((f"{a} {b}" for a, b in pairs if a != b), None)


@pytest.mark.parametrize("kind", ["float8", "bf16"])
def test_four_blocks_killed_sixteen_times(job_of, tmp_path, kind):
    check(job_of("four blocks", kind, 12.0), tmp_path, runs=4, kills=4 if kind == "float8" else 1, longest=40)


@pytest.mark.slow
def test_full_size_killed_four_times(job_of, tmp_path):
    check(job_of("full size", "float8", 10.0), tmp_path, runs=2, kills=2, longest=60)


@pytest.mark.parametrize("kind", ["float8", "bf16"])
def test_memory_changes_no_bit(job_of, tmp_path, kind):
    """What is recomputed, transposed, or in main memory differs; the bytes do not."""
    job = job_of("four blocks", kind, 12.0, {"preservation": {"blank": {"enabled": True}}})
    options = {
        "all": EngineOptions(memory=12.0, deterministic=True),
        "less": EngineOptions(memory=1.0 if kind == "float8" else 1.2, deterministic=True),
        "swap": EngineOptions(memory=12.0, layer_offloading=True, deterministic=True),
        "eager": EngineOptions(memory=12.0, graphs=False, deterministic=True),
    }
    jobs = {name: replace(job, engine=one) for name, one in options.items()}
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert all(pool.map(lambda name: start(jobs[name], tmp_path / name, EVERY), jobs))
    wanted = files(job, tmp_path / "all", EVERY)
    for name in jobs:
        assert files(job, tmp_path / name, EVERY) == wanted, name
