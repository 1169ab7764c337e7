"""Reads the data sets of an ai-toolkit job: the character's own becomes shots, the others entries of ``datasets``.

Shots made here have a name, a file and a caption; what an image shows is not guessed. Folders are listed and captions
read; no image is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charloom.config import image_folder, inventory, schema
from charloom.core import files, words
from charloom.core.words import listed, swapped, tidy
from charloom.dataset import captions
from charloom.interop.aitoolkit.job import Job
from charloom.interop.aitoolkit.recipe import Knobs, whole

_VALUES = {
    "repeats": ("num_repeats", whole, 1),
    "weight": ("loss_multiplier", float, 1.0),
    "caption_dropout": ("caption_dropout_rate", float, 0.0),
    "flip_x": ("flip_x", bool, False),
    "flip_y": ("flip_y", bool, False),
}
"""Our key: ai-toolkit's key, its converter and ai-toolkit's default."""


def sizes(value: Any) -> list[int]:
    """One or several resolutions in ascending order."""
    return sorted({whole(size) for size in (value if isinstance(value, list) else [value])})


def phrase(text: Any) -> str:
    """A default caption with charloom's placeholder for the trigger."""
    return tidy(str(text)).replace("[trigger]", "{trigger}")


def own(job: Job, knobs: Knobs) -> None:
    """The knobs of ``recipe.data``: those of the character's own data set."""
    if not job.sets and job.values.get("datasets"):
        job.refuse("datasets", "is not a list of data sets; start each with - ")
    prefix = job.prefix(job.own)
    for target, (key, convert, default) in _VALUES.items():
        knobs.take(f"data.{target}", f"{prefix}.{key}", convert, default)
    knobs.take("data.resolutions", f"{prefix}.resolution", sizes, [512])
    if text := job.take(f"{prefix}.default_caption", phrase):
        knobs.put("data.default_caption", text)
    if job.trigger_word:
        # ai-toolkit empties a dropped caption, and then prepends the trigger as to any other.
        knobs.default("data.dropout_caption", "trigger")
        knobs.open.pop("data.dropout_caption", None)
    else:
        knobs.default("data.dropout_caption", "empty")


def extra(job: Job, knobs: Knobs, start: Path, trigger: str) -> list[dict[str, Any]]:
    """The other data sets of the job as entries of ``datasets``."""
    made: list[dict[str, Any]] = []
    for index in range(len(job.sets)):
        if index != job.own:
            made.append(_entry(job, knobs, index, start, [other["name"] for other in made], trigger))
    return made


def _entry(job: Job, knobs: Knobs, index: int, start: Path, taken: list[str], trigger: str) -> dict[str, Any]:
    prefix = job.prefix(index)
    folder = place(job, prefix, start)
    name = re.sub(r"[^a-z0-9_-]+", "-", Path(folder or "more").name.lower()).strip("-_")[:34] or "more"
    entry: dict[str, Any] = {
        "name": f"{name}-{index + 1}" if name in taken or not schema.is_name(name) else name,
        "path": folder or f"resources/{name}",
    }
    if job.take(f"{prefix}.is_reg", bool, False):
        entry["regularization"] = True
    data = {**knobs.ours["data"], **knobs.recipe.get("data", {})}
    for target, (key, convert, default) in _VALUES.items():
        value = job.take(f"{prefix}.{key}", convert)
        # Omitted keys are inherited from recipe.data, except repeats and weight, which default to 1.
        otherwise = default if target in ("repeats", "weight") else data[target]
        if value is not None or default != otherwise:
            entry[target] = default if value is None else value
    resolutions = job.take(f"{prefix}.resolution", sizes)
    if resolutions or data["resolutions"] != [512]:
        entry["resolutions"] = resolutions or [512]
    text = job.take(f"{prefix}.default_caption", phrase, "")
    if text or data["default_caption"]:
        entry["default_caption"] = text
    if entry.get("regularization") and (factor := job.take("train.reg_weight", float, 1.0)) != 1:
        entry["weight"] = entry.get("weight", 1.0) * factor
    _look_at(job, entry, index, suffix(job, prefix), trigger)
    return entry


def _look_at(job: Job, entry: Mapping[str, Any], index: int, ending: str, trigger: str) -> None:
    """Report what is left to do for an extra data set, whose captions are read in place."""
    where, folder = f"datasets.{entry['name']}.path", Path(entry["path"])
    files = image_folder.images(folder)
    if not files:
        job.todo.append(f"{where}: there are no images in {folder} (data set {index + 1} of the job); correct it")
        return
    if ending != ".txt":
        job.todo.append(f"{where}: its captions end in {ending}; rename them to .txt, the only ending that is read")
    texts = {file.name: caption_of(file, ".txt") for file in files}
    without = [name for name, text in texts.items() if not text]
    if without and not entry.get("default_caption"):
        job.todo.append(f"{where}: {listed(without, 1)} without a .txt; write captions, or set default_caption")
    marked = [name for name, text in texts.items() if "[trigger]" in text]
    if marked:
        job.todo.append(
            f"{where}: captions of {listed(marked, 1)} say [trigger]; write {trigger or 'the trigger'} there"
        )
    bare = [name for name, text in texts.items() if text and not words.count(text, trigger) and name not in marked]
    if trigger and bare and not entry.get("regularization"):
        job.todo.append(f"{where}: captions of {listed(bare, 1)} lack the trigger, which ai-toolkit prepends; add it")
    _nested(job, where, folder)


def place(job: Job, prefix: str, start: Path) -> str:
    """The folder of a data set, relative to the workflow's folder, else to the job file's folder ``start``."""
    folder = job.take(f"{prefix}.folder_path", str, "")
    if newer := job.take(f"{prefix}.dataset_path", str, ""):
        if newer.endswith((".json", ".jsonl")):
            job.refuse(f"{prefix}.dataset_path", "captions are read from .txt files beside the images, not from a list")
        else:
            folder = newer
    if not folder:
        return ""
    for spelled in dict.fromkeys((folder, folder.replace("\\", "/"))):
        given = files.expanded(spelled)
        for path in (given, start.parent / given):
            if path.is_dir():
                return path.as_posix()
    return files.expanded(folder).as_posix()


def suffix(job: Job, prefix: str) -> str:
    """The file name ending of a data set's captions."""
    word = job.take(f"{prefix}.caption_type", str) or job.take(f"{prefix}.caption_ext", str) or "txt"
    job.take(f"{prefix}.caption_ext")
    return f".{word.lstrip('.')}"


def caption_of(picture: Path, ending: str) -> str:
    """The caption beside an image as one line; empty if there is none.

    Raises:
        UserError: the file is not UTF-8 text.
    """
    text = inventory.text_of(picture.with_suffix("")) if ending == ".txt" else picture.with_suffix(ending)
    return captions.read(text) if text and text.is_file() else ""


def shots(job: Job, folder: str, trigger: str, default: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The images of the character's own data set as shots, and their captions by shot name.

    The trigger is added to captions as ai-toolkit does: in place of ``[trigger]``, else at the start.

    Args:
        trigger: the trigger of the character file, which replaces the job's trigger word.
        default: the job's default caption, for images without a caption; may be empty.
    """
    prefix = job.prefix(job.own)
    ending, word = suffix(job, prefix), job.trigger_word
    there = image_folder.images(folder) if folder else []
    named = image_folder.names([file for file in there if file.stem != image_folder.REFERENCE])
    made, captions, without, bare = [], {}, [], []
    for name, file in named.items():
        made.append({"name": name} | ({"file": file.name} if file.stem != name else {}))
        text = (caption_of(file, ending) or default).replace("[trigger]", trigger).replace("{trigger}", trigger)
        if not text:
            without.append(file.name)
            continue
        if word and not words.count(text, trigger):
            text = swapped(text, (word, trigger))
        if word and not words.count(text, trigger):
            text = f"{trigger} {text}"
            bare.append(file.name)
        captions[name] = text
    if without:
        have, are = ("picture has", "is") if len(without) == 1 else ("pictures have", "are")
        alone = f'"{trigger}" alone{", as in ai-toolkit" if word else ""}'
        job.todo.append(
            f"{len(without)} {have} no {ending} and {are} captioned {alone}; captions make it better (docs/captions.md)"
        )
    if bare:
        job.todo.append(f"captions of {listed(bare, 1)}: the trigger was prepended, as ai-toolkit does")
    for file in there:
        if file.stem == image_folder.REFERENCE:
            job.todo.append(f"{file.name}: is the neutral reference here and not trained on; rename it to train on it")
        elif file not in named.values():
            job.todo.append(f"{file.name}: another image has the same name with another ending; rename one of them")
    if there:
        _nested(job, "images.path", Path(folder))
    return made, captions


def look_for(job: Job, folder: str, label: str) -> None:
    """Report that the character's own folder, whose captions are read in place, is missing or has no pictures."""
    remedy = f"write the folder of your pictures into {label}"
    if not Path(folder).is_dir():
        job.todo.append(f"images.path: there is no folder {folder}; {remedy}")
    elif not image_folder.every(folder):
        job.todo.append(f"images.path: there are no pictures in {folder}; put them there, or {remedy}")
    if (ending := suffix(job, job.prefix(job.own))) != ".txt":
        job.todo.append(f"images.path: captions end in {ending}; rename them to .txt, the only ending that is read")


def _nested(job: Job, where: str, folder: Path) -> None:
    """Report subfolders, which ai-toolkit reads and charloom does not."""
    below = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
    if found := [name for name in below if image_folder.images(folder / name)]:
        job.todo.append(
            f"{where}: images in {listed(found, 1)} below {folder} are not read; move them, or add data sets"
        )
