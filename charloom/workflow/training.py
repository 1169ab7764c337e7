"""Settings and store keys of a training run, from the slice of the rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.core import files
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


def key(settings: TrainSettings, slice_: dict[str, Any], manifest: Path, record: dict[str, Any]) -> str:
    """Key of the run with these settings, data and base."""
    shape = {"settings": settings.slice(), "header": slice_["header"]}
    return run_key(shape, manifest_digest(files.read_json(manifest)), record["digest"], slice_["number"])


def entry(run: str, step: int) -> str:
    """Store key of a checkpoint of a run."""
    return checkpoint_key(run, step)
