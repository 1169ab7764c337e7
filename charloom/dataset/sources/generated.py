"""What all generators share of the interface of image sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.core.versions import RECIPES
from charloom.dataset import prompts
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


def prompt(character: Character, shot: Shot | None) -> str:
    """What the generator is told: the concept alone for the reference, else the shot with the appearance."""
    return prompts.shot_prompt(character.appearance, shot.phrases()) if shot else character.concept


def ordered(character: Character, shot: Shot | None, picture: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides how one picture looks; ``picture`` are the settings of its generator."""
    assert character.generation is not None
    words = prompt(character, shot)
    # Two shots with the same words are two pictures.
    before = character.shots[: character.shots.index(shot)] if shot else ()
    twin = sum(prompt(character, other) == words for other in before)
    return {
        "source": character.generation.source,
        **picture,
        "prompt": words,
        **({"twin": twin} if twin else {}),
        "recipe": RECIPES["generated"],
    }


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Copy the user's own reference."""
    folder.make(settings, inputs, output)
