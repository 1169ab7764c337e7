"""Commands for an installation: create a workflow folder, update it, examine the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="folder of the workflow; made if it is missing")],
    update: Annotated[bool, typer.Option("--update", help="bring the shipped files up to date")] = False,
    examples: Annotated[bool, typer.Option("--examples", help="all example characters, not only Leyla")] = False,
) -> None:
    """Lay out a workflow folder: Snakefile, configuration, profiles, pages and the miniature. No clone is needed."""
    from charloom.config import folder as folders

    made = folders.update(folder, examples) if update else folders.create(folder, examples)
    for name in made.kept:
        print(f"{folder / name}: kept, you have changed it; the new version has another one")
    if update:
        print(f"{folder}: {len(made.updated)} files brought up to date, {len(made.written)} new, {len(made.kept)} kept")
        return
    print(f"{folder}: ready. Next:")
    print(f"  cd {folder}")
    print("  charloom doctor                                        # what this machine can do")
    print("  snakemake --cores 2 results/leyla/final.safetensors     # the example, in five to ten minutes")
    print("  charloom new mara                                       # a character of your own")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="do not ask the hub")] = False,
) -> None:
    """Examine this machine: versions, GPU, memory, disk, store, hub; a verdict and a remedy for each."""
    from rich.console import Console
    from rich.markup import escape

    from charloom.cli import doctor as doctors

    marks = {
        doctors.OK: "[green]ok[/]     ",
        doctors.ABSENT: "–      ",
        doctors.NOTE: "[yellow]note[/]   ",
        doctors.PROBLEM: "[red]problem[/]",
    }
    console, found = Console(highlight=False, soft_wrap=True), []
    for finding in doctors.examine(Path("."), hub=not offline):
        found.append(finding)
        if not as_json:
            console.print(f"{marks[finding.verdict]} {escape(str(finding))}")
    summary = doctors.record(found)
    if as_json:
        print(json.dumps(summary, indent=2))
    if summary["problems"]:
        raise typer.Exit(1)
