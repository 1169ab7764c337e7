"""Is the chosen checkpoint the best one? Compares charloom's choice with known truth, over characters and seeds.

    python benchmarks/choice.py run --workers 8 --output work/experiments/choice.jsonl
    python benchmarks/choice.py table work/experiments/choice.jsonl

``run`` trains each character with each seed by the miniature's own recipe, but for 800 steps. As in the workflow, every
checkpoint draws the ten previews, the judge scores them, and a step is chosen. Then every checkpoint draws the ten
prompts again with other seeds (60 pictures), which the choice never saw, and the reader says what they show. The reader
is a second network that the choice does not use (charloom/experiments/reader.py); what should be there is known from
the renderer. Truth is identity x obedience x (1 - bleed) (charloom/experiments/measures.py). ``table``
writes benchmarks/results/choice.json.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from charloom.core import files
from charloom.core.canonical import canonical_json
from charloom.core.errors import cli
from charloom.experiments import measures, pool, truth
from charloom.experiments.design import Training

READER = Path("benchmarks/results/reader.safetensors")
CHARACTERS = ("leyla", "nika", "orla")
SEEDS = (42, 43, 44, 45, 46)
DRAWN = (7001, 8001, 9001, 10001, 11001, 12001)
"""Seeds of the pictures that the truth is read from."""
STEPS = 800
"""Steps of a training run. The recipe stops at 600; the rest shows what that costs."""
WITHIN = 0.02
"""How far below the best checkpoint the chosen one may be."""


def start(root: Path, reader: Path, device: str) -> Any:
    """What a worker needs."""
    from charloom.experiments.data import Place
    from charloom.experiments.run import Studio

    return Studio(Place(root), reader, device=device)


def do(output: Path, draws: int, studio: Any, task: tuple[Training, list[int]]) -> None:
    """Make the lines of one training: one per checkpoint, step 0 (the base alone) first."""
    from charloom.experiments.run import Run, previews

    training, steps = task
    run = Run(studio, training)
    for step in steps:
        scores = previews(run, step)
        seen = run.draw(step, 1.0, DRAWN[:draws])
        pool.append(
            output,
            {
                "run": training.key[:16],
                "character": training.character,
                "seed": training.seed,
                "step": step,
                "scores": scores,
                "pictures": run.read(seen, step),
            },
        )


def trainings(characters: Sequence[str], seeds: Sequence[int], steps: int = STEPS) -> list[Training]:
    """Seeds outermost, so that a run cut short has all characters of the first seeds."""
    changes = {"recipe": {"train": {"steps": steps}, "save": {"every": max(1, steps // 8)}}}
    return [Training(one, seed, canonical_json(changes)) for seed in seeds for one in characters]


def steps_of(training: Training) -> list[int]:
    """Every checkpoint, and the base alone first."""
    return sorted({0, *training.person.sampled_steps})


def run(arguments: argparse.Namespace) -> None:
    known = {(line["run"], line["step"]) for line in pool.known_lines([arguments.output, *arguments.known])}
    tasks = []
    for training in trainings(arguments.characters, arguments.seeds, arguments.steps):
        if steps := [step for step in steps_of(training) if (training.key[:16], step) not in known]:
            tasks.append((training, steps))
    print(f"{sum(len(steps) for _, steps in tasks)} checkpoints of {len(tasks)} trainings to measure", file=sys.stderr)
    left = pool.run(
        tasks,
        functools.partial(start, arguments.work, arguments.reader, arguments.device),
        functools.partial(do, arguments.output, arguments.draws),
        workers=arguments.workers,
        threads=arguments.threads,
        stop_after=arguments.stop_after,
    )
    sys.exit(f"{left} of {len(tasks)} trainings are not finished; run again to go on" if left else 0)


def row(training: Training, lines: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The choice in one training run, and the truth about every checkpoint; ``lines`` are by step."""
    from charloom.judge import choice, table

    person = training.person
    world = truth.world(training)
    documents = [dict(lines[step]["scores"]) for step in sorted(lines)]
    scored = [one for one in documents if one["step"] or 0 in person.sampled_steps]
    result = choice.choose(table.from_scores(scored), person.candidates, keep=str(person.recipe["save"]["keep"]))
    values = {
        step: {
            name: round(measures.MEASURES[name](line, world) or 0.0, 4)
            for name in ("truth", "identity", "obedience", "bleed", "judge.identity", "judge.obedience")
        }
        for step, line in sorted(lines.items())
    }
    steps = [step for step in values if step]
    best = max(steps, key=lambda step: values[step]["truth"])
    chosen, last = result["step"], max(steps)
    noise = spread(lines[best], lines[chosen], world)
    return {
        "character": training.character,
        "seed": training.seed,
        "chosen": chosen,
        "how": result["how"],
        "best": best,
        "chosen_truth": values[chosen]["truth"],
        "best_truth": values[best]["truth"],
        "last_truth": values[last]["truth"],
        "short": round(1.0 - values[chosen]["truth"] / values[best]["truth"], 4),
        "noise": noise,
        "checkpoints": {str(step): value for step, value in values.items()},
    }


def spread(one: Mapping[str, Any], other: Mapping[str, Any], world: measures.World) -> float:
    """Relative standard error of the difference between two checkpoints' truth, from paired pictures."""
    if one is other:
        return 0.0
    values = []
    for pair in zip(one["pictures"], other["pictures"], strict=True):
        values.append([measures.truth({"pictures": [picture]}, world) or 0.0 for picture in pair])
    differences = [first - second for first, second in values]
    return round(stdev(differences) / math.sqrt(len(differences)) / fmean(first for first, _ in values), 4)


def make_table(arguments: argparse.Namespace) -> None:
    lines = pool.known_lines(arguments.lines)
    rows = []
    for training in trainings(arguments.characters, arguments.seeds, arguments.steps):
        own = {line["step"]: line for line in lines if line["run"] == training.key[:16]}
        if set(steps_of(training)) <= set(own):
            rows.append(row(training, own))
        else:
            print(f"left out: {training.character} {training.seed}: {len(own)} checkpoints", file=sys.stderr)
    if not rows:
        sys.exit("no training is complete")
    short = [one["short"] for one in rows]
    result = {
        "what": "truth of the chosen checkpoint against that of the best, per training; see benchmarks/choice.py",
        "pictures": len(lines[0]["pictures"]),
        "within": sum(value <= WITHIN for value in short),
        "trainings": len(rows),
        "mean_short": round(fmean(short), 4),
        "median_short": round(median(short), 4),
        "worst_short": max(short),
        "mean_truth": {
            name: round(fmean(one[f"{name}_truth"] for one in rows), 4) for name in ("chosen", "best", "last")
        },
        "agreement": agreement(lines),
        "reader": files.read_json(arguments.reader.with_suffix(".json")) if arguments.reader.exists() else None,
        "rows": rows,
    }
    files.write_json(arguments.output, result)
    for one in rows:
        print(
            f"{one['character']:>8} {one['seed']}: chosen {one['chosen']} ({one['chosen_truth']:.3f}), best "
            f"{one['best']} ({one['best_truth']:.3f}): {one['short']:.1%} short, noise {one['noise']:.1%}"
        )
    print(
        f"{result['within']} of {len(rows)} within {WITHIN:.0%}; mean {result['mean_short']:.1%}, worst "
        f"{result['worst_short']:.1%}; last checkpoint {result['mean_truth']['last']:.3f}, chosen "
        f"{result['mean_truth']['chosen']:.3f}, best {result['mean_truth']['best']:.3f}"
    )


def agreement(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Correlation of reader and judge over checkpoints: whether they agree."""
    import numpy as np

    known = {one.key[:16]: truth.world(one) for one in trainings(CHARACTERS, SEEDS)}
    own = [line for line in lines if line["run"] in known and line["step"]]
    found = {}
    for name in ("identity", "obedience", "bleed"):
        pairs = [
            [measures.MEASURES[key](line, known[line["run"]]) or 0.0 for key in (name, f"judge.{name}")] for line in own
        ]
        if len(pairs) > 2:
            found[name] = round(float(np.corrcoef(np.array(pairs).T)[0, 1]), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("run", help="train, choose and measure")
    first.set_defaults(do=run)
    first.add_argument("--workers", type=int, default=1, help="processes (1)")
    first.add_argument("--threads", type=int, default=2, help="cores of each (2)")
    first.add_argument("--output", type=Path, default=Path("work/experiments/choice.jsonl"))
    first.add_argument("--known", type=Path, nargs="*", default=[], help="more files with lines that are known")
    first.add_argument("--work", type=Path, default=Path("work/experiments"), help="folder for what is made on the way")
    first.add_argument("--draws", type=int, default=len(DRAWN), help=f"pictures per prompt ({len(DRAWN)})")
    first.add_argument("--device", default="cpu", help="cpu, or cuda: many trainings fit on one GPU (cpu)")
    first.add_argument("--stop-after", type=float, help="seconds")
    second = commands.add_parser("table", help="the table from the lines")
    second.set_defaults(do=make_table)
    second.add_argument("lines", type=Path, nargs="+")
    second.add_argument("--output", type=Path, default=Path("benchmarks/results/choice.json"))
    for one in (first, second):
        one.add_argument("--characters", nargs="+", default=list(CHARACTERS))
        one.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
        one.add_argument("--reader", type=Path, default=READER, help="weights of the reader")
        one.add_argument("--steps", type=int, default=STEPS, help=f"number of steps ({STEPS}); fewer to try it out")
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    cli(main)
