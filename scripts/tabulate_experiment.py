"""Make the table, the plot and the verdicts of an experiment from its lines of results (JSON, or JSON lines)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.experiments import design, pool, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="name of a file in config/experiments/")
    parser.add_argument("lines", type=Path, nargs="+", help="files of run_arm (.json) or of benchmarks/experiments.py")
    parser.add_argument("--table", type=Path, required=True, help="CSV to write")
    parser.add_argument("--summary", type=Path, required=True, help="Markdown to write")
    parser.add_argument("--plot", type=Path, required=True, help="PNG or WebP to write")
    arguments = parser.parse_args()
    experiment = design.read(arguments.experiment)
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.lines if path.suffix == ".json"]
    lines += pool.known_lines(path for path in arguments.lines if path.suffix != ".json")
    table = tables.rows(experiment, lines)
    if not table:
        raise UserError(f"{arguments.experiment}: none of its arms is among the lines; run one first")
    tables.write(table, arguments.table)
    files.write_text(arguments.summary, tables.summary(experiment, table))
    tables.plot(experiment, table, arguments.plot)


if __name__ == "__main__":
    cli(main)
