"""Extra data sets of a character: folders of images, each with a .txt beside it.

More pictures of the character, regularisation images of other people, or pictures held out of training. Their images
are called ``<set>/<image>`` and go through the same rules as the shots of the plan. Lists folders; opens no image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from charloom.config import image_folder, inventory, schema
from charloom.config.knobs import ITEM_OVERRIDES
from charloom.core import words


@dataclass(frozen=True)
class DataSet:
    """One folder of images: ``files`` by name, and ``own``, its overrides of ``recipe.data``."""

    name: str
    folder: str
    files: Mapping[str, Path]
    weight: float = 1.0
    repeats: int = 1
    default_caption: str = ""
    regularization: bool = False
    holdout: bool = False
    crop: Mapping[str, int] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    excluded: Mapping[str, Path] = field(default_factory=dict)
    """Pictures that ``images.exclude`` leaves out."""
    masks: str = ""
    """``auto`` or a folder of masks, if the person should count more than the rest."""

    @property
    def items(self) -> list[str]:
        """Names of the images in the workflow: ``<set>/<image>``."""
        return [f"{self.name}/{image}" for image in self.files]

    def caption_file(self, image: str) -> Path | None:
        """The image's own caption, if it has one."""
        return self.texts.get((self.files.get(image) or self.excluded[image]).stem)

    @cached_property
    def texts(self) -> dict[str, Path]:
        """Captions in the folder by their stems; listed once, because there may be thousands."""
        return inventory.texts(self.folder)

    def unused(self) -> list[inventory.Unused]:
        """Files in the folder that nothing reads."""
        there = {**self.files, **self.excluded}
        texts = [text for image in there if (text := self.caption_file(image))]
        names = {path.stem: f"{path.stem}.txt" for path in there.values()}
        without = [Path(inventory.placed(self.masks)).resolve()] if self.masks not in ("", image_folder.AUTO) else []
        return inventory.of_pictures(self.folder, [*there.values(), *texts], names, without)


def read(entries: Sequence[Mapping[str, Any]], trigger: str, default_caption: str) -> tuple[list[DataSet], list[str]]:
    """The data sets of a character file, and a line ``key: what is wrong; what to do`` per mistake.

    ``default_caption`` (of ``recipe.data``) applies to sets without one of their own. :func:`problems`
    checks the folders.
    """
    sets: list[DataSet] = []
    problems: list[str] = []
    for index, entry in enumerate(entries, 1):
        where = f"datasets[{index}]"
        if entry["name"] in {other.name for other in sets}:
            problems.append(f"{where}.name: {entry['name']} appears twice; every data set needs its own name")
        if entry.get("holdout") and entry.get("regularization"):
            problems.append(f"{where}: holdout and regularization exclude each other; remove one of them")
        default = fill(entry.get("default_caption", default_caption), trigger)
        if "default_caption" in entry and (meant := words.misspelt_placeholder(entry["default_caption"])):
            problems.append(f"{where}.default_caption: {meant} is taken literally; write {{trigger}}")
        folder = inventory.placed(entry["path"])
        made = DataSet(
            name=entry["name"],
            folder=folder,
            files=image_folder.names(image_folder.images(folder)),
            weight=entry.get("weight", 1.0),
            repeats=entry.get("repeats", 1),
            default_caption=default,
            regularization=entry.get("regularization", False),
            holdout=entry.get("holdout", False),
            crop={**schema.defaults(schema.load_schema("crop")), **NO_CROP, **entry.get("crop", {})},
            own={key: entry[key] for key in ITEM_OVERRIDES if key in entry},
            masks=entry.get("masks", ""),
        )
        sets.append(made)
    return sets, problems


def problems(sets: Sequence[DataSet]) -> list[str]:
    """Missing folders, images and captions of data sets, each as ``key: what is wrong; what to do``."""
    return [f"datasets[{index}].path: {line}" for index, part in enumerate(sets, 1) for line in _folder_mistakes(part)]


NO_CROP = {"right": 0, "bottom": 0, "minimum": 64}
"""Images of extra sets are not cropped unless the set says so."""


def fill(text: str, trigger: str) -> str:
    """A default caption on one line, with the trigger in place of ``{trigger}``."""
    return " ".join(text.split()).replace("{trigger}", trigger)


def is_blank(path: Path) -> bool:
    """Whether a caption file exists and is empty."""
    return path.is_file() and path.stat().st_size < 64 and not path.read_bytes().strip(b"\xef\xbb\xbf \t\r\n")


def _folder_mistakes(made: DataSet) -> list[str]:
    if not Path(made.folder).is_dir():
        remedy = inventory.meant(made.folder, "correct it, or remove the data set")
        return [f"there is no folder {made.folder}; {remedy}"]
    if not made.files:
        lost = [entry for entry in made.unused() if not entry.where.lower().endswith(".txt")]
        there = "; ".join(f"{entry.where}: {entry.what}" for entry in lost[:3])
        found = f" that is read, but {there}" if there else ""
        return [f"{made.folder} has no image (such as .png, .jpg or .webp){found}; add some, or remove the data set"]
    texts = {path.stem: made.caption_file(image) for image, path in made.files.items()}
    without = [text.name if text else f"{stem}.txt" for stem, text in texts.items() if not text or is_blank(text)]
    if without and not made.default_caption:
        return [
            f"{made.folder} has no text in {words.listed(sorted(without), 1)}; write captions, or set default_caption"
        ]
    return []
