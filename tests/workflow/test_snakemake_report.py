"""Snakemake's own report: what it carries, and that it asks nothing of the internet."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import small_project


def test_it_carries_pages_grids_charts_and_tables_with_captions(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "project"))
    made = small_project.snakemake(folder, small_project.TARGET, "--report", "mara.zip")
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(folder / "mara.zip") as archive:
        names = archive.namelist()
        text = "".join(archive.read(name).decode() for name in names if name.endswith((".html", ".js")))
    for name in ("report.html", "comparison.png", "scores.png", "loss.png", "scores.csv", "grid.png"):
        assert any(one.endswith(name) for one in names), name
    for words in ("Previews", "Charts", "Tables", "Pages", "after 50 steps", "Every value that was measured"):
        assert words in text, words
