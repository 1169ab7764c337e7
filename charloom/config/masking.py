"""Where the masks of pictures come from: ``masks`` of ``images`` and of extra data sets. Opens no picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.config import image_folder, inventory
from charloom.config.character import Character
from charloom.config.datasets import DataSet
from charloom.core import words

AUTO = image_folder.AUTO
WEIGHT = 0.1
"""Weight of the loss outside the person, where the recipe names none."""


def source(character: Character, part: DataSet | None = None) -> str:
    """``auto``, a folder of masks, or nothing: of the shots, or of an extra data set."""
    given: str = part.masks if part else (character.written.get("images") or {}).get("masks", "")
    return given if given in ("", AUTO) else inventory.placed(given)


def masked(character: Character) -> list[str]:
    """The images with a mask: the shots and the extra data sets for which masks are asked for."""
    shots = character.shot_names if source(character) else []
    return [*shots, *(item for part in character.datasets if part.masks and not part.holdout for item in part.items)]


def mask_file(character: Character, name: str) -> Path | None:
    """The user's mask of an image: named like its picture, in folders too, or like the shot, in the folder of masks."""
    part, image = character.part_of(name)
    folder = source(character, part)
    if folder in ("", AUTO):
        return None
    if part:
        return image_folder.find(folder, part.files[image].stem)
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
    lines = []
    if (folder := source(character)) not in ("", AUTO):
        lines += _folder_problems(character, "images", folder, character.shot_names)
    for number, part in enumerate(character.datasets, 1):
        if part.masks and part.holdout:
            lines.append(f"datasets[{number}].masks: what is held out is compared as whole pictures; remove it")
        elif (folder := source(character, part)) not in ("", AUTO):
            lines += _folder_problems(character, f"datasets[{number}]", folder, part.items)
    return lines


def _folder_problems(character: Character, key: str, folder: str, names: list[str]) -> list[str]:
    if not Path(folder).is_dir():
        return [f"{key}.masks: there is no folder {folder}; {inventory.meant(folder, 'correct it, or write auto')}"]
    trained = {f"datasets[{number}].path": part.folder for number, part in enumerate(character.datasets, 1)}
    trained |= {"images.path": character.folder} if character.folder else {}
    for other, path in trained.items():
        if Path(path).resolve() == Path(folder).resolve():
            return [f"{key}.masks: {folder} is {other}, whose pictures are trained on; put masks into their own folder"]
    lost = [name for name in names if mask_file(character, name) is None]
    if lost:
        some = words.listed(lost, 3)
        return [f"{key}.masks: {folder} has no mask for {some}; draw one (white on the person, black elsewhere)"]
    return []


def settings(character: Character, name: str) -> dict[str, Any]:
    """What a mask depends on, beside the picture and the user's mask."""
    part, _ = character.part_of(name)
    data = {**character.recipe["data"], **(part.own if part else {})}
    crop = part.crop if part else character.crop
    return {
        "source": AUTO if source(character, part) == AUTO else "file",
        "crop": {side: crop[side] for side in ("right", "bottom")},
        "resolutions": sorted(data["resolutions"]),
    }
