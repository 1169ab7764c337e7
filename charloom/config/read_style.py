"""A style file, read and checked. What it makes is a :class:`Character` with ``is_style``: all rules serve both.

A style has pictures of many subjects and no identity. Usually they are there already; then its trigger is optional, and
without one the file has its effect on every picture. Where they are still to be made, a plan of shots says what is on
each and ``appearance`` how it is drawn: such a file has the keys of a character.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.config import (
    captioning,
    datasets,
    excluding,
    generation,
    image_folder,
    inventory,
    read_character,
    schema,
    yaml,
)
from charloom.config.character import Character, Shot
from charloom.core import words
from charloom.core.errors import UserError


def read(path: Path, label: str, context: dict[str, Any], recipe_for: Any) -> Character:
    """The style in ``path``; arguments and errors as of :func:`charloom.config.read_character.read`."""
    document = yaml.read_yaml(path, label)
    if _planned(document):
        if "class" in document:
            raise UserError(f"{label}: class: a style has no class; remove it")
        return read_character.of_document(document, path, label, context, recipe_for, style=True)
    data, problems = schema.check(document, "style", label)
    if problems:
        raise UserError.several(problems)
    base = data.get("base", context["base"])
    recipe, more = recipe_for(base, data.get("recipe", {}), label)
    images, trigger = data["images"], data.get("trigger", "")
    folder = inventory.placed(images["path"]) if "path" in images else None
    sets, wrong = datasets.read(data.get("datasets", ()), trigger, recipe["data"]["default_caption"])
    every = _shots(images, folder)
    shots, excluded, parts, lost = excluding.apart(images, every, sets, takes_all=images["source"] == "folder")
    checkpoint, cut = data.get("checkpoint", "auto"), {**context["crop"], **data.get("crop", {})}
    style = Character(
        is_style=True,
        id=path.stem,
        label=label,
        name=data["name"],
        trigger=trigger,
        concept="",
        appearance="",
        identity_full="",
        identity_hidden="",
        doll={},
        technique=images.get("look", ""),
        people=images.get("seed", 0),
        source=images["source"],
        folder=folder,
        count=len(shots),
        shots=shots,
        excluded=excluded,
        planned=tuple(shot.name for shot in every),
        sample_prompts=tuple(read_character.prompts(data["sample_prompts"], trigger, recipe["sample"])),
        base=base,
        # As of a folder's own pictures: drawn ones carry no watermark here.
        crop=read_character.cropped(cut, "folder", recipe["data"]["resolutions"]),
        recipe=recipe,
        checkpoint=data.get("ship", checkpoint) if checkpoint == "auto" else checkpoint,
        ship=data.get("ship"),
        datasets=parts,
        written=data,
    )
    texts = {shot.name: style.caption_file(shot, context["root"]) for shot in shots}
    blank = {name for name, text in texts.items() if text and datasets.is_blank(text)}
    silent = {name for name, text in texts.items() if not text and style.source == "folder"}
    style = replace(style, blank=frozenset(blank | silent))
    problems = more + [f"{label}: {line}" for line in [*wrong, *lost, *_mistakes(style, data)]]
    if context["ready"] == path.stem:
        problems += context["image_problems"](style)
    if problems:
        raise UserError.several(problems)
    return style


def _planned(document: yaml.Document) -> bool:
    """Whether a style's pictures are made by a plan of shots."""
    images = document.get("images")
    return "shots" in document or (isinstance(images, dict) and images.get("source") in generation.GENERATORS)


def _shots(images: dict[str, Any], folder: str | None) -> tuple[Shot, ...]:
    """One shot for every picture of the folder, or for every picture to draw."""
    if images["source"] == "folder":
        files = [path for path in image_folder.images(folder or "") if path.stem != image_folder.REFERENCE]
        named = image_folder.names(files)
        return tuple(Shot(name, file="" if path.stem == name else path.name) for name, path in named.items())
    return tuple(Shot(f"{number:03d}") for number in range(1, images.get("count", 40) + 1))


def _mistakes(style: Character, data: dict[str, Any]) -> list[str]:
    """What a schema cannot check, each as ``key: what is wrong; what to do``."""
    found = []
    texts = {f"sample_prompts[{i}]": prompt.text for i, prompt in enumerate(style.sample_prompts, 1)}
    default = style.recipe["data"]["default_caption"]
    for key, text in {**texts, "recipe.data.default_caption": default}.items():
        if meant := words.misspelt_placeholder(text):
            found.append(f"{key}: {meant} is taken literally; did you mean {words.PLACEHOLDER}?")
    written = [entry["prompt"] if isinstance(entry, dict) else entry for entry in data["sample_prompts"]]
    for key, text in {**dict(zip(texts, written, strict=True)), "recipe.data.default_caption": default}.items():
        if words.PLACEHOLDER in text and not style.trigger:
            found.append(f"{key}: has {words.PLACEHOLDER}, but this style has no trigger; remove it, or set trigger")
    for key, text in texts.items():
        if style.trigger and (number := words.count(text, style.trigger)) > 1:
            found.append(f"{key}: contains the trigger {number} times; use it once, or not at all to compare")
    if style.trigger and not any(words.count(text, style.trigger) for text in texts.values()):
        found.append("sample_prompts: none contains the trigger, so none shows the style; write {trigger} in them")
    if style.class_word is not None and not style.trigger:
        key = "recipe.train.preservation.differential"
        found.append(f"{key}: needs a trigger to replace by the class; set trigger, or turn it off")
    if style.source == "folder" and style.technique:
        found.append("images.look: pictures of a folder are taken as they are; remove it, or set source: paperdoll")
    found += captioning.mistakes(style) + read_character.steps_mistakes(style)
    return found
