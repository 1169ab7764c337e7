"""The user's own images: one file for each shot, named like it or by its key ``file``; copied as PNG, never changed."""

from __future__ import annotations

import difflib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.errors import UserError
from charloom.recipes import RECIPES

if TYPE_CHECKING:
    from charloom.character import Character, Shot

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
REFERENCE = "reference"


# Snakemake takes a name that ends in twenty times the same for a rule that feeds on itself.
_NAME = re.compile(r"(?!.*?(.+?)\1{19}$)[a-z0-9][a-z0-9_-]{0,39}")


def images(folder: str | Path) -> list[Path]:
    """The images in ``folder`` by name, whatever the case of their endings; none where there is no folder."""
    found = Path(folder).iterdir() if Path(folder).is_dir() else ()
    # macOS puts ._x.png beside x.png on foreign disks.
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())


def find(folder: str, stem: str) -> Path | None:
    """The image called ``stem`` in ``folder``, in whatever supported format."""
    known = (path for suffix in SUFFIXES if (path := Path(folder, stem + suffix)).is_file())
    return next(known, None) or next((path for path in images(folder) if path.stem == stem), None)


def names(files: Sequence[Path]) -> dict[str, Path]:
    """The images by names that can stand in paths of the workflow: their stems where these can, else made of them.

    Of files that differ in their endings alone, the one that :func:`find` takes.
    """
    ranked = sorted(files, key=lambda path: SUFFIXES.index(path.suffix.lower()), reverse=True)
    stems = {path.stem: path for path in ranked}
    made = {stem: stem for stem in stems if _NAME.fullmatch(stem)}
    times: Counter[str] = Counter()
    for stem in sorted(set(stems) - set(made)):
        like = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:34] or "image"
        like = re.sub(r"(.+?)\1{9,}$", r"\1", like)
        name = like
        while name in made:
            times[like] += 1
            name = f"{like}-{times[like] + 1}"
        made[name] = stem
    by_stem = {stem: name for name, stem in made.items()}
    return {by_stem[stem]: stems[stem] for stem in dict.fromkeys(path.stem for path in files)}


def of_shot(character: Character, shot: Shot) -> Path | None:
    """The user's file of a shot."""
    folder = character.folder or ""
    if not shot.file:
        return find(folder, shot.name)
    return path if (path := Path(folder, shot.file)).is_file() else None


def caption_file(folder: str, shot: Shot) -> Path:
    """Where the caption beside the image of a shot would be."""
    return Path(folder, shot.file).with_suffix(".txt") if shot.file else Path(folder, f"{shot.name}.txt")


def stray_captions(character: Character) -> list[str]:
    """Names of the texts in the folder that stand beside the image of no shot."""
    if character.source != "folder" or not character.folder:
        return []
    taken = {f"{REFERENCE}.txt", *(caption_file(character.folder, shot).name for shot in character.shots)}
    return sorted(path.name for path in Path(character.folder).glob("*.txt") if path.name not in taken)


def problems(character: Character) -> list[str]:
    """Missing folder and missing images."""
    if not character.folder:
        return ["images.path: is missing; name the folder with your images"]
    if not Path(character.folder).is_dir():
        return [f"images.path: there is no folder {character.folder}; make it and put {character.count} images in it"]
    there = [path.stem for path in images(character.folder)]
    lines = []
    for shot in character.shots:
        if of_shot(character, shot):
            continue
        if shot.file:
            lines.append(f"shots.{shot.name}.file: {character.folder} has no {shot.file}; correct it, or add the image")
            continue
        spare = difflib.get_close_matches(shot.name, [s for s in there if s not in character.shot_names], n=1)
        hint = f"; rename {spare[0]}?" if spare else "; add the image or change the plan"
        lines.append(f"images.path: {character.folder} has no {shot.name}.png (nor .jpg, .webp){hint}")
    return lines


def inputs(character: Character, shot: Shot | None) -> list[str]:
    """The user's file. Only pages show the reference, so that the first close-up stands in where there is none."""
    if shot:
        found = of_shot(character, shot)
    else:
        first = min(character.shots, key=lambda other: other.tier != "close-up")
        found = find(character.folder or "", REFERENCE) or of_shot(character, first)
    return [str(found)] if found else []


def settings(character: Character, shot: Shot | None) -> dict[str, Any]:
    """Nothing decides but the file itself."""
    return {"recipe": RECIPES["folder"]}


def make(settings: dict[str, Any], inputs: list[str], output: Path) -> None:
    """Copy a PNG byte for byte; write any other format as a lossless PNG, transparency and all."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    from charloom.crop import transparent

    if not inputs:
        raise UserError(f"{output}: its image is gone from the folder; put it back")
    try:
        with Image.open(inputs[0]) as image:
            if image.format == "PNG":
                image.verify()
                shutil.copyfile(inputs[0], output)
                return
            mode = "RGBA" if transparent(image) else "RGB"
            ImageOps.exif_transpose(image).convert(mode).save(output, format="PNG")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{inputs[0]}: is no image that can be read ({error}); replace it") from None
