"""A project of one character in the middle of its training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_project

CHARACTER = "config/characters/mara.yaml"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Mara after the first of two checkpoints, with its previews and scores."""
    root = small_project.make(tmp_path / "project")
    made = root / "results" / "mara"
    for folder in ("checkpoints", "samples/step-000050", "scores", "training", "logs", "dataset"):
        (made / folder).mkdir(parents=True)
    (made / "checkpoints/step-000050.safetensors").write_bytes(b"x")
    for prompt in ("01", "02"):
        small_project.picture(made / f"samples/step-000050/{prompt}.png", (64, 64))
    rows = [
        {"prompt": prompt, "metric": metric, "value": value}
        for prompt in ("01", "02")
        for metric, value in (("identity", 0.4), ("identity_relative", 0.5), ("obedience", 0.75), ("bleed.outfit", 1.0))
    ]
    document = {"step": 50, "rows": rows, "misses": {"01": ["<b>arms</b>"]}}
    (made / "scores/step-000050.json").write_text(json.dumps(document))
    lines = [json.dumps({"step": n, "loss": 1 / n, "smoothed": 0.5, "rate": 2.0}) for n in range(1, 61)]
    (made / "training/metrics.jsonl").write_text("\n".join(lines) + "\n")
    (made / "logs/train_segment.log").write_text("first\n10 %\r90 %\nlast <i>line</i>\n")
    return root
