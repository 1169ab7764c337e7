"""Writes the profiles of GPU sizes from the formulas of ``charloom/workflow/price.py``.

    python tools/gpu_profiles.py            # rewrites profiles/gpu-*gb/config.yaml

Each says in a comment what was estimated for the default recipe, and which budgets were measured nearby.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

from charloom.cli.pricing import CONTEXT, beside
from charloom.config.project import load
from charloom.workflow import price

ROOT = Path(__file__).resolve().parents[1]
SIZES = (8, 10, 12, 16, 24, 48, 80)
BF16_TEXTS = 24
"""From this size on the text encoder stays in bf16."""
MEASURED = {
    14.5: ("16 GiB card", "limited to 16 GiB"),
    32.0: ("roomy", "with a budget of 32 GiB, and more is not needed"),
}
"""Configurations of benchmarks/results/train_step.json by budget, and their description."""
LIMITED = ROOT / "benchmarks/results/limited_cards.json"
"""Runs with these profiles on a GPU limited to the memory of their cards."""


def recipe(size: int) -> dict[str, Any]:
    """The default recipe on the real base, as the profile of a size sets it."""
    given = {"base": "z-image-turbo", "recipe": {"memory": size - beside(size)}}
    return load(ROOT, overrides=given).characters["leyla"].recipe


def limited() -> dict[int, str]:
    """Measurements by size of the card."""
    return {
        row["size_gib"]: f"on an {row['device'].split()[1]} made as small: {row['allocated_gib']['measured']:.1f} GiB, "
        f"{row['seconds_per_step']['measured']:.2f} s per step on average{row.get('but', '')}"
        for row in json.loads(LIMITED.read_text(encoding="utf-8"))
        if row["finished"]
    }


def stepped() -> dict[float, str]:
    """Measurements by budget."""
    lines = (ROOT / "benchmarks/results/train_step.json").read_text(encoding="utf-8").splitlines()
    found = {}
    for budget, (configuration, how) in MEASURED.items():
        rows = [row for row in map(json.loads, lines) if row.get("configuration") == configuration]
        seconds = mean(row["seconds"] for row in rows if row["size"] == 1024)
        peak = max(row["peak_gib"] for row in rows)
        found[budget] = f"on an H100 {how}: {peak:.1f} GiB, {seconds:.3f} s per step of 1024 pixels"
    return found


def text(size: int) -> str:
    """The profile of a card with so many GiB."""
    budget = size - beside(size)
    found = price.training(recipe(size), budget)
    assert found.fits, size
    most = price.gpu_memory(recipe(size), budget)["train"]  # a smaller size of pictures may need more, as in the plan
    step = sum(price.step_seconds(recipe(size), edge, budget) for edge in (512, 768, 1024)) / 3
    how = (
        f"{found.swapped} of {price.MODEL.layers} blocks in main memory"
        if found.swapped
        else f"{found.recomputing} of {price.MODEL.layers} blocks recompute at 1024 pixels"
        if found.recomputing
        else "no block recomputes"
    )
    measured = limited().get(size) or stepped().get(32.0 if budget > 32 and not found.recomputing else budget)
    said = f"Measured {measured}." if measured else "No measurement at this size."
    encoder = "bf16" if size >= BF16_TEXTS else "float8"
    need, memory, previews = price.drawing(recipe(size)), budget, ""
    if budget < need <= size - CONTEXT:
        memory = math.ceil(10 * need) / 10
        previews = (
            f"\n# Previews need {need:.1f} GiB, therefore memory is {memory:g} instead of {budget:g}. If other programs"
            "\n# leave less, close them, or set sample: {disable: true}, which ships the last checkpoint."
        )
    limit = f", memory: {memory:g}" if size < BF16_TEXTS else ""
    note = "GiB; leaves the rest to the desktop" if limit else "memory: auto, i.e. all that is free"
    more = "" if size < BF16_TEXTS else " or more"
    if need > memory:
        limit += ", sample: {disable: true}"
        previews = f"\n# Previews would need {need:.1f} GiB: none are drawn, and the last checkpoint is shipped."
    return f"""# One GPU with {size} GB{more}:  snakemake --profile profiles/gpu-{size}gb --cores 8
# Written by tools/gpu_profiles.py. Estimated for the default recipe in {budget:g} GiB: at most {most:.1f} GiB, {how};
# {step:.2f} s per step on average, were the card as fast as an H100.
# {said}{previews}
scheduler: greedy
scheduler-subsample: 50
max-checksum-file-size: 2GB
rerun-incomplete: true
show-failed-logs: true
resources:
  gpu: 1
config:
  - base=z-image-turbo
  - device=cuda
  - "recipe={{quantization: {{transformer: float8, text_encoder: {encoder}}}{limit}}}"    # {note}
"""


def path(size: int) -> Path:
    """Path of the profile of a size."""
    return ROOT / "profiles" / f"gpu-{size}gb" / "config.yaml"


if __name__ == "__main__":
    for one in SIZES:
        path(one).parent.mkdir(exist_ok=True)
        path(one).write_text(text(one), encoding="utf-8")
        print(path(one))
