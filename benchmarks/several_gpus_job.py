"""One job of ``several_gpus.py``: a training, or one exchange of gradients, on the GPUs that it leases.

python benchmarks/several_gpus_job.py JSON
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_model import FULL, RANK, SMALL, build

from charloom.core.errors import Stopped
from charloom.train import meeting
from charloom.workflow import devices, launch


def work(asked: dict[str, Any]) -> None:
    """A job: in this process, or in one per GPU."""
    if meeting.told() is not None or asked["gpus"] == 1:
        meeting.run(lambda: alone(asked))
    places = devices.lease(asked["device"], asked["gpus"])
    os.environ[devices.LEASED] = "1"
    launch.run(launch.again(), asked["gpus"], places, lambda line: print(line, flush=True))


def alone(asked: dict[str, Any]) -> None:
    """One rank, or all of a run."""
    from charloom.train import ranks
    from charloom.workflow import jobs

    device = jobs.torch_device(asked["device"], asked["threads"])
    together = ranks.joined(device)
    if asked["mode"] == "exchange":
        result = exchange(together, device, asked["small"])
    else:
        result = train(together, device, asked)
    if together.first:
        Path(asked["folder"], "result.json").write_text(json.dumps(result))


def exchange(together: Any, device: Any, small: bool) -> dict[str, Any]:
    """Milliseconds of one round, with gradients of the real sizes."""
    import torch

    dim, blocks, narrow = (256, 6, 256) if small else (3840, 30, 256)
    wide = int(dim / 3 * 8)
    shapes = [(dim, dim)] * 4 + [(dim, wide)] * 2 + [(wide, dim), (narrow, 4 * dim)]
    sizes = [RANK * side for pair in shapes for side in pair] * blocks
    parameters = [torch.nn.Parameter(torch.zeros(size, device=device)) for size in sizes]
    sums, times = together.sums(parameters), []
    loss = torch.ones(1, device=device)
    for _ in range(8):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        if device.type == "cuda":
            torch.cuda.synchronize()
        together.gathered(0)
        began = time.perf_counter()
        sums.add(loss, together.count)
        sums.finish(together.count, False)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    right = bool((parameters[0].grad == together.count).all())
    count = sum(sizes)
    seconds = sorted(times[2:])[len(times[2:]) // 2]
    received = 4 * count * (together.count - 1)
    return {
        "ms": round(1000 * seconds, 2),
        "million_numbers": round(count / 1e6, 1),
        "received_gb_per_s": round(received / seconds / 1e9, 1),
        "right": right,
    }


def train(together: Any, device: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Train until somebody stops it, or for some steps."""
    from charloom.core.store import Store
    from charloom.core.tensors import read_safetensors, tensor_bytes
    from charloom.engine.options import EngineOptions
    from charloom.train.job import TrainJob
    from charloom.train.keys import checkpoint_key
    from charloom.train.loop import train as run
    from charloom.train.settings import TrainSettings

    shape, steps = SMALL if asked["small"] else FULL, asked.get("steps", 100_000)
    settings = TrainSettings.from_recipe(
        {
            "network": {"rank": RANK, "alpha": RANK},
            "train": {
                "steps": steps,
                "batch_size": asked["batch"],
                "gradient_accumulation": asked["accumulation"],
                "optimizer": optimizer(device),
                "lr": 1e-4,
            },
            "save": {"every": steps},
            "data": {"resolutions": [asked["size"]], "caption_dropout": 0.0},
        }
    )

    def load(dtype: Any, where: Any) -> Any:
        if device.type == "cpu":
            return build(shape, where, "none").to(dtype)
        return build(shape, where, "float8")

    options = EngineOptions(**asked["engine"], **({"deterministic": True} if asked.get("deterministic") else {}))
    own = Path(asked["folder"])
    job = TrainJob(
        settings=settings,
        run_key="0" * 64,
        manifest=Path(asked["data"], "dataset.json"),
        load_model=load,
        log_dir=own if together.first else meeting.unread_folder(),
        title="benchmark",
        trigger="x",
        device=str(device),
        engine=options,
        ranks=together,
    )
    store = Store(own / "store")
    with contextlib.suppress(Stopped):
        run(job, store, steps, on_progress=print, log=print)
    made = store.path("checkpoint", checkpoint_key(job.run_key, steps), ".safetensors")
    if not made.is_file() or not together.first:
        return {}
    tensors = read_safetensors(made)[0]
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(name.encode() + tensor_bytes(tensors[name]))
    shutil.rmtree(store.root)
    return {"sha256": content.hexdigest()}


def optimizer(device: Any) -> str:
    """The recipe's default where it runs."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return "adamw"
    return "adamw8bit" if device.type == "cuda" else "adamw"


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
