"""What all generators share of the interface of image sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.dataset.sources import folder

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot


def problems(character: Character) -> list[str]:
    """Nothing: what a generator needs is checked with the character file, its key when pictures are missing."""
    return []


def inputs(character: Character, shot: Shot | None) -> list[str]:
    """The user's own reference."""
    found = character.generation.file if character.generation and not shot else None
    return [found] if found else []


def settings(character: Character, shot: Shot | None) -> dict[str, Any]:
    """For the reference that is the user's own: it is copied as the images of a folder are."""
    return {"source": "folder", **folder.settings(character, shot)}


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Copy the user's own reference."""
    folder.make(settings, inputs, output)
