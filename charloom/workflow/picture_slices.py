"""The slices of the settings that generated pictures depend on."""

from __future__ import annotations

from typing import Any

from charloom.config.base import Base
from charloom.config.character import Character
from charloom.config.generation import REFERENCE, is_local
from charloom.core.canonical import canonical_json
from charloom.dataset import sources
from charloom.dataset.sources import generated
from charloom.workflow import slices


def wanted(character: Character, shot_name: str | None) -> dict[str, Any]:
    """What one picture depends on: ``picture``, the settings of its order, and which attempt counts."""
    generation = character.generation
    assert generation is not None
    shot = character.shot(shot_name) if shot_name else None
    looks = sources.get(generation.source).picture(character)
    given = {"picture": generated.ordered(character, shot, looks)}
    if first := generation.attempts.get(shot_name or REFERENCE, 0):
        given["first"] = first
    if shot_name and generation.identity != "none":
        given |= {"identity": generation.identity, "retry": generation.retry}
    return given


def picture(character: Character, shot_name: str | None) -> str:
    """For one generated picture; None is the reference."""
    return canonical_json(wanted(character, shot_name))


def other_pictures(character: Character) -> str:
    """All of them, to be got in one go (see ``untracked`` in common.smk)."""
    return canonical_json({name: wanted(character, name) for name in character.shot_names})


def how(character: Character) -> str:
    """What does not matter for the result: addresses, patience, prices, what may be spent. No key is among it."""
    generation = character.generation
    assert generation is not None
    kept = {key: value for key, value in generation.settings.items() if value is not None}
    kept |= {"local": is_local(str(kept.get("base_url", "")))}
    budget = {"pictures": generation.pictures, "money": generation.money, "price": generation.price}
    return canonical_json({**kept, "budget": budget, "limit": character.recipe["memory"]})


def reference(character: Character) -> str:
    """For the reference that the base draws, as it draws a preview of the recipe's size and seed."""
    sample = character.recipe["sample"]
    attempt = character.generation.attempts.get(REFERENCE, 0) if character.generation else 0
    own = {"width": sample["width"], "height": sample["height"], "seed": sample["seed"] + attempt, "scale": 1.0}
    return canonical_json({**next(iter(slices.samples(character).values())), **own})


def instrument(character: Character, base: Base) -> str:
    """Which kind of instrument compares faces: ``auto``, ``paperdoll``, or none (an empty text)."""
    generation = character.generation
    wants = generation is not None and generation.identity != "none"
    if not wants or character.recipe["validation"]["identity"] == "none" or base.judge not in ("auto", "paperdoll"):
        return ""
    return base.judge
