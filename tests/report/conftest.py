"""A results folder to make pages of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_helpers import picture
from safetensors.numpy import save_file

from charloom.judge import choice

PROMPT = "a full body photo of n1ka, a woman with short red hair, dancing, wearing a <red> gown & scarf"


@pytest.fixture
def results(tmp_path) -> Path:
    """A small but complete results folder of a character with markup in its words."""
    root = tmp_path / "results" / "nika"
    for folder in ("dataset", "scores", "checkpoints", "training", "benchmarks/train_segment"):
        (root / folder).mkdir(parents=True)
    picture(1).save(root / "reference.png")
    for i, name in enumerate(("closeup-01", "medium-01", "fullbody-01")):
        picture(i).save(root / "dataset" / f"{name}.png")
        shot = {"c": "a close-up portrait", "m": "a medium shot", "f": "a full body"}[name[0]]
        (root / "dataset" / f"{name}.txt").write_text(f"{shot} photo of n1ka, a woman with red hair, smiling <b>\n")
    rows = []
    for step, identity in ((50, 0.5), (100, 0.95)):
        (root / "samples" / f"step-{step:06d}").mkdir(parents=True)
        document = {
            "character": "nika",
            "step": step,
            "backend": "paperdoll",
            "weights": "ab12",
            "misses": {},
            "rows": [],
        }
        for prompt in ("01", "02"):
            picture(step).save(root / "samples" / f"step-{step:06d}" / f"{prompt}.png")
            values = {"identity_relative": identity, "obedience": 0.9, "bleed": 0.0, "detail": 1.0, "contrast": 0.2}
            for metric, value in values.items():
                key = {"prompt": prompt, "seed": 42, "strength": 1.0}
                document["rows"].append({**key, "metric": metric, "value": value})
                rows.append({**document["rows"][-1], "step": step})
        document["misses"]["01"] = ["outfit: asked for gown, got hoodie"]
        (root / "scores" / f"step-{step:06d}.json").write_text(json.dumps(document))
        metadata = {"charloom.provenance": '{"base_digest":"c0ffee"}', "ss_steps": str(step)}
        save_file({"x": np.zeros(1250, "float32")}, root / "checkpoints" / f"step-{step:06d}.safetensors", metadata)
    (root / "validation.json").write_text(json.dumps(choice.choose(rows, [50, 100])))
    lines = [json.dumps({"step": step, "loss": 1 / step, "smoothed": 0.5}) for step in range(1, 101)]
    lines.insert(50, json.dumps({"step": 50, "holdout": {"on 0.50": 0.3, "off 0.50": 0.5}}))
    (root / "training" / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 101, "lo')
    finding = {"level": "warning", "where": "plan", "what": "too few <profiles>"}
    (root / "lint.json").write_text(json.dumps({"errors": 0, "warnings": 1, "findings": [finding]}))
    (root / "benchmarks" / "train_segment" / "000050.tsv").write_text("s\th:m:s\tmax_rss\n61.5\t0:01:01\t1500.5\n")
    (root / "benchmarks" / "train_segment" / "000100.tsv").write_text("s\th:m:s\tmax_rss\n0.4\t0:00:00\tNA\n")
    return root


@pytest.fixture
def settings() -> dict:
    return {
        "character": "nika",
        "name": "Nika <script>",
        "trigger": "n1ka",
        "base": "paperdoll",
        "base_source": "resources/bases/paperdoll",
        "concept": 'A "quoted" concept & more',
        "shots": [
            {"name": "closeup-01", "tier": "close-up"},
            {"name": "medium-01", "tier": "medium"},
            {"name": "fullbody-01", "tier": "full-body"},
        ],
        "prompts": [{"name": name, "text": PROMPT, "seed": 42, "scale": 1.0} for name in ("01", "02")],
        "steps": [50, 100],
        "recipe_settings": {"network": {"type": "lora", "rank": 16}, "train": {"steps": 100, "ema": False, "lr": 1e-3}},
    }
