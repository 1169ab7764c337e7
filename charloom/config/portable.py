"""A character and its base as files that mean the same on another machine.

Everything that other files or the command line have decided is written out: the plan's shots, the whole recipe, the
crop, the base. Folders of the user's own pictures become folders below ``resources/``, because a path of this machine
says nothing there and a lot about its owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

from charloom.config import excluding, gallery, generation, knobs, masking, schema
from charloom.config.base import Base
from charloom.config.character import Character

_HEAD = "# yaml-language-server: $schema=../schemas/{kind}.schema.yaml\n# {what}\n"


def pictures_of(character: str) -> str:
    """Where another machine has the pictures of a character whose source is a folder."""
    return f"resources/characters/{character}"


def pictures_of_set(character: str, part: str) -> str:
    """Where another machine has the pictures of an extra data set."""
    return f"resources/datasets/{character}/{part}"


def masks_of(character: str, part: str = "") -> str:
    """Where another machine has the masks of a character's shots, or of an extra data set."""
    return f"resources/masks/{character}" + (f"/{part}" if part else "")


def start_of(character: str) -> str:
    """Where another machine has the LoRA that training starts from (``network.init``)."""
    return f"resources/loras/{character}-start.safetensors"


def elsewhere(character: Character, base: Base) -> dict[str, str]:
    """What another machine has in place of the user's folders outside of the workflow."""
    mine = {base.path: f"resources/bases/{base.name}", character.folder: pictures_of(character.id)}
    mine |= {part.folder: pictures_of_set(character.id, part.name) for part in character.datasets}
    mine |= {masking.source(character): masks_of(character.id)}
    mine |= {masking.source(character, part): masks_of(character.id, part.name) for part in character.datasets}
    mine[character.recipe["network"].get("init")] = start_of(character.id)
    return {str(path): name for path, name in mine.items() if path and not is_inside(str(path))}


def character_file(character: Character) -> str:
    """The text of ``config/characters/<id>.yaml``. Pictures of folders are cropped already, so they lose their crop."""
    written = {**_by_default(character), **character.written}
    cut = {"right": 0, "bottom": 0}
    images = dict(written["images"])
    # Captions and masks are there already, whoever made them.
    images |= {"masks": masks_of(character.id)} if "masks" in images else {}
    images.pop(excluding.KEY, None)  # what is left out does not travel
    if "count" in images:
        images["count"] = len(character.shots)
    words = {key: value for key, value in (written.pop("captions", None) or {}).items() if key not in _CAPTIONER}
    crop = dict(character.crop)
    if character.generation:
        # The pictures travel with the character: another machine would get other ones.
        images = {key: value for key, value in images.items() if key not in generation.KEYS} | {"source": "folder"}
    if images["source"] == "folder":
        images["path"], crop = pictures_of(character.id), {**crop, **cut}
    written |= {
        "images": images,
        "shots": [{key: value for key, value in shot.phrases().items() if value} for shot in character.shots],
        "base": character.base,
        "crop": crop,
        "recipe": _recipe(character),
        "checkpoint": character.checkpoint,
        **({"captions": words} if words else {}),
    }
    if character.gallery:
        written["gallery"] = gallery.written_without_styles(written["gallery"])
    if character.whole:
        del written["shots"]  # all of them, as here
    elif len(character.shots) != 30:
        images.setdefault("count", len(character.shots))
    if character.datasets:
        written["datasets"] = [
            {
                **entry,
                "path": pictures_of_set(character.id, part.name),
                "crop": {**part.crop, **cut},
                **({"masks": masks_of(character.id, part.name)} if part.masks else {}),
            }
            for entry, part in zip(written["datasets"], character.datasets, strict=True)
        ]
    return _text("character", f"{character.name}, with everything that pictures and LoRA were made with", written)


def names_more(written: dict[str, Any]) -> Iterator[str]:
    """Keys of a character file that :func:`character_file` never writes: they name files, servers and models, and the
    keys of these."""
    images, gallery_ = written["images"], written.get("gallery", {})
    yield from (key for key in images if key in generation.KEYS)
    yield from (key for key in written.get("captions") or {} if key in _CAPTIONER)
    entries = [gallery_, *gallery_.get("prompts", ())] if isinstance(gallery_, dict) else gallery_
    yield from ("styles" for entry in entries if isinstance(entry, dict) and "styles" in entry)


def _recipe(character: Character) -> dict[str, Any]:
    """The whole recipe, with the LoRA that training starts from where the bundle puts it."""
    told = knobs.told(character.recipe)
    if character.init:
        told["network"] = {**told["network"], "init": start_of(character.id)}
    return told


_CAPTIONER = ("captioner", "accept", "most_tokens")


def _by_default(character: Character) -> dict[str, Any]:
    """What a file may leave out and another version might fill in otherwise, as far as this one has left it out."""
    lines = {"full": character.identity_full, "eyes_hidden": character.identity_hidden}
    told = {} if "identity_line" in character.written else {"class": character.kind, "identity_line": lines}
    prompts = [prompt.text for prompt in character.sample_prompts]
    return {"name": character.name, "sample_prompts": prompts, **told}


def base_file(base: Base) -> str:
    """The text of ``config/bases/<name>.yaml``."""
    values = {
        key: value for key, value in vars(base).items() if key not in ("name", "label") and value not in (None, {}, "")
    }
    if network := values.get("recipe", {}).get("network"):
        # Where its trainings start from is in the character's file.
        network = {key: value for key, value in network.items() if key != "init"}
        values["recipe"] = {**values["recipe"], "network": network}
    values["adapters"] = {name: _local(one, base.name) for name, one in base.adapters.items()}
    if base.judge_models:
        values["judge_models"] = {
            name: {**one, "path": _local(one["path"], base.name)} if "path" in one else one
            for name, one in base.judge_models.items()
        }
    for key, folder in (("path", ""), ("transformer_file", "/"), ("judge_weights", "/")):
        if isinstance(values.get(key), str) and not is_inside(values[key]):
            values[key] = f"resources/bases/{base.name}" + (f"/{Path(values[key]).name}" if folder else "")
    return _text("base", f"The base {base.name}", values)


def weights_of(written: Mapping[str, Any]) -> list[str]:
    """The local files and folders that a base's file names."""
    models = [one.get("path") for one in written.get("judge_models", {}).values()]
    named = [written.get(key) for key in ("path", "transformer_file", "judge_weights")]
    return [one for one in [*named, *written.get("adapters", {}).values(), *models] if isinstance(one, str)]


def left_behind(character: Character, base: Base) -> list[str]:
    """Says what the files of character and base refer to and a bundle does not contain."""
    local = not base.miniature and weights_of(vars(base))
    entry = (character.written.get("captions") or {}).get("captioner")
    styles = dict.fromkeys(one.label for scene in character.gallery for one in scene.styles)
    found = {
        f"the weights of {base.name} and its judge (files of whoever made this)": bool(local),
        "the captioner": bool(entry),
        "what generated the pictures": character.generation is not None,
        f"the styles of the gallery ({', '.join(styles)})": bool(styles),
    }
    return [what for what, there in found.items() if there]


def _local(adapter: Any, base: str) -> Any:
    outside = isinstance(adapter, str) and not is_inside(adapter)
    return f"resources/bases/{base}/{Path(adapter).name}" if outside else adapter


def is_inside(path: str) -> bool:
    """Whether a path stays in the folder of the workflow on every system: relative, no ``..``, ``~`` or drive."""
    windows = PureWindowsPath(path)
    return not (
        path.startswith(("/", "\\", "~")) or windows.drive or windows.root or ".." in windows.parts or "\0" in path
    )


def _text(kind: str, what: str, values: dict[str, Any]) -> str:
    """YAML in the order of the schema."""
    order = list(schema.load_schema(kind)["properties"])
    ordered = {key: values[key] for key in sorted(values, key=order.index)}
    body: str = yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=110)
    return _HEAD.format(kind=kind, what=what) + body
