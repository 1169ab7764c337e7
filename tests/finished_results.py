"""A finished character without any training: files that only look like its results, and its record in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_project import picture

from charloom.core import files
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.train.keys import CHECKPOINT, checkpoint_key
from charloom.workflow import history

PROMPT = {"name": "01", "text": "a photo of m4ra, laughing", "seed": 42, "scale": 1.0, "width": 64, "height": 64}
OTHER = {**PROMPT, "name": "02", "text": "a photo of m4ra <b>jumping</b>", "seed": 43}


def finish(folder: Path, store: Store, run: str, **changes: Any) -> dict[str, Any]:
    """A finished character whose checkpoint came out of the store; returns its record."""
    made, lock = Results(folder), {"name": "mini", "repo": "owner/name", "revision": run, "components": {}}
    lock["components"] = {"transformer": f"transformer-{run}"}
    about = {"character": "mara", "name": "Mara", "trigger": "m4ra", "steps": 8, "guidance": 1.0}
    about |= {"prompts": [PROMPT, OTHER], **changes}
    for index, prompt in enumerate(about["prompts"]):
        path = made.sample(100, prompt["name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, (64, 64), seed=index + len(run))
    with store.put(CHECKPOINT, checkpoint_key(run, 100), ".safetensors") as entry:
        entry.write_text(f"weights of {run}")
    store.fetch(CHECKPOINT, checkpoint_key(run, 100), ".safetensors", made.checkpoint(100))
    made.final.write_text(f"file of {run}")
    scores = {"identity": 0.9 if run == "new" else 0.8, "obedience": 0.7, "strangers": 0.1}
    scores |= {"step": 100, "samples": 2, "portraits": 2, "blank": 0, "faceless": 0}
    files.write_json(made.validation, {"step": 100, "verdicts": [{"step": 100, "scores": scores}]})
    return history.remember(store, made, made.final, 100, lock, about)
