"""One segment of a training run, out of the store or trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.train.keys import CHECKPOINT, checkpoint_key, manifest_digest, run_key
from charloom.train.settings import TrainSettings

KIND = CHECKPOINT


def settings_of(slice_: dict[str, Any], *, every: int, last: int) -> TrainSettings:
    """The trainer's settings: the rule's slice, with how often it saves and its last step put back in."""
    recipe = slice_["recipe"]
    return TrainSettings.from_recipe(
        {
            **recipe,
            "train": {"steps": last, **recipe["train"]},
            "save": {"every": every, **recipe["save"]},
        }
    )


def key(settings: TrainSettings, slice_: dict[str, Any], manifest: Path, record: dict[str, Any]) -> str:
    """Key of the run that these settings, data and base make."""
    shape = {"settings": settings.slice(), "header": slice_["header"]}
    return run_key(shape, manifest_digest(files.read_json(manifest)), record["digest"], slice_["number"])


def entry(run: str, step: int) -> str:
    """Store key of a checkpoint of a run."""
    return checkpoint_key(run, step)
