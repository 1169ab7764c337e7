"""How long ``snakemake -n`` plans for many characters, and in how much memory.

    python benchmarks/planning.py 1 10 100 --output benchmarks/results/planning.json

Each number of characters is planned by a process of its own, from nothing, in a temporary folder. The characters are
copies of one of ``config/characters/`` with triggers of their own, the pictures given by the 30 shots of a plan. CPU
time (user and system) is written beside wall time, because other programs on the machine affect it less.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[1, 10, 100], help="numbers of characters")
    parser.add_argument("--template", default="yuna", help="the character of config/characters/ that is copied")
    parser.add_argument("--repeat", type=int, default=1, help="plan each number so often, and keep the fastest")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    planned = []
    for count in arguments.counts:
        runs = [measure(count, arguments.template) for _ in range(arguments.repeat)]
        planned.append(min(runs, key=lambda run: run["cpu_seconds"]))
        print(json.dumps(planned[-1]), flush=True)
    record = {"machine": machine(), "date": datetime.date.today().isoformat(), "planned": planned}
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


def project(folder: Path, count: int, template: str) -> None:
    """A project of ``count`` characters in ``folder``."""
    for part in ("config", "resources"):
        shutil.copytree(ROOT / part, folder / part)
    characters = folder / "config" / "characters"
    text = (characters / f"{template}.yaml").read_text(encoding="utf-8")
    for path in characters.glob("*.yaml"):
        path.unlink()
    trigger = re.search(r"^trigger: *(\S+)", text, re.MULTILINE)
    assert trigger, f"{template}.yaml has no trigger"
    for index in range(count):
        own = text.replace(trigger[1], f"{trigger[1]}{index:04d}x")
        (characters / f"{template}-{index:04d}.yaml").write_text(own, encoding="utf-8")


def measure(count: int, template: str) -> dict[str, Any]:
    """Plan all files of ``count`` characters.

    Returns:
        Number of characters, jobs of each and of all, wall and CPU time (s), and the largest resident set (GiB).
    """
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(ROOT / "Snakefile"),
        "--cores",
        "2",
        "-n",
        "--quiet",
        "rules",
    ]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="charloom-planning-") as folder:
        project(Path(folder), count, template)
        with open(Path(folder, "plan.txt"), "w+", encoding="utf-8") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            plan = output.read()
    total = re.search(r"^total +(\d+)", plan, re.MULTILINE)
    if process.returncode or not total:
        sys.exit(plan[-3000:])
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "characters": count,
        "jobs": int(total[1]),
        "jobs_per_character": round((int(total[1]) - 1) / count, 1),
        "wall_seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_gib": round(used.ru_maxrss * unit / 2**30, 3),
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "snakemake": version("snakemake"),
    }


if __name__ == "__main__":
    main()
