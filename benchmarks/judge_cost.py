"""Measures what each instrument of ``judge: auto`` costs per picture on this machine.

    python benchmarks/judge_cost.py [--threads 2] [--output benchmarks/results/judge_cost.json]
    python benchmarks/judge_cost.py --hub --device cuda --output benchmarks/results/judge_cost_hub.json

Without ``--hub``, the instruments that come in packages; with it, those of the Hub, with random weights in the sizes of
the models that ``config/bases/z-image-turbo.yaml`` names. Pictures have 512 pixels, as for judging. Measures wall time
and CPU time of this process without loading.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

PICTURES = 16
PHRASES = [f"a woman in a red coat, number {n}" for n in range(7)]
"""As many as there are attributes in a prompt: tier, view, pose, expression, outfit, accessory, background."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hub", action="store_true", help="models of the Hub instead of those in packages")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    import torch
    import transformers

    from charloom.core.store import Store
    from charloom.judge import locking

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        models = of_the_hub(Path(folder), arguments.device) if arguments.hub else {}
        lock = locking.lock({"name": "cost", "models": models}, Store(folder))
        if arguments.hub:
            lock["instruments"] = {name: lock["instruments"][name] for name in models}
        subjects = noise() if arguments.hub else photographs()
        lines = measure(lock, subjects, arguments.device)
    made = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": arguments.threads,
        "lines": lines,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def measure(lock: dict[str, Any], subjects: dict[str, list[np.ndarray]], device: str) -> list[dict[str, Any]]:
    """Seconds per picture of every instrument of ``lock`` on every subject."""
    from charloom.judge.backend import Picture
    from charloom.judge.memory import Memory
    from charloom.judge.panel import Panel

    lines = []
    for name, entry in lock["instruments"].items():
        for what, turned in subjects.items():
            panel = Panel(lock, Memory(), device)
            pictures = [Picture(str(i), "", one) for i, one in enumerate(turned)]
            instrument = panel.opened(name)
            look: Callable[[list[Picture]], object] = instrument.look
            if name == "vlm":
                look = lambda given, ask=instrument.answers: [ask(one, PHRASES) for one in given]  # noqa: E731
            look(pictures[:2])
            wall, cpu = time.perf_counter(), time.process_time()
            look(pictures)
            took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            took = {key: round(value / len(pictures), 4) for key, value in took.items()}
            lines.append({"instrument": name, "picture": what, **took, **entry["versions"]})
            print(json.dumps(lines[-1]), flush=True)
    return lines


def photographs() -> dict[str, list[np.ndarray]]:
    """A portrait that comes with scikit-image and a picture without a face, rotated a little each time."""
    from PIL import Image
    from skimage import data

    subjects = {"with a face": data.astronaut(), "without": data.coffee()[:400, :512]}
    return {
        what: [np.asarray(Image.fromarray(pixels).rotate(angle)) for angle in range(PICTURES)]
        for what, pixels in subjects.items()
    }


def noise() -> dict[str, list[np.ndarray]]:
    """Pictures for networks, whose cost does not depend on what they see."""
    random = np.random.default_rng(0)
    return {"noise": [random.integers(0, 256, (512, 512, 3), np.uint8) for _ in range(PICTURES)]}


def of_the_hub(folder: Path, device: str) -> dict[str, dict[str, str]]:
    """``judge_models`` in ``folder``: SigLIP 2 base and DINOv2 base at 224 pixels, and LLaVA's classes with a tower of
    CLIP-L's size and a language model of the size of Qwen3-VL-2B's, in bf16."""
    import judge_models
    import torch

    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    two_billion = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16}
    two_billion |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            judge_models.siglip(folder / "siglip", 224, words=256000, length=64, intermediate_size=3072, **base)
            judge_models.dinov2(folder / "dinov2", 224, mlp_ratio=4, **base)
            judge_models.vision_language(folder / "vlm", side=336, tower=large, language=two_billion)
    finally:
        torch.set_default_dtype(torch.float32)
    return {name: {"path": str(folder / name)} for name in ("siglip", "dinov2", "vlm")}


if __name__ == "__main__":
    main()
