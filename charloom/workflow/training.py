"""Settings and store keys of a training run, from the slice of the rule."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.base.locks import SHIFT
from charloom.config.character import Character
from charloom.core import files
from charloom.core.canonical import canonical_json, file_digest
from charloom.train.keys import CHECKPOINT, checkpoint_key, manifest_digest, run_key
from charloom.train.settings import TrainSettings
from charloom.workflow import devices, price

KIND = CHECKPOINT
UNTIL = "CHARLOOM_UNTIL"
"""Environment variable: the step beyond which a start of the trainer does not run, unless a job requests it."""
APART = "CHARLOOM_PREVIEWS_APART"
"""Environment variable: leave previews to ``sample_checkpoint``, which runs after training and so needs less memory."""


def settings_of(slice_: dict[str, Any], *, every: int, last: int, shift: float = SHIFT) -> TrainSettings:
    """The trainer's settings: the rule's slice with the save interval, the last step and the base's shift."""
    recipe = slice_["recipe"]
    made = TrainSettings.from_recipe(
        {
            **recipe,
            "train": {"steps": last, **recipe["train"]},
            "save": {"every": every, **recipe["save"]},
        }
    )
    return replace(made, train=replace(made.train, shift=shift))


def started_from(slice_: str, content: str) -> str:
    """The rule's slice with a token for the LoRA that training starts from; unchanged if it starts from nothing."""
    return canonical_json({**json.loads(slice_), "init": content}) if content else slice_


def draws(character: Character, gpu: bool) -> bool:
    """Whether the trainer is expected to draw previews while training; on a CPU it always can."""
    if os.environ.get(APART) or os.environ.get(devices.SHARE):
        return False
    return not gpu or price.draws(character.recipe, price.limit(character.recipe))


def drawn_on_the_way(character: Character) -> str:
    """What the trainer draws: every preview, and the strength sweep of the step that will probably be chosen."""
    from charloom.workflow import slices  # imported late: a job that links a checkpoint never needs it

    step = max(character.candidates or character.saved_steps)
    step = step if character.checkpoint == "auto" else character.checkpoint
    sweep = {"sweep": {"step": step, **slices.sweep(character)}} if character.strengths else {}
    return canonical_json({**slices.all_samples(character), **sweep})


def key(
    settings: TrainSettings, slice_: dict[str, Any], manifest: Path, record: dict[str, Any], init: Path | None = None
) -> str:
    """Key of the run with these settings, data, base, and LoRA to start from."""
    shape = {"settings": settings.slice(), "header": slice_["header"]}
    if init:
        shape["init"] = file_digest(init)
    return run_key(shape, manifest_digest(files.read_json(manifest)), record["digest"], slice_["number"])


def lock(run: str) -> str:
    """Name of the lock that is held while the run is in training."""
    return f"train-{run[:32]}"


def entry(run: str, step: int) -> str:
    """Store key of a checkpoint of a run."""
    return checkpoint_key(run, step)
