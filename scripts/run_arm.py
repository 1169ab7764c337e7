"""Train one arm of an experiment with one seed, draw with it, and write what the instruments read, as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.experiments import design
from charloom.workflow import jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="name of a file in config/experiments/")
    parser.add_argument("--arm", required=True)
    parser.add_argument("--character", required=True)
    parser.add_argument("--seed", type=int, required=True, help="seed of training")
    parser.add_argument("--reader", type=Path, default=Path("benchmarks/results/reader.safetensors"))
    parser.add_argument(
        "--work", type=Path, default=Path("work/experiments"), help="folder for data sets and checkpoints"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    experiment = design.read(arguments.experiment)
    if arguments.arm not in experiment.arms:
        raise UserError(f"{arguments.experiment}: has no arm {arguments.arm}; use one of {', '.join(experiment.arms)}")
    look = experiment.look(arguments.arm, arguments.character, arguments.seed)
    jobs.torch_device("cpu", arguments.threads)

    from charloom.experiments.data import Place
    from charloom.experiments.run import Studio, measured

    (line,) = measured(Studio(Place(arguments.work), arguments.reader), [look])
    files.write_json(arguments.output, line)


if __name__ == "__main__":
    cli(main)
