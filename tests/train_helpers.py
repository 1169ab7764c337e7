"""A tiny run: recipe, job, a trainer with a store of its own, and the bytes it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import build_transformer

from charloom.core.store import Store
from charloom.core.tensors import read_safetensors
from charloom.train.job import TrainJob
from charloom.train.keys import checkpoint_key, manifest_digest, run_key
from charloom.train.loop import train
from charloom.train.settings import TrainSettings


def load(dtype, device):
    model = build_transformer()
    return model if dtype == torch.float32 else model.to(device, dtype)


def recipe(network=None, train=None, save=None, data=None):
    return {
        "network": {"rank": 4, "alpha": 4, **(network or {})},
        "train": {"steps": 40, "batch_size": 2, "optimizer": "adamw", "lr": 1e-2, **(train or {})},
        "save": {"every": 10, "dtype": "fp32", **(save or {})},
        "data": {"resolutions": [32, 48], **(data or {})},
    }


def job_of(manifest, recipe_, log_dir, **more) -> TrainJob:
    settings = TrainSettings.from_recipe(recipe_)
    key = run_key(settings.slice(), manifest_digest(json.loads(manifest.read_text())), "tiny")
    return TrainJob(settings, key, manifest, load, log_dir, title="x", trigger="l3yla", **more)


def quiet(_progress):
    pass


@pytest.fixture
def trainer(make_dataset, tmp_path):
    """``run(recipe, until)`` trains in a store of its own and gives the checkpoint's tensors."""
    manifest = make_dataset()
    count = iter(range(100))

    def run(recipe_, until=4, store=None, **more):
        store = store or Store(tmp_path / f"store{next(count)}")
        job = job_of(manifest, recipe_, tmp_path / "log", **more)
        train(job, store, until, quiet)
        path = store.path("checkpoint", checkpoint_key(job.run_key, until), ".safetensors")
        return read_safetensors(path)[0]

    run.manifest = manifest
    return run


def checkpoint_bytes(store, job, steps):
    return {s: store.path("checkpoint", checkpoint_key(job.run_key, s), ".safetensors").read_bytes() for s in steps}


def state_bytes(store, job, step):
    return store.path("state", checkpoint_key(job.run_key, step), ".safetensors").read_bytes()


def held_out(manifest: Path) -> Path:
    """A manifest beside ``manifest`` whose items are held out."""
    path = manifest.with_name("held-out.json")
    path.write_text(json.dumps({"items": [], "holdout": json.loads(manifest.read_text())["items"]}))
    return path


def near(a, b, tolerance=1e-3):
    return all(torch.allclose(a[k], b[k], rtol=tolerance, atol=tolerance) for k in a)


def assert_near(a, b):
    assert near(a, b)


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def skip_without(knob):
    if "lion" in str(knob):
        pytest.importorskip("lion_pytorch")
    if "prodigy" in str(knob):
        pytest.importorskip("prodigyopt")
