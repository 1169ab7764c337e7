"""Slices of the settings, as in :mod:`charloom.workflow.slices`, for the gallery."""

from __future__ import annotations

from typing import Any

from charloom.config.base import Base
from charloom.config.character import Character
from charloom.config.gallery import Scene, names
from charloom.core import layout
from charloom.core.canonical import canonical_json
from charloom.core.files import expanded
from charloom.core.versions import RECIPES
from charloom.workflow import slices


def _drawing(character: Character, one: Scene) -> dict[str, Any]:
    """How a scene is drawn: the settings of a preview with the scene's own values."""
    preview = next(iter(slices.samples(character).values()))
    own = {key: getattr(one, key) for key in ("width", "height", "seed", "steps", "guidance")}
    return {**preview, **own, "scale": one.strength}


def scene(character: Character, base: Base, scene_name: str) -> str:
    """For one picture of the gallery: how it is drawn, and what its metadata says."""
    one = _named(character, scene_name)
    on_top = [{"style": style.label, "strength": style.strength} for style in one.styles]
    return canonical_json(
        {
            "drawing": _drawing(character, one),
            "prompt": one.prompt,
            "text": one.text,
            **({"styles": on_top} if on_top else {}),
            "about": about(character, base),
            "recipe": RECIPES["gallery"],
        }
    )


def about(character: Character, base: Base) -> dict[str, Any]:
    """What a picture's metadata says about its character and base."""
    who = {key: getattr(character, key) for key in ("id", "name", "trigger")}
    told = {**who, "base": base.name, **base.comfyui, "miniature": base.miniature}
    told |= {"label": base.name} if base.architecture else {}
    return told | ({"negative": away} if (away := character.negative_prompt) else {})


def other_scenes(character: Character) -> str:
    """Every picture of the gallery, to be drawn in one go: settings, and style files with strengths, by the prompt."""
    return canonical_json(
        {one.prompt: {"drawing": _drawing(character, one), "styles": _loras(one)} for one in character.gallery}
    )


def _loras(one: Scene) -> list[list[Any]]:
    return [
        [layout.results(style.style).final.as_posix() if style.style else _path(style.file), style.strength]
        for style in one.styles
    ]


def _path(file: str) -> str:
    return str(expanded(file))


def styles(character: Character) -> list[str]:
    """The workflow's own styles in the gallery."""
    return list(names(character.gallery))


def files(character: Character, scene_name: str) -> list[str]:
    """LoRA files from elsewhere in a picture of the gallery."""
    return [_path(style.file) for style in _named(character, scene_name).styles if style.file]


def _named(character: Character, scene_name: str) -> Scene:
    return next(one for one in character.gallery if one.name == scene_name)


def listed(character: Character) -> list[dict[str, Any]]:
    """What the bundle says about every scene."""
    return [
        {
            **{key: getattr(one, key) for key in ("name", "text", "width", "height", "steps", "seed")},
            "scale": one.strength,
            **({"styles": [[style.label, style.strength] for style in one.styles]} if one.styles else {}),
        }
        for one in character.gallery
    ]


def gallery(character: Character, base: Base) -> str:
    """For the page of the gallery."""
    scenes = [
        {
            "name": one.name,
            "text": one.text,
            "styles": [{"style": style.label, "strength": style.strength} for style in one.styles],
            **{key: getattr(one, key) for key in ("width", "height", "steps", "guidance", "seed", "strength")},
        }
        for one in character.gallery
    ]
    who = {"character": character.id, "name": character.name, "trigger": character.trigger}
    who |= {"base": base.name, "miniature": base.miniature}
    return canonical_json({**who, "scenes": scenes, "recipe": RECIPES["gallery"]})
