"""How far are previews drawn with float8 weights from those in full precision, and do the scores differ?

    snakemake --cores 2 results/leyla/final.safetensors        # makes the checkpoints and embeddings
    python benchmarks/float8_previews.py results/leyla --output benchmarks/results/float8_previews.json

Draws the character's sample prompts at several checkpoints and seeds twice, by the code that draws previews: once with
the weights as they are, once in float8 as a GPU's float8 units multiply them (emulated, so that it runs anywhere).
Compares the pictures, and what the probe says of each.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from charloom.base import locks  # noqa: E402
from charloom.config.project import load as load_config  # noqa: E402
from charloom.core.layout import Results, step_of  # noqa: E402
from charloom.core.store import Store  # noqa: E402
from charloom.engine import previews as engine  # noqa: E402
from charloom.engine.options import EngineOptions  # noqa: E402
from charloom.judge import backend  # noqa: E402
from charloom.kernels import quantize  # noqa: E402
from charloom.workflow.samples import Painter, Wanted  # noqa: E402

SIZE, STEPS = 256, 8
FORMATS = (engine.BF16, engine.FLOAT8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results folder of a character that was made with the miniature")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each prompt")
    parser.add_argument("--checkpoints", type=int, default=3, help="how many, from the last one back")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    results, output = arguments.results.resolve(), arguments.output.resolve()
    project = results.parents[1]
    os.chdir(project)  # paths of the lock start there
    files = Results(results)
    character = load_config(project, overrides={}).characters[results.name]
    prompts = character.sample_prompts
    wanted = [
        Wanted(
            step=step_of(path),
            prompt=prompt.name,
            checkpoint=path,
            embedding=files.prompt_embedding(prompt.name),
            settings={
                "width": SIZE, "height": SIZE, "seed": prompt.seed + 1000 * seed, "scale": 1.0,
                "steps": STEPS, "guidance": 1.0,
            },
            key="",
        )
        for path in files.checkpoints()[-arguments.checkpoints :]
        for prompt in prompts
        for seed in range(arguments.seeds)
    ]  # fmt: skip
    drawn = {precision: draw(wanted, precision) for precision in FORMATS}
    values = scored(results, {p.name: p.text for p in prompts}, wanted, drawn)
    apart = [float(np.abs(a - b).mean()) for a, b in zip(*(map(pixels, drawn[p]) for p in FORMATS), strict=True)]
    between = [  # another seed of the same prompt, for scale
        float(np.abs(pixels(a) - pixels(b)).mean())
        for a, b, one, other in zip(drawn["bf16"], drawn["bf16"][1:], wanted, wanted[1:], strict=False)
        if (one.step, one.prompt) == (other.step, other.prompt)
    ]
    found = {
        "pictures": len(wanted),
        "mean absolute difference of 255": {
            "mean": round(statistics.mean(apart), 3),
            "median": round(statistics.median(apart), 3),
            "worst": round(max(apart), 3),
            "between two seeds of a prompt": round(statistics.mean(between), 3) if between else None,
        },
        "scores": {
            metric: {
                "full": round(statistics.mean(full), 4),
                "float8": round(statistics.mean(float8), 4),
                "mean difference by picture": round(statistics.mean(map(lambda a, b: abs(a - b), full, float8)), 4),
            }
            for metric, (full, float8) in values.items()
        },
        "character": results.name,
        "steps": sorted({one.step for one in wanted}),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
    }
    output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(output.read_text(encoding="utf-8"))


def pixels(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32)


def draw(wanted: list[Wanted], precision: str) -> list[np.ndarray]:
    """The pictures of ``wanted`` in its order, (height, width, 3) uint8."""
    lock = json.loads(next(Path("work/bases").glob("paperdoll*.lock.json")).read_text(encoding="utf-8"))
    store, device, options = Store("work/store"), torch.device("cpu"), EngineOptions()
    root, single = locks.locate(lock, "transformer", store), locks.single_file(lock, store)
    model = engine.load_transformer(root, single, device, options, precision)
    if precision == engine.FLOAT8:
        quantize.set_mode(model, "emulate")
    painter = Painter(lock, store, device, lambda line: print(line, file=sys.stderr), options, precision, model)
    done = {}
    for members, pictures in painter.paint(wanted):
        done |= {id(one): picture for one, picture in zip(members, pictures, strict=True)}
    return [done[id(one)] for one in wanted]


def scored(
    results: Path, texts: dict[str, str], wanted: list[Wanted], drawn: dict[str, list[np.ndarray]]
) -> dict[str, tuple[list[float], list[float]]]:
    """The probe's values by metric, for each picture, in full precision and in float8."""
    judge = backend.open_backend("paperdoll", ROOT / "resources/bases/paperdoll/probe.safetensors")
    items = json.loads(Results(results).manifest.read_text(encoding="utf-8"))["items"]
    judge.study([backend.load_picture(Results(results).image(i["name"]), i["caption"], name=i["name"]) for i in items])
    readings = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision, pictures in drawn.items():
            loaded = []
            for index, (one, picture) in enumerate(zip(wanted, pictures, strict=True)):
                path = Path(folder, f"{precision}-{index}.png")
                Image.fromarray(picture).save(path)
                loaded.append(backend.load_picture(path, texts[one.prompt], name=one.prompt, seed=one.settings["seed"]))
            readings[precision] = judge.measure(loaded)
    return {
        metric: tuple(
            [reading.values[metric] for reading in readings[precision] if metric in reading.values]
            for precision in FORMATS
        )
        for metric in ("identity_relative", "obedience")
    }


if __name__ == "__main__":
    main()
