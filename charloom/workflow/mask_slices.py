"""The slice of the settings for masks; unused if no masks are requested."""

from __future__ import annotations

from charloom.config import masking
from charloom.config.character import Character
from charloom.core.canonical import canonical_json
from charloom.core.versions import RECIPES

masked = masking.masked


def mask(character: Character, name: str) -> str:
    """For the mask of one picture."""
    return canonical_json({**masking.settings(character, name), "recipe": RECIPES["masks"]})
