"""Slices of the settings for the check of a data set, as far as the user has set anything unusual."""

from __future__ import annotations

from typing import Any

from charloom.config import captioning, kinds, knobs
from charloom.config.character import Character
from charloom.lora.network import unmatched
from charloom.zimage import shapes


def own(character: Character) -> dict[str, Any]:
    """What is odd about the training; class; levels, allowances; words of captions; shares of tiers; held-out sets."""
    written = character.written
    words = {key: written.get("captions", {})[key] for key in WORDS if key in written.get("captions", {})}
    kind = captioning.kind(character)
    train = character.recipe["train"]
    found = {
        "rate": knobs.odd_rate(train["optimizer"], train["lr"]),
        "mean": knobs.odd_mean(knobs.setting("train.ema", train["ema"]), train["steps"]),
        "modules": unmatched(character.recipe["network"]["modules"], shapes.any_names()),
        "class": kind if kind != "woman" and not character.is_style else None,
        "noun": character.noun,
        "lint": written.get("lint"),
        "captions": words,
        "balance": kinds.shares(character.balance),
        "whole": character.default_caption if character.whole else None,
        "captioned": (captioned := captioning.of(character).captioner is not None),
        "line": character.identity_full if captioned and " with " in character.identity_full else None,
        "holdouts": [part.name for part in character.datasets if part.holdout],
    }
    return {key: value for key, value in found.items() if value}


WORDS = ("identity_words", "keep_words")
"""Keys of ``captions`` by which captions are judged."""


def detectors(settings: dict[str, Any], ocr: bool = True) -> tuple[str, ...]:
    """The detectors to use for a slice of the check; faces are looked for on people only."""
    from charloom.workflow import looking  # it imports numpy, which no dry run needs

    wanted = settings.get("lint", {}).get("detectors", list(looking.DETECTORS))
    if settings.get("class", "woman") in ("creature", "object", "style"):
        wanted = [name for name in wanted if name != "faces"]
    return looking.usable(name for name in wanted if ocr or name != "text")
