"""The built-in renderer: drawn people at 2048² pixels with a watermark in the corner, like images of closed generators.

The phrases of a shot are parsed by the language of the paper-doll world; a phrase that cannot be drawn is a mistake in
the character file, found before anything runs.
"""

from __future__ import annotations

import difflib
import random
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.config import kinds
from charloom.core import layout
from charloom.core.versions import RECIPES
from charloom.paperdoll import attributes, language

if TYPE_CHECKING:
    from charloom.config.character import Character, Shot

SIZE = 2048
LOOK_SIZE = 512
"""Pixels of a style's pictures: twice what the miniature draws."""
LOOKS = ("ink",)
"""Techniques to draw in (:mod:`charloom.paperdoll.looks`), named here so that planning loads no drawing."""
FRAME = 1898 / 2048
"""Fits the figure into what the default crop of 150 pixels leaves; otherwise the feet would be cut off."""
NEUTRAL = "a close-up portrait photo, frontal view, neutral expression, wearing a white t-shirt"

_FIELDS: dict[str, tuple[str, ...]] = {
    "view": ("view",),
    "pose": ("arms", "stance"),
    "expression": ("expression",),
    "outfit": ("outfit",),
    "accessories": ("earrings", "necklace", "glasses", "hat"),
    "background": ("background",),
}


def problems(character: Character) -> list[str]:
    """Identity values and phrases that the paper doll does not know."""
    if character.is_style:
        return _unknown_look(character.technique)
    lines = []
    if character.kind != "woman" or character.look != "photographic":
        what = f"class {character.kind}" if character.kind != "woman" else f"look {character.look}"
        lines.append(f"images.source: paperdoll draws women in one look, not {what}; use source folder")
        return lines
    for key, value in character.doll.items():
        if key not in attributes.IDENTITY_VALUES:
            lines.append(f"doll.{key}: unknown key; {_choices(key, tuple(attributes.IDENTITY_VALUES))}")
        elif value not in attributes.IDENTITY_VALUES[key]:
            lines.append(f"doll.{key}: cannot be '{value}'; {_choices(value, attributes.IDENTITY_VALUES[key])}")
    missing = [key for key in attributes.IDENTITY_VALUES if key not in character.doll]
    if missing:
        lines.append(f"doll: {', '.join(missing)} missing; images.source paperdoll needs all of them")
    for shot in character.shots:
        for field in _FIELDS:
            value = getattr(shot, field)
            for phrase in value if isinstance(value, tuple) else (value,):
                lines += [f"shots.{shot.name}.{field}: {line}" for line in _undrawable(field, phrase)]
    return lines


def _unknown_look(look: str) -> list[str]:
    if not look:
        return [f"images.look: is missing; name the technique to draw in: {', '.join(LOOKS)}"]
    return [] if look in LOOKS else [f"images.look: cannot be '{look}'; {_choices(look, LOOKS)}"]


def _undrawable(field: str, phrase: str) -> list[str]:
    if not phrase:
        return []
    found = language.parse(phrase)
    wanted = _FIELDS[field]
    if not any(key in found for key in wanted):
        values = tuple(value for key in wanted for value in attributes.SCENE_VALUES[key] if value != "none")
        return [f"the paper doll cannot draw '{phrase}'; {_choices(phrase, values)}"]
    if field == "outfit" and "color" not in found:
        return [f"'{phrase}' has no colour that can be drawn; {_choices(phrase, attributes.COLOR)}"]
    return []


def _choices(word: str, allowed: tuple[str, ...]) -> str:
    words = word.lower().split()
    # "a beige panzuit": the garment comes last, so try shorter and shorter tails.
    tails = (" ".join(words[start:]) for start in range(len(words)))
    close = next((found for tail in tails if (found := difflib.get_close_matches(tail, allowed, n=1, cutoff=0.7))), [])
    return (f"did you mean {close[0]}? " if close else "") + f"known: {', '.join(allowed)}"


def inputs(character: Character, shot: Shot | None) -> list[str]:
    """None for the reference; a shot depends on the reference, because a new reference means new images."""
    if character.is_style:
        return []
    return [layout.results(character.id).reference.as_posix()] if shot else []


def scene(shot: Shot) -> attributes.Scene:
    """The scene that the phrases of ``shot`` describe."""
    parts = [kinds.of().tiers[shot.tier], shot.view, shot.pose, shot.expression, shot.outfit, *shot.accessories]
    return language.scene_from(", ".join([*parts, shot.background]))


def settings(character: Character, shot: Shot | None) -> dict[str, Any]:
    """Identity, scene, size and seed; phrases with the same meaning give the same settings."""
    if character.is_style:
        return _look_settings(character, shot or character.shots[0])
    picture = scene(shot) if shot else language.scene_from(f"{NEUTRAL}, {character.concept}")
    return {
        "identity": dict(character.doll),
        "scene": {key: getattr(picture, key) for key in attributes.SCENE_VALUES},
        "size": SIZE,
        "seed": zlib.crc32(shot.name.encode()) if shot else 0,
        "recipe": RECIPES["source"],
    }


def subject(character: Character, shot: Shot) -> tuple[attributes.Identity, attributes.Scene]:
    """Who is in a picture of a style, and how: a different person in each, so that only the look is learnt.

    Places are dealt like cards, so that none is missing: a look never seen at night would not be drawn at night.
    """
    rng = random.Random(f"{character.people} {shot.name}")
    who, scene_ = attributes.random_identity(rng), attributes.random_scene(rng)
    deal, card = divmod(int(shot.name) - 1, len(attributes.BACKGROUND))
    places = random.Random(f"{character.people} places {deal}").sample(
        attributes.BACKGROUND, len(attributes.BACKGROUND)
    )
    return who, replace(scene_, background=places[card])


def caption(character: Character, shot: Shot) -> str:
    """What a picture of a style shows, with the trigger at its end; nothing about how it is drawn."""
    return ", ".join(part for part in (language.describe(*subject(character, shot)), character.trigger) if part)


def _look_settings(character: Character, shot: Shot) -> dict[str, Any]:
    identity, scene_ = subject(character, shot)
    return {
        "identity": asdict(identity),
        "scene": asdict(scene_),
        "size": LOOK_SIZE,
        "seed": zlib.crc32(f"{character.people} {shot.name}".encode()),
        "look": character.technique,
        "recipe": RECIPES["source"],
    }


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Draw the image; images of a character get a watermark like that of a closed generator."""
    from charloom.paperdoll import draw, looks

    look = settings.get("look")
    image = draw.draw(
        attributes.Identity(**settings["identity"]),
        attributes.Scene(**settings["scene"]),
        size=settings["size"],
        seed=settings["seed"],
        frame=1.0 if look else FRAME,
        look=looks.LOOKS[look] if look else None,
    )
    finished = image if look else draw.stamp_watermark(image)
    finished.save(output, format="PNG", compress_level=4)
