"""Slices of the settings for judging; those for scores and the choice are in :mod:`charloom.workflow.slices`."""

from __future__ import annotations

import json
from typing import Any

from charloom.config import drift
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core.canonical import canonical_json
from charloom.core.versions import RECIPES
from charloom.workflow import slices


def judge_lock(base: Base) -> str:
    """For the lock file of a base's judge: which models it may use."""
    return canonical_json({"name": base.name, "models": base.judge_models, "recipe": RECIPES["judge"]})


def judge(character: Character) -> str:
    """For the study of a character's own images by the locked instruments."""
    return canonical_json(
        {
            "identity": character.recipe["validation"]["identity"],
            "trigger": character.trigger,
            "prompts": [prompt.text for prompt in character.sample_prompts],
            "line": character.identity_full.replace("{trigger}", ""),
            "recipe": RECIPES["judge"],
        }
    )


def drift_sample(character: Character, name: str) -> str:
    """For one preview that measures drift."""
    return canonical_json(_drift_preview(character, name))


def _drift_preview(character: Character, name: str) -> dict[str, Any]:
    prompt, _, kind = name.partition("-")
    many = {"steps": character.recipe["validation"]["drift_steps"]} if kind == "steps" else {}
    return {**slices.samples(character)[prompt], **many}


def other_drift(character: Character) -> str:
    """Every such preview, to be drawn in one go: steps, and settings by the name of the embedding."""
    names = [one["name"] for one in drift.prompts(character)]
    made = {drift.embedding(name): _drift_preview(character, name) for name in names}
    return canonical_json({"steps": drift.steps(character), "prompts": made})


def drift_scores(character: Character, base: Base) -> str:
    """For the scores of these previews."""
    plain = {key: value for key, value in json.loads(slices.score(character, base)).items() if key != "recipe"}
    return canonical_json({**plain, "drift": drift.prompts(character), "recipe": RECIPES["drift"]})
