"""Draws the strength sweep as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charloom.core.layout import Results
from charloom.report.grid import comparison_grid, save_picture, short


def strip(sweep: Mapping[str, Any], results: Results, title: str, trigger: str, output: Path) -> None:
    """Write a PNG with rows of prompts and columns of strengths, the recommended one marked."""
    strengths: Sequence[float] = [row["strength"] for row in sweep["strengths"]]
    chosen = strengths.index(sweep["recommended"]) if sweep["recommended"] in strengths else None
    picture = comparison_grid(
        [(prompt["name"], short(prompt["text"], trigger)) for prompt in sweep["prompts"]],
        [(f"{s:g}", [results.strength(s, prompt["name"]) for prompt in sweep["prompts"]]) for s in strengths],
        chosen=chosen,
        title=title,
    )
    save_picture(picture, output)
