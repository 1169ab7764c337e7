"""Where the workflow's own files are: in the clone that contains this package, or in the copy inside the wheel.

``setup.py`` puts that copy into the wheel. Must not import anything slow: every start of Snakemake asks.
"""

from __future__ import annotations

from pathlib import Path

CARRIED = Path(__file__).resolve().parents[1] / "_workflow"
"""The copy in an installed wheel."""


def home() -> Path:
    """The folder with Snakefile, rules, scripts, and the shipped config, profiles, resources and docs."""
    return CARRIED if CARRIED.is_dir() else Path(__file__).resolve().parents[2]
