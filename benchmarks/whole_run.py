"""Times a whole run at full size on one GPU, stage by stage.

    python benchmarks/whole_run.py --model FOLDER --work EMPTY_FOLDER [--steps 1000 --every 250 --profile gpu-16gb]

From an empty folder to ``final.safetensors`` and the report: 30 pictures of 1898x1898, the default recipe, ten
previews of 1024x1024 per checkpoint. FOLDER is Z-Image-Turbo in the diffusers layout, real or from ``full_model.py``.
The guide's run (3,000 steps, a checkpoint every 250, 120 previews) is estimated from the parts, and the result says so.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHARACTER = "leyla"
LARGE = 2048
"""Side of the pictures in pixels, with the 150 that the crop takes away."""
PREVIEWS = 10
"""Pictures per checkpoint; a strength has fewer."""
GUIDE = {"steps": 3000, "checkpoints": 12, "previews": 120}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with the base")
    parser.add_argument("--work", type=Path, required=True, help="folder to run in; must be empty or missing")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--profile", default="gpu-16gb")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--recipe", default="{}", help="further overrides of the recipe, YAML")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "whole_run.json")
    arguments = parser.parse_args()
    work = arguments.work
    prepare(work, arguments.model.resolve(), arguments.steps, arguments.every, yaml.safe_load(arguments.recipe))
    started = time.time()
    status = run(work, arguments.profile, arguments.cores, ("final.safetensors", "report.html"))
    wall = time.time() - started
    if status:
        sys.exit(status)
    result = {
        "benchmark": "whole_run",
        "date": datetime.date.today().isoformat(),
        **machine(),
        "profile": arguments.profile,
        "steps": arguments.steps,
        "save_every": arguments.every,
        "recipe": arguments.recipe,
        "wall_s": round(wall, 1),
        "jobs": jobs(work),
        **training(work, started),
    }
    result["guide_run_reckoned_s"] = reckoned(result)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(work: Path, profile: str, cores: int, made: Sequence[str]) -> int:
    """Make files of the character's results in the workflow folder ``work``; returns Snakemake's exit status."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
    command += ["--profile", str(ROOT / "profiles" / profile), "--cores", str(cores)]
    command += [f"results/{CHARACTER}/{name}" for name in made]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(command, cwd=work, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}).returncode


def prepare(work: Path, model: Path, steps: int, every: int, recipe: dict[str, Any]) -> None:
    """A workflow folder with the character, its pictures, and the base at ``model``."""
    from charloom.config.project import load
    from charloom.dataset.sources import paperdoll
    from charloom.paperdoll import attributes, draw

    shutil.copytree(ROOT / "config", work / "config")
    base_file = work / "config" / "bases" / "z-image-turbo.yaml"
    base = {key: value for key, value in yaml.safe_load(base_file.read_text()).items() if key in ("judge", "run_ahead")}
    base |= {"path": str(model), "adapters": {"v1": str(model / "training_adapter.safetensors")}}
    base_file.write_text(yaml.safe_dump(base))
    for other in (work / "config" / "characters").glob("*.yaml"):
        if other.stem != CHARACTER:
            other.unlink()
    file = work / "config" / "characters" / f"{CHARACTER}.yaml"
    character = yaml.safe_load(file.read_text())
    pictures = work / "pictures"
    pictures.mkdir()
    drawn = load(ROOT).character(CHARACTER)
    for shot in drawn.shots:
        settings = paperdoll.settings(drawn, shot)
        identity, scene = attributes.Identity(**settings["identity"]), attributes.Scene(**settings["scene"])
        picture = draw.draw(identity, scene, size=LARGE // 4, seed=settings["seed"]).resize((LARGE, LARGE))
        picture.save(pictures / f"{shot.name}.png", compress_level=1)
    picture.save(pictures / "reference.png", compress_level=1)
    character["images"] = {"source": "folder", "path": str(pictures)}
    own = {"train": {"steps": steps}, "save": {"every": every}, "sample": {"every": every}}
    character["recipe"] = {**character.get("recipe", {}), **own, **recipe}
    file.write_text(yaml.safe_dump(character, sort_keys=False))


def jobs(work: Path) -> dict[str, dict[str, float]]:
    """Number and seconds of the jobs of each rule, from Snakemake's own benchmark files."""
    found: dict[str, list[float]] = defaultdict(list)
    for path in work.rglob("benchmarks/**/*.tsv"):
        rule = path.parent.name if path.parent.name != "benchmarks" else path.stem
        with open(path, newline="") as file:
            found[rule] += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
    return {rule: {"jobs": len(all_), "seconds": round(sum(all_), 1)} for rule, all_ in sorted(found.items())}


def training(work: Path, started: float) -> dict[str, Any]:
    """Times from the trainer's log: start, first step, seconds per step between checkpoints, and per checkpoint."""
    there = (work / "results" / CHARACTER / "logs" / "train_segment").glob("*.log")
    # Not those of an earlier run in the same folder.
    logs = sorted((p for p in there if p.stat().st_mtime >= started), key=lambda p: p.stat().st_size)
    if not logs:
        sys.exit(f"{work}: nothing was trained, it was there already; name an empty folder or delete it")
    text = logs[-1].read_text()
    rows = [(float(m[1]), m[2]) for m in re.finditer(r"^ *([\d.]+) s  (.*)$", text, re.MULTILINE)]
    steps = [(at, int(m[1])) for at, line in rows if (m := re.match(r"step (\d+)/", line))]
    drawn = [
        (at, int(m[1]), int(m[2]), float(m[3]))
        for at, line in rows
        if (m := re.match(r"step (\d+): (\d+) previews? of .* in ([\d.]+) s", line))
    ]
    created = min(path.stat().st_mtime for path in logs) - rows[-1][0]
    return {
        "before_training_s": round(created - started, 1),
        "trainer_log": [f"{at:8.1f} s  {line}" for at, line in rows],
        "first_progress_line_s": steps[0][0] if steps else None,
        "previews": [{"at_s": at, "step": step, "count": n, "seconds": seconds} for at, step, n, seconds in drawn],
        "trainer_s": rows[-1][0],
    }


def reckoned(result: dict[str, Any]) -> dict[str, Any]:
    """The guide's run from the parts of this one: it adds checkpoints, each with its steps and previews.

    A checkpoint counts from the end of the previous one's previews to the end of its own; the first, which prepares for
    drawing, is left out. The other jobs of a checkpoint count as if they ran one after the other.
    """
    ends = {row["step"]: row["at_s"] for row in result["previews"] if row["step"] and row["count"] == PREVIEWS}
    steps, every = sorted(ends)[1:], GUIDE["steps"] // GUIDE["checkpoints"]
    apart = [ends[step] - ends[before] for before, step in itertools.pairwise(steps)]
    if not apart or result["save_every"] != every:
        return {"how": f"not reckoned: that takes three checkpoints, one every {every} steps"}
    interval = statistics.fmean(apart)
    each = rest_per_checkpoint(result)
    more = GUIDE["checkpoints"] - result["steps"] // result["save_every"]
    return {
        "how": "wall_s + checkpoints that are missing x (interval of 250 steps with ten previews + other jobs)",
        "seconds": round(result["wall_s"] + more * (interval + each), 1),
        "interval_s": round(interval, 2),
        "jobs_per_checkpoint_s": round(each, 2),
        "outside_the_trainer_s": round(result["wall_s"] - result["trainer_s"], 1),
    }


def rest_per_checkpoint(result: dict[str, Any]) -> float:
    """Seconds that jobs other than training take per checkpoint."""
    checkpoints = result["steps"] // result["save_every"]
    rules = ("sample_checkpoint", "draw_grid", "score_checkpoint")
    return sum(result["jobs"].get(rule, {}).get("seconds", 0.0) for rule in rules) / max(1, checkpoints)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "snakemake", "diffusers", "transformers")},
    }


if __name__ == "__main__":
    main()
