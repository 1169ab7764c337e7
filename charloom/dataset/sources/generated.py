"""The part of the interface of image sources that all generators share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.dataset.sources import folder

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot


def problems(character: Character) -> list[str]:
    """None: settings are checked with the character file, and the key when pictures are missing."""
    return []


def inputs(character: Character, shot: Shot | None) -> list[str]:
    """The user's own reference."""
    found = character.generation.file if character.generation and not shot else None
    return [found] if found else []


def settings(character: Character, shot: Shot | None) -> dict[str, Any]:
    """Settings for the user's own reference, which is copied like the images of a folder."""
    return {"source": "folder", **folder.settings(character, shot)}


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Copy the user's own reference."""
    folder.make(settings, inputs, output)
