"""Settings and store keys of a training run, from the slice of the rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.canonical import canonical_json, file_digest
from charloom.train.keys import CHECKPOINT, checkpoint_key, manifest_digest, run_key
from charloom.train.settings import TrainSettings

KIND = CHECKPOINT


def settings_of(slice_: dict[str, Any], *, every: int, last: int) -> TrainSettings:
    """The trainer's settings: the rule's slice, completed with the save interval and the last step."""
    recipe = slice_["recipe"]
    return TrainSettings.from_recipe(
        {
            **recipe,
            "train": {"steps": last, **recipe["train"]},
            "save": {"every": every, **recipe["save"]},
        }
    )


def started_from(slice_: str, content: str) -> str:
    """The rule's slice with a token for the LoRA that training starts from; unchanged if it starts from nothing."""
    return canonical_json({**json.loads(slice_), "init": content}) if content else slice_


def key(
    settings: TrainSettings, slice_: dict[str, Any], manifest: Path, record: dict[str, Any], init: Path | None = None
) -> str:
    """Key of the run with these settings, data, base, and LoRA to start from."""
    shape = {"settings": settings.slice(), "header": slice_["header"]}
    if init:
        shape["init"] = file_digest(init)
    return run_key(shape, manifest_digest(files.read_json(manifest)), record["digest"], slice_["number"])


def entry(run: str, step: int) -> str:
    """Store key of a checkpoint of a run."""
    return checkpoint_key(run, step)
