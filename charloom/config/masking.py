"""Where the masks of pictures come from: ``images.masks`` of a character file. Opens no picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from charloom.config import image_folder
from charloom.config.character import Character

AUTO = "auto"
WEIGHT = 0.1
"""Weight of the loss outside the person, where the recipe names none."""


def source(character: Character) -> str:
    """``auto``, a folder of masks, or nothing."""
    given: str = (character.written.get("images") or {}).get("masks", "")
    return given if given in ("", AUTO) else os.path.expanduser(given)


def masked(character: Character) -> list[str]:
    """The pictures with a mask: the shots, if masks are asked for."""
    return character.shot_names if source(character) else []


def mask_file(character: Character, name: str) -> Path | None:
    """The user's mask of a shot: named like its picture, in folders too, or like the shot, in the folder of masks."""
    folder = source(character)
    if folder in ("", AUTO):
        return None
    shot = character.shot(name)
    stems = dict.fromkeys([Path(shot.file).with_suffix("") if shot.file else Path(name), Path(name)])
    places = [(Path(folder) / stem.parent, stem.name) for stem in stems if not stem.is_absolute()]
    found = (image_folder.find(str(place), stem) for place, stem in places if place.is_dir())
    return next(filter(None, found), None)


def weight(character: Character) -> float:
    """Weight of the loss outside the person."""
    return float(character.recipe["data"].get("mask_weight", WEIGHT))


def weights(character: Character) -> dict[str, Any]:
    """For the manifest: the weight outside the person by picture; nothing where there are no masks."""
    found = dict.fromkeys(masked(character), weight(character))
    return {"masks": found} if found else {}


def problems(character: Character) -> list[str]:
    """Masks that are not there, each as ``key: what is wrong; what to do``."""
    folder = source(character)
    if folder in ("", AUTO):
        return []
    if not Path(folder).is_dir():
        return [f"images.masks: there is no folder {folder}; correct it, or write auto"]
    if character.whole and character.folder and Path(folder).resolve().is_relative_to(Path(character.folder).resolve()):
        return [f"images.masks: {folder} lies in images.path, whose every picture is trained on; move it beside it"]
    lost = [name for name in character.shot_names if mask_file(character, name) is None]
    if lost:
        some = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        return [f"images.masks: {folder} has no mask for {some}; draw one (white on the person, black elsewhere)"]
    return []


def settings(character: Character, name: str) -> dict[str, Any]:
    """What a mask depends on, beside the picture and the user's mask."""
    part, _ = character.part_of(name)
    data = {**character.recipe["data"], **(part.own if part else {})}
    return {
        "source": AUTO if source(character) == AUTO else "file",
        "crop": {side: character.crop[side] for side in ("right", "bottom")},
        "resolutions": sorted(data["resolutions"]),
    }
