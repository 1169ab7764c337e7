"""Further data sets of an ai-toolkit job, as entries of ``datasets`` in a character file.

The first data set that is no regularisation set is the character's own; the others become entries. Knows the
keys of both sides and looks into folders only to say what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from charloom.inventory import text_of
from charloom.sources.folder import images

_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "num_repeats": ("repeats", int),
    "network_weight": ("weight", float),
    "is_reg": ("regularization", bool),
    "caption_dropout_rate": ("caption_dropout", float),
    "flip_x": ("flip_x", bool),
    "flip_y": ("flip_y", bool),
}


def own_first(sets: Sequence[Mapping[str, Any]]) -> tuple[int, Mapping[str, Any], list[tuple[int, Mapping[str, Any]]]]:
    """(number, data set) of the character itself, and the others with their numbers, which count from 1."""
    numbered = list(enumerate(sets, 1)) or [(1, {})]
    own = next((pair for pair in numbered if not pair[1].get("is_reg")), numbered[0])
    return *own, [pair for pair in numbered if pair is not own]


def sizes(value: Any) -> list[int]:
    """One resolution or several, in ascending order."""
    return sorted({int(size) for size in (value if isinstance(value, list) else [value])})


def caption(text: Any) -> str:
    """A default caption with charloom's placeholder for the trigger."""
    return " ".join(str(text).split()).replace("[trigger]", "{trigger}")


def entry(number: int, found: Mapping[str, Any], taken: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """A data set of a job as an entry of ``datasets``.

    Args:
        number: its place in the job, from 1.
        found: its keys in the job.
        taken: names that other entries have.

    Returns:
        the entry, the keys that were understood, and what is left to do.
    """
    folder = str(found.get("folder_path") or "")
    name = re.sub(r"[^a-z0-9_-]+", "-", Path(folder).name.lower()).strip("-_")[:34] or "more"
    unique = f"{name}-{number}" if name in taken else name
    made: dict[str, Any] = {"name": unique, "path": folder or f"resources/{name}"}
    understood = ["folder_path"]
    for key, (target, convert) in _KEYS.items():
        if found.get(key) is not None:
            made[target] = convert(found[key])
            understood.append(key)
    if found.get("resolution") is not None:
        made["resolutions"] = sizes(found["resolution"])
        understood.append("resolution")
    if "default_caption" in found:
        understood.append("default_caption")
        if text := caption(found["default_caption"] or ""):
            made["default_caption"] = text
    return made, understood, _left_to_do(number, made)


def _left_to_do(number: int, made: Mapping[str, Any]) -> list[str]:
    where, folder = f"datasets.{made['name']}.path", Path(made["path"])
    files = images(folder)
    if not files:
        return [f"{where}: there are no images in {folder} (data set {number} of the job); correct it"]
    without = [path.name for path in files if not text_of(path.with_suffix(""))]
    if without and "default_caption" not in made:
        return [f"{where}: {len(without)} images have no .txt; write captions, or set default_caption"]
    return []
