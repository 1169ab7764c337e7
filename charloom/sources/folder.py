"""The user's own images: one file for each shot, named like it, copied as PNG and never changed."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.errors import UserError

if TYPE_CHECKING:
    from charloom.character import Character, Shot

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
REFERENCE = "reference"


def find(folder: str, stem: str) -> Path | None:
    """The image called ``stem`` in ``folder``, in whatever supported format."""
    return next((path for suffix in SUFFIXES if (path := Path(folder, stem + suffix)).is_file()), None)


def problems(character: Character) -> list[str]:
    """Missing folder and missing images."""
    if not character.folder:
        return ["images.path: is missing; name the folder with your images"]
    if not Path(character.folder).is_dir():
        return [f"images.path: there is no folder {character.folder}; make it and put {character.count} images in it"]
    names = [REFERENCE, *character.shot_names]
    there = [path.stem for path in Path(character.folder).iterdir() if path.suffix.lower() in SUFFIXES]
    lines = []
    for name in names:
        if not find(character.folder, name):
            spare = difflib.get_close_matches(name, [stem for stem in there if stem not in names], n=1)
            hint = f"; rename {spare[0]}?" if spare else "; add the image or change the plan"
            lines.append(f"images.path: {character.folder} has no {name}.png (nor .jpg, .webp){hint}")
    return lines


def inputs(character: Character, shot: Shot | None) -> list[str]:
    """The user's file."""
    found = find(character.folder or "", shot.name if shot else REFERENCE)
    return [str(found)] if found else []


def settings(character: Character, shot: Shot | None) -> dict[str, Any]:
    """Nothing decides but the file itself."""
    return {}


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Copy a PNG byte for byte; write any other format as a lossless PNG."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not inputs:
        raise UserError(f"{output}: its image is gone from the folder; put it back")
    try:
        with Image.open(inputs[0]) as image:
            if image.format == "PNG":
                image.verify()
                shutil.copyfile(inputs[0], output)
                return
            ImageOps.exif_transpose(image).convert("RGB").save(output, format="PNG")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{inputs[0]}: is no image that can be read ({error}); replace it") from None
