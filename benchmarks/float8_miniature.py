"""Does a LoRA that was trained on float8 weights draw the character as well as one trained on bf16?

    snakemake --cores 2 results/leyla/final.safetensors        # makes the data set that this trains on
    python benchmarks/float8_miniature.py results/leyla --steps 200 --seeds 42 43

Trains the miniature in bf16, and in float8 as the float8 units of a GPU compute it (weights, inputs and gradients
rounded; emulated, so that it runs anywhere), with the same seeds, and has the probe judge the same sample prompts.
Prints one JSON line per run, then the difference of the means and the spread between seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from charloom.config.project import load as load_config  # noqa: E402
from charloom.core.store import Store  # noqa: E402
from charloom.core.tensors import read_safetensors  # noqa: E402
from charloom.judge import backend  # noqa: E402
from charloom.kernels import quantize  # noqa: E402
from charloom.lora.adapter import load_into  # noqa: E402
from charloom.train.job import TrainJob  # noqa: E402
from charloom.train.keys import CHECKPOINT, checkpoint_key  # noqa: E402
from charloom.train.loop import train  # noqa: E402
from charloom.workflow import prepared, training  # noqa: E402
from charloom.zimage import sampler  # noqa: E402
from charloom.zimage import weights as base  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results folder of a character that was made with the miniature")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = arguments.results.resolve()
    project = results.parents[1]
    os.chdir(project)  # paths in the data set's manifest start there
    judge = judge_of(project, results)
    found: dict[str, list[float]] = {}
    for kind in ("bf16", "float8"):
        for seed in arguments.seeds:
            values = judge(trained(project, results, kind, seed, arguments.steps))
            found.setdefault(kind, []).append(values["identity_relative"])
            print(
                json.dumps(
                    {
                        "benchmark": "float8_miniature",
                        "weights": kind,
                        "seed": seed,
                        "steps": arguments.steps,
                        **values,
                        "torch": torch.__version__,
                        "processor": platform.machine(),
                    }
                ),
                flush=True,
            )
    means = {kind: statistics.mean(values) for kind, values in found.items()}
    spread = max(max(values) - min(values) for values in found.values())
    print(
        json.dumps(
            {
                "benchmark": "float8_miniature",
                "identity float8 - bf16": round(means["float8"] - means["bf16"], 4),
                "spread between seeds": round(spread, 4),
            }
        )
    )


def trained(project: Path, results: Path, kind: str, seed: int, steps: int) -> Path:
    """A LoRA of the character after ``steps`` steps."""
    character = load_config(project, overrides={}).characters[results.name]
    lock = json.loads(next((project / "work/bases").glob("*.lock.json")).read_text(encoding="utf-8"))
    weights = next((project / "work/bases").glob("*-none.safetensors"))
    recipe = character.recipe | {"train": character.recipe["train"] | {"steps": steps, "seed": seed, "dtype": "bf16"}}
    wanted = {key: recipe[key] for key in ("network", "train")} | {"save": {"dtype": "bf16"}}
    wanted["data"] = {k: v for k, v in recipe["data"].items() if k in ("resolutions", "caption_dropout")}
    settings = training.settings_of({"recipe": wanted}, every=steps, last=steps)
    settings = replace(settings, train=replace(settings.train, steps=steps))

    def load_model(dtype: torch.dtype, device: torch.device) -> Any:
        model = prepared.load(lock, weights, dtype, device)
        if kind == "float8":
            quantize.quantize(model, "float8")
            quantize.set_mode(model, "emulate")
        return model

    folder = Path(tempfile.mkdtemp())
    job = TrainJob(
        settings=settings,
        run_key=f"{kind}-{seed}",
        manifest=results / "dataset.json",
        load_model=load_model,
        log_dir=folder / "log",
        title=results.name,
        trigger=character.trigger,
        device="cpu",
    )
    store = Store(folder / "store")
    train(job, store, steps, lambda progress: print(f"  {kind} {seed}: {progress}", file=sys.stderr, flush=True))
    return store.path(CHECKPOINT, checkpoint_key(job.run_key, steps), ".safetensors")


def judge_of(project: Path, results: Path) -> Callable[[Path], dict[str, float]]:
    """A function from a LoRA to the mean identity and obedience of the character's sample prompts."""
    character = load_config(project, overrides={}).characters[results.name]
    folder = ROOT / "resources/bases/paperdoll"
    judge = backend.open_backend("paperdoll", folder / "probe.safetensors")
    items = json.loads((results / "dataset.json").read_text(encoding="utf-8"))["items"]
    levels = judge.study(
        [backend.load_picture(results / "dataset" / f"{i['name']}.png", i["caption"], name=i["name"]) for i in items]
    )
    model, vae = base.load_transformer(folder), base.load_vae(folder)
    prompts = character.sample_prompts
    embeds = [read_safetensors(results / f"embeddings/_prompt-{p.name}.safetensors")[0]["embeds"] for p in prompts]
    seeds = [prompt.seed for prompt in prompts]

    def judged(lora: Path) -> dict[str, float]:
        with load_into(model, lora, 1.0), tempfile.TemporaryDirectory() as name:
            images = sampler.sample(model, vae, embeds, width=256, height=256, seeds=seeds)
            pictures = []
            for image, prompt in zip(images, prompts, strict=True):
                path = Path(name) / f"{prompt.name}.png"
                Image.fromarray(image).save(path)
                pictures.append(backend.load_picture(path, prompt.text, name=prompt.name, seed=prompt.seed))
            rows = backend.score(judge, levels, results.name, 0, pictures)["rows"]
        return {
            metric: round(float(np.mean([row["value"] for row in rows if row["metric"] == metric])), 4)
            for metric in ("identity_relative", "obedience")
        }

    return judged


if __name__ == "__main__":
    main()
