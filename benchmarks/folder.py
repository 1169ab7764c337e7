"""How long a folder of many pictures takes to be set up, checked, planned, and made into a data set.

    python benchmarks/folder.py 100 1000 10000 --output benchmarks/results/folder.json
    python benchmarks/folder.py --crop 30 --output benchmarks/results/crop.json
    python benchmarks/folder.py --set 1000 --output benchmarks/results/set.json

Pictures of 128 x 144 pixels with a caption each, in seven folders, in a temporary project with an empty base; with
``--crop`` pictures of 2048 x 2048 as shots of a plan, from which the rules cut 150 pixels at the right and at the
bottom, on two cores; with ``--set`` the small ones as an extra data set. CPU time (user and system, children included)
is given beside wall time, because other programs on the machine affect it less.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BASE = """\
path: resources/bases/mini
adapters: {}
recipe: {training_adapter: none, data: {resolutions: [128]}, quantization: {transformer: none, text_encoder: none}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[100, 1000, 10_000], help="numbers of pictures")
    parser.add_argument("--make", type=int, default=1000, help="largest folder that is made into a data set, too")
    parser.add_argument("--crop", type=int, default=0, help="number of large pictures to crop instead (30)")
    parser.add_argument("--set", type=int, default=0, help="number of pictures of an extra set instead (1000)")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    measured: list[dict[str, Any]] = []
    for count in [] if arguments.crop or arguments.set else arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            project(Path(folder), count)
            measured.append({"pictures": count, **measure(Path(folder), make=count <= arguments.make)})
        print(json.dumps(measured[-1]), flush=True)
    for _ in range(3 if arguments.crop else 0):
        with tempfile.TemporaryDirectory() as folder:
            large(Path(folder), arguments.crop)
            targets = [f"results/mara/dataset/{number:03d}.png" for number in range(arguments.crop)]
            measured.append({"pictures": arguments.crop, "load": os.getloadavg()[0], **made(Path(folder), targets)})
        print(json.dumps(measured[-1]), flush=True)
    if arguments.set:
        with tempfile.TemporaryDirectory() as folder:
            names = extra(Path(folder), arguments.set)
            targets = [f"results/mara/dataset/{name}{ending}" for name in names for ending in (".png", ".txt")]
            before = {"pictures": arguments.set, "load": os.getloadavg()[0]}
            measured.append({**before, **made(Path(folder), targets)})
        print(json.dumps(measured[-1]), flush=True)
    if arguments.output:
        record = {"machine": machine(), "date": datetime.date.today().isoformat(), "measured": measured}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


def project(folder: Path, count: int) -> None:
    """A project without characters, and ``count`` captioned pictures in ``pictures``."""
    for part in ("config/characters", "config/bases", "resources/bases/mini"):
        (folder / part).mkdir(parents=True)
    (folder / "config/config.yaml").write_text("base: mini\n")
    (folder / "config/bases/mini.yaml").write_text(BASE)
    base = folder / "resources/bases/mini"
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (base / part).mkdir()
        (base / part / "config.json").write_text("{}")
    (base / "model_index.json").write_text("{}")
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"pictures/day {index % 7}/Mara {index:05d}.{'jpg' if index % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(generator.integers(0, 256, (24, 26, 3), dtype=np.uint8))
        small.resize((128, 144), Image.Resampling.NEAREST).save(path)
        path.with_suffix(".txt").write_text(f"a full body photo of a woman in place {index}, wearing hat {index * 7}")


def large(folder: Path, count: int) -> None:
    """A project with a character of ``count`` shots, a picture of 2048 x 2048 for each: smooth colours with noise."""
    project(folder, 0)
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((2048, 2048), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (smooth + generator.integers(-6, 7, smooth.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"pictures/{number:03d}.png", compress_level=1)
    shot = "{{name: '{0:03d}', tier: medium, view: frontal view, outfit: a coat {0}, background: a wall}}"
    shots = "".join(f"  - {shot.format(number)}\n" for number in range(count))
    (folder / "config/characters/mara.yaml").write_text(
        f"name: Mara\ntrigger: m4ra\nclass: woman\nimages: {{source: folder, path: pictures, count: {count}}}\n"
        f"crop: {{right: 150, bottom: 150}}\nshots:\n{shots}"
    )


def extra(folder: Path, count: int) -> list[str]:
    """A project whose character has one picture, and an extra data set of ``count``; returns the images of the set."""
    project(folder, count)
    (folder / "own").mkdir()
    (folder / "set").mkdir()
    for path in sorted((folder / "pictures").rglob("*.*")):
        path.rename(folder / "set" / path.name.replace(" ", "-").lower())
    next((folder / "set").glob("*.png")).rename(folder / "own/one.png")
    (folder / "config/characters/mara.yaml").write_text(
        "trigger: m4ra\nimages: {source: folder, path: own}\n"
        "datasets: [{name: more, path: set, regularization: true, default_caption: a woman}]\n"
    )
    return [f"more/{path.stem}" for path in sorted((folder / "set").iterdir()) if path.suffix != ".txt"]


def made(folder: Path, targets: list[str]) -> dict[str, Any]:
    """How long the rules take for these files, in a project where none is made yet."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2", "--quiet", "all"]
    return timed([*command, "--", *targets], folder)


def measure(folder: Path, make: bool) -> dict[str, Any]:
    """Wall and CPU seconds and the largest resident set (MiB) of each command."""
    charloom = [sys.executable, "-m", "charloom.cli.main"]
    snakemake = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile")]
    commands = {
        "new": [*charloom, "new", "mara", "--images", "pictures"],
        "lint": [*charloom, "lint", "mara"],
        "lint again": [*charloom, "lint", "mara"],
        "plan": [*snakemake, "-n", "--cores", "1", "results/mara/dataset.json"],
    }
    if make:
        commands["make and check"] = [*snakemake, "--cores", "1", "--quiet", "all", "--", "results/mara/lint.json"]
    return {name: timed(command, folder) for name, command in commands.items()}


def timed(command: list[str], folder: Path) -> dict[str, float]:
    """Wall and CPU time of a command, in seconds, and its peak memory."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = done.communicate()
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, output.decode()[-3000:]
    cpu = sum(getattr(after, part) - getattr(before, part) for part in ("ru_utime", "ru_stime"))
    return {"wall": round(wall, 1), "cpu": round(cpu, 1), "peak_mib_so_far": round(after.ru_maxrss / 1024)}


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("snakemake", "pillow", "numpy")},
    }


if __name__ == "__main__":
    main()
