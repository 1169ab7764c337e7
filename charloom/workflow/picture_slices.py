"""The slices of the settings that generated pictures depend on."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from charloom.config import kinds
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.config.generation import REFERENCE, is_local
from charloom.core.canonical import canonical_json
from charloom.core.versions import RECIPES
from charloom.dataset import prompts, sources
from charloom.workflow import slices


def wanted(character: Character) -> dict[str, dict[str, Any]]:
    """What each picture depends on, by shot and for the reference: ``picture``, the settings of its order, and which
    attempt counts.

    The prompts are those of the prompt sheet.
    """
    generation = character.generation
    assert generation is not None
    looks = {"source": generation.source, **sources.get(generation.source).picture(character)}
    sheet = prompts.sheet(json.loads(slices.prompt_sheet(character)))
    words = {REFERENCE: sheet.reference, **{name: prompt for _, name, prompt in sheet.shots}}
    seen: Counter[str] = Counter()
    found: dict[str, dict[str, Any]] = {}
    for name, prompt in words.items():
        # Two shots with the same words are two pictures.
        twin = {"twin": seen[prompt]} if seen[prompt] else {}
        seen[prompt] += name != REFERENCE
        found[name] = {"picture": {**looks, "prompt": prompt, **twin, "recipe": RECIPES["generated"]}}
        if first := generation.attempts.get(name, 0):
            found[name]["first"] = first
        if name != REFERENCE and generation.identity != "none":
            found[name] |= {"identity": generation.identity, "retry": generation.retry}
    return found


def shots(character: Character) -> str:
    """For all pictures but the reference, in the order of the plan, to be requested in one go."""
    return canonical_json([[name, one] for name, one in wanted(character).items() if name != REFERENCE])


def how(character: Character) -> str:
    """What does not affect the result: addresses, time limits, prices, what may be spent. Contains no API key."""
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
    faceless = character.kind not in kinds.WITH_FACE and (
        character.kind != "creature" or character.look == "photographic"
    )
    wants = wants and not faceless and character.recipe["validation"]["identity"] != "none"
    return base.judge if wants and base.judge in ("auto", "paperdoll") else ""
