"""The whole workflow on a tiny random base: its recipe, and how it is run."""

from __future__ import annotations

from pathlib import Path

import small_project
from small_project import TARGET, snakemake

RECIPE = {
    "network": {"rank": 4, "alpha": 4},
    "train": {"steps": 6, "lr": 1.0e-3},
    "save": {"every": 2, "keep": "all"},
    "sample": {"every": 2, "steps": 2},
    "data": {"resolutions": [64, 96]},
}


def build(folder: Path, *arguments: str) -> str:
    result = snakemake(folder, "--cores", "2", TARGET, *arguments, code=small_project.ROOT)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout + result.stderr
