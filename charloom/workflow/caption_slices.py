"""Slices of the settings for describing pictures and cleaning up captions; empty if no captioner is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.config import captioning
from charloom.config.character import Character
from charloom.core.canonical import canonical_json
from charloom.core.versions import CLEANED_CAPTIONS, RECIPES
from charloom.dataset import captions, cleanup

described = captioning.described


def taken(character: Character) -> list[str]:
    """The pictures whose caption is made from the captioner's text without anybody reviewing it."""
    return described(character) if captioning.of(character).auto else []


def automatic(character: Character, name: str) -> dict[str, Any]:
    """For one caption: how it is made from the captioner's text, if that is used without asking."""
    taken_ = captioning.of(character).auto and captioning.hand_written(character, name) is None
    return {"captioner": clean_settings(character, name)} if taken_ else {}


def captioner(character: Character) -> str:
    """For what a captioner says about one picture."""
    found = captioning.of(character).captioner
    return canonical_json({**(found.values() if found else {}), "recipe": RECIPES["describe"]})


def siblings(character: Character) -> str:
    """Every picture to describe in one go."""
    return canonical_json(described(character))


def cleaning_all(character: Character) -> str:
    """For all pictures that are described: first what they share, then what differs by picture."""
    every = {name: clean_settings(character, name) for name in described(character)}
    shared = {key: value for key, value in next(iter(every.values()), {}).items() if key not in _OWN}
    own = {name: {key: values[key] for key in _OWN if key in values} for name, values in every.items()}
    waiting = [] if captioning.of(character).auto else described(character)
    return canonical_json(
        {
            "character": character.id,
            "trigger": character.trigger,
            "shared": shared,
            "own": own,
            "waiting": waiting,
            "names": character.image_names if captioning.of(character).captioner else [],
        }
    )


_OWN = ("eyes_hidden", "trigger", "view")
"""Keys of :func:`clean_settings` in which pictures differ."""


def clean_settings(character: Character, name: str) -> dict[str, Any]:
    """What :func:`charloom.dataset.cleanup.clean` and the caption rules of the check need to know about a picture."""
    words = captioning.of(character)
    part, image = character.part_of(name)
    shot = None if part else character.shot(image)
    return {
        # A picture of somebody else has no trigger, and its caption says who it is.
        "trigger": "" if part and part.regularization else character.trigger,
        "class": captioning.kind(character),
        "noun": character.noun,
        "line": character.identity_full,
        "identity_words": list(words.identity_words),
        "keep_words": list(words.keep_words),
        "most_tokens": words.most_tokens or cleanup.MOST_TOKENS,
        "eyes_hidden": bool(shot and shot.view and not captions.eyes_visible(shot)),
        "view": shot.view if shot else "",
        "recipe": CLEANED_CAPTIONS,
    }


def waiting(character: Character, root: Path = Path(".")) -> list[str]:
    """The pictures whose proposals somebody has to review."""
    return [] if captioning.of(character).auto else described(character, root)
