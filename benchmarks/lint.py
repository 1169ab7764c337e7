"""Measures time and memory of the check of a data set: all pictures new, none new, one new.

    python benchmarks/lint.py --pictures 300 10000 --output benchmarks/results/lint.json

Makes a project with one data set of JPEGs of 1024 x 1024, each with a caption, and runs ``charloom lint`` on it as a
user would. A busy machine hardly affects ``cpu`` (user and system time), but it does affect ``seconds``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import small_project  # noqa: E402 (beside the tests)

EDGE = 1024
SCENES = 40


def pictures(folder: Path, number: int) -> None:
    """Distinct pictures with as much detail as photographs have, and a caption each."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for scene in range(SCENES):
        coarse = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((EDGE, EDGE), Image.Resampling.BICUBIC), np.int16)
        grain = generator.normal(0, 6, (EDGE, EDGE, 1))
        base = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        for index in range(scene, number, SCENES):
            moved = np.roll(base, tuple(generator.integers(0, EDGE, 2)), (0, 1))
            Image.fromarray(moved).save(folder / f"p{index:05d}.jpg", quality=88)
            (folder / f"p{index:05d}.txt").write_text(f"a photo of m4ra in place {index}, wearing coat {index % 97}")


def project(folder: Path, number: int) -> None:
    """A small project with one data set of that many pictures."""
    small_project.make(folder)
    pictures(folder / "many", number)
    small_project.edit(folder / "config/characters/mara.yaml", datasets=[{"name": "many", "path": "many"}])


def measured(folder: Path) -> dict[str, Any]:
    """One ``charloom lint``: wall time and CPU time in seconds, the largest resident set in GB, and what it found."""
    command = [sys.executable, "-c", "from charloom.cli.main import app; app()", "lint", "mara", "--json", "--no-ocr"]
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        record = json.loads(process.stdout.read())
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu": round(usage.ru_utime + usage.ru_stime, 1),
        "gigabytes": round(usage.ru_maxrss / 2**20, 2),
        "findings": len(record["findings"]),
        "looked_at": len(record["pictures"]) - record["missing"],
    }


def scale(number: int) -> dict[str, Any]:
    """The three runs for that many pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder, number)
        found = {"pictures": number, "faces": find_spec("dlib") is not None, "load": round(os.getloadavg()[0], 1)}
        found |= {"new": measured(folder), "known": measured(folder)}
        Image.new("RGB", (EDGE, EDGE), "teal").save(folder / "many/p00000.jpg")
        return {**found, "one_new": measured(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[300], help="numbers of pictures")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    import PIL

    about = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "edge": EDGE,
    }
    result = {**about, "runs": [scale(number) for number in arguments.pictures]}
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
