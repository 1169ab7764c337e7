"""All experiments of config/experiments/ at once, on many cores: one JSON line per arm, character and seed.

    python benchmarks/experiments.py --workers 8 --output work/experiments/lines.jsonl
    python benchmarks/experiments.py --workers 14 --threads 1 --device cuda
    python benchmarks/experiments.py --workers 8 --only watermark rank --seeds 42 43 --stop-after 560
    python benchmarks/experiments.py --workers 8 --tables benchmarks/results/experiments

Each worker has two cores. Run it again to continue: lines in --output or --known, and with --tables those in the
tables, are not made again, and a training run that was stopped resumes. Seeds come one after the other, so that a run
cut short has fewer seeds of every experiment. snakemake -s rules/experiments/Snakefile makes the same lines one by one.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from charloom.core.errors import cli
from charloom.experiments import design, pool, tables
from charloom.experiments.design import Look

READER = Path("benchmarks/results/reader.safetensors")


def start(root: Path, reader: Path, device: str) -> Any:
    """What a worker needs."""
    from charloom.experiments.data import Place
    from charloom.experiments.run import Studio

    return Studio(Place(root), reader, device=device)


def do(output: Path, studio: Any, looks: list[Look]) -> None:
    """Make the lines of one training."""
    from charloom.experiments.run import measured

    pictures = output.parent / "pictures" if looks[0].training.seed == 42 else None
    for line in measured(studio, looks, pictures):
        pool.append(output, line)


def wanted(names: list[str], seeds: list[int] | None, known: set[str]) -> list[list[Look]]:
    """The looks that are still missing, by training run, seeds outermost."""
    groups: dict[str, dict[str, Look]] = {}
    experiments = [design.read(name) for name in names]
    for seed in seeds or sorted({seed for one in experiments for seed in one.seeds}):
        for experiment in experiments:
            if seed in experiment.seeds or seeds:
                for _, look in experiment.looks([seed]):
                    if look.name not in known:
                        groups.setdefault(look.training.key, {})[look.name] = look
    return [list(looks.values()) for looks in groups.values()]


def tabulated(names: list[str], folder: Path) -> set[str]:
    """The looks whose values are in ``folder``, in the table of every experiment that has them as an arm."""
    known, lacking = set(), set()
    for experiment in map(design.read, names):
        path = folder / f"{experiment.name}.csv"
        table = tables.read(path) if path.is_file() else []
        measured = {(row["arm"], row["character"], row["seed"]) for row in table}
        for arm, look in experiment.looks():
            there = (arm, look.training.character, look.training.seed) in measured
            (known if there else lacking).add(look.name)
    return known - lacking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="experiments (all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds of training (those of each experiment)")
    parser.add_argument("--workers", type=int, default=1, help="processes (1)")
    parser.add_argument("--threads", type=int, default=2, help="cores of each (2)")
    parser.add_argument("--output", type=Path, default=Path("work/experiments/lines.jsonl"))
    parser.add_argument("--known", type=Path, nargs="*", default=[], help="more files with lines that are known")
    parser.add_argument("--tables", type=Path, help="folder of tables: what is in them is known too")
    parser.add_argument(
        "--work", type=Path, default=Path("work/experiments"), help="folder for data sets and checkpoints"
    )
    parser.add_argument("--reader", type=Path, default=READER, help="weights of the reader")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: many trainings fit on one GPU (cpu)")
    parser.add_argument("--stop-after", type=float, help="seconds")
    arguments = parser.parse_args()
    names = arguments.only or design.names()
    known = {line["look"] for line in pool.known_lines([arguments.output, *arguments.known])}
    if arguments.tables:
        known |= tabulated(names, arguments.tables)
    tasks = wanted(names, arguments.seeds, known)
    print(f"{sum(map(len, tasks))} lines of {len(tasks)} trainings to make, {len(known)} known", file=sys.stderr)
    left = pool.run(
        tasks,
        functools.partial(start, arguments.work, arguments.reader, arguments.device),
        functools.partial(do, arguments.output),
        workers=arguments.workers,
        threads=arguments.threads,
        stop_after=arguments.stop_after,
    )
    sys.exit(f"{left} of {len(tasks)} trainings are not finished; run again to go on" if left else 0)


if __name__ == "__main__":
    cli(main)
