"""Measures time and memory of ``snakemake -n`` for many characters.

    python benchmarks/planning.py 1 10 100 --output benchmarks/results/planning.json
    python benchmarks/planning.py 10000 --shard 1/100
    python benchmarks/planning.py --plot docs/scale.svg     # what benchmarks/results/planning.json says

Each number of characters is planned by a process of its own, from nothing, in a temporary folder. The characters are
copies of one in ``config/characters/`` with different triggers, and with the 30 shots of a plan as pictures. CPU time
(user and system) is given beside wall time, because other programs on the machine affect it less.
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
RECIPE = "recipe={train: {steps: 800}}"
"""Eight checkpoints, so that new figures compare with the old ones; the miniature's own recipe has six."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, default=[1, 10, 100], help="numbers of characters")
    parser.add_argument("--shard", help="plan only this part of them, as 1/100")
    parser.add_argument("--template", default="yuna", help="the character of config/characters/ that is copied")
    parser.add_argument("--repeat", type=int, default=1, help="plan each number so often, and keep the fastest")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--plot", type=Path, help="measure nothing; draw the committed figures to this SVG file")
    arguments = parser.parse_args()
    if arguments.plot:
        plot(json.loads((ROOT / "benchmarks/results/planning.json").read_text()), arguments.plot)
        return
    planned = []
    for count in arguments.counts:
        runs = [measure(count, arguments.template, arguments.shard) for _ in range(arguments.repeat)]
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


def measure(count: int, template: str, shard: str | None = None) -> dict[str, Any]:
    """Plan all files of ``count`` characters, or of a part of them.

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
        "--config",
        RECIPE,
        *([f"shard={shard}"] if shard else []),
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
    planned = count // int(shard.partition("/")[2]) if shard else count
    return {
        "characters": count,
        **({"shard": shard} if shard else {}),
        "jobs": int(total[1]),
        "jobs_per_character": round((int(total[1]) - 1) / planned, 1),
        "wall_seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_gib": round(used.ru_maxrss * unit / 2**30, 3),
    }


def reckoned(record: dict[str, Any], characters: int) -> tuple[float, float]:
    """CPU time (s) and memory (GiB) for so many characters, extrapolated from the two largest plans measured."""
    last = sorted((one for one in record["planned"] if "shard" not in one), key=lambda one: one["characters"])[-2:]
    small, large = last
    beyond = (characters - large["characters"]) / (large["characters"] - small["characters"])
    seconds, gib = (large[key] + beyond * (large[key] - small[key]) for key in ("cpu_seconds", "peak_gib"))
    return seconds, gib


def plot(record: dict[str, Any], path: Path) -> None:
    """Plot CPU time and memory by number of characters: measured before and now, and estimated for 10,000."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "charloom", "font.size": 9})
    figure, axes = pyplot.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
    whole = [one for one in record["planned"] if "shard" not in one]
    parts = [one for one in record["planned"] if "shard" in one]
    ends = reckoned(record, 10_000)
    for axis, key, title, end in zip(
        axes, ("cpu_seconds", "peak_gib"), ("CPU time of snakemake -n (s)", "memory (GiB)"), ends, strict=True
    ):
        for runs, label, colour in ((record["before"]["planned"], "before", "0.6"), (whole, "now", "#1f6f8b")):
            points = [(one["characters"], one[key]) for one in runs]
            axis.loglog(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4)
        largest = whole[-1]
        axis.loglog([largest["characters"], 10_000], [largest[key], end], "--", color="#1f6f8b")
        axis.loglog([10_000], [end], "o", markerfacecolor="white", color="#1f6f8b", markersize=4, label="reckoned")
        for one in parts:
            axis.loglog([10_000], [one[key]], "D", color="#c8553d", markersize=5, label=f"shard {one['shard']}")
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("characters of 30 pictures")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


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
