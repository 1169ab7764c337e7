"""A character file, read and checked, with its plan, base and recipe resolved."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.config import (
    captioning,
    datasets,
    excluding,
    gallery,
    generation,
    image_folder,
    inventory,
    kinds,
    knobs,
    plans,
    previews,
    schema,
    yaml,
)
from charloom.config.character import Character, SamplePrompt
from charloom.core import words
from charloom.core.errors import UserError


def read(path: Path, label: str, context: dict[str, Any], recipe_for: Any) -> Character:
    """The character in ``path``.

    ``context`` holds ``base`` and ``crop`` of the workflow; ``root``, the folder of the project; ``ready``, the
    character whose images must exist; ``image_problems``, which checks them; and ``gallery``, which gives the defaults
    of galleries on a base.
    ``recipe_for(base, overrides, label)`` merges the recipe. Raises one :class:`UserError` with a line per mistake.
    """
    document = yaml.read_yaml(path, label)
    if document.get("kind") == "style":
        raise UserError(f"{label}: kind: is a style; move the file to config/styles/{path.name}")
    if document.get("class") == "style":
        raise UserError(
            f"{label}: class: a style has a file of its own; "
            f"move this one to config/styles/{path.name}, with kind: style in place of class: style"
        )
    return of_document(document, path, label, context, recipe_for)


def of_document(
    document: yaml.Document, path: Path, label: str, context: dict[str, Any], recipe_for: Any, *, style: bool = False
) -> Character:
    """The character, or the style with a plan, that the content of a file describes; arguments and errors as above."""
    data, problems = schema.check(document, "character", label)
    if problems:
        raise UserError.several(problems)
    images = data["images"]
    # What a file without a class says of a woman it has always said; one that says nothing speaks of a person.
    kind = "style" if style else data.get("class", "woman" if "identity_line" in data else "person")
    look, noun = data.get("look", "photographic"), words.tidy(data.get("noun", ""))
    spoken = kinds.of(kind, look, noun)
    folder = inventory.placed(images["path"]) if "path" in images else None
    whole = "shots" not in data and images["source"] == "folder"
    balance: dict[str, int] = {}
    if whole:
        shots, problems = plans.every_picture(folder, image_folder.with_a_use(data)), []
    else:
        asked_for = data.get("shots", kinds.plan(kind))
        shots, balance, problems = plans.read(asked_for, kind, spoken, document, label, context["root"])
    base = data.get("base", context["base"])
    recipe, more = recipe_for(base, data.get("recipe", {}), label)
    _preserve(recipe, data.get("recipe", {}), spoken, kind)
    if problems:
        raise UserError.several(problems + more)
    sets, wrong = datasets.read(data.get("datasets", ()), data["trigger"], recipe["data"]["default_caption"])
    planned = tuple(shot.name for shot in shots)
    kept, excluded, parts, lost = excluding.apart(images, shots, sets, takes_all=whole)
    checkpoint = data.get("checkpoint", "auto")
    line = f"{{trigger}}{' style' if kind == 'style' else f', {spoken.a_noun}'}"
    lines = data.get("identity_line", {"full": line, "eyes_hidden": line})
    asked = data.get("sample_prompts") or previews.prompts(kind, look)
    character = Character(
        is_style=style,
        id=path.stem,
        label=label,
        name=data.get("name", words.title(path.stem)),
        trigger=data["trigger"],
        concept=spoken.fill(words.tidy(data.get("concept", {}).get("prompt", ""))),
        appearance=spoken.fill(words.tidy(data.get("appearance", ""))),
        identity_full=spoken.fill(words.tidy(lines["full"])),
        identity_hidden=spoken.fill(words.tidy(lines["eyes_hidden"])),
        doll=data.get("doll", {}),
        source=images["source"],
        folder=folder,
        count=images.get("count", 30 if isinstance(data.get("shots"), list) else len(shots)) - len(excluded),
        shots=kept,
        excluded=excluded,
        planned=planned,
        sample_prompts=tuple(prompts(asked, data["trigger"], recipe["sample"], spoken)),
        base=base,
        crop=cropped({**context["crop"], **data.get("crop", {})}, images["source"], recipe["data"]["resolutions"]),
        recipe=recipe,
        checkpoint=data.get("ship", checkpoint) if checkpoint == "auto" else checkpoint,
        kind=kind,
        look=look,
        noun=noun,
        whole=whole,
        balance=balance,
        ship=data.get("ship"),
        datasets=parts,
        gallery=gallery.read(data.get("gallery"), data["trigger"], recipe["sample"], context["gallery"](base)),
        generation=generation.read(images),
        written=data,
    )
    texts = {shot.name: character.caption_file(shot, context["root"]) for shot in kept}
    blank = {name: text.as_posix() for name, text in sorted(texts.items()) if text and datasets.is_blank(text)}
    silent = {shot.name for shot in kept if not texts[shot.name] and character.missing(shot)}
    character = replace(character, blank=frozenset(blank) | silent)
    wrong += lost + generation.mistakes(images, planned) + captioning.mistakes(character)
    problems = more + [f"{label}: {line}" for line in [*wrong, *_literal(data, character), *_mistakes(character)]]
    problems += _stray_captions(character, context["root"])
    scenes = gallery.mistakes(data.get("gallery"), character.gallery, character.trigger, context["root"])
    problems += [f"{label}: {line}" for line in scenes]
    if not character.default_caption:
        remedy = "write a caption, delete the file, or set recipe.data.default_caption"
        problems += [f"{text}: is empty; {remedy}" for text in blank.values()]
    if context["ready"] == path.stem:
        problems += context["image_problems"](character)
    if problems:
        raise UserError.several(problems)
    return character


def cropped(given: dict[str, int], source: str, resolutions: list[int]) -> dict[str, int]:
    """The crop with its defaults: the user's own images and generated ones are not cut unless the file says so.

    Uncut images need edges of at least half the smallest training resolution, as elongated ones of the same area
    have (832 x 1216).
    """
    uncut = {} if source == "paperdoll" else {"right": 0, "bottom": 0}
    crop = {**schema.defaults(schema.load_schema("crop")), **uncut, **given}
    whole = not crop["right"] and not crop["bottom"] and "minimum" not in given
    return {**crop, "minimum": min(crop["minimum"], min(resolutions) // 2)} if whole else crop


def _preserve(recipe: dict[str, Any], own: dict[str, Any], spoken: kinds.Words, kind: str) -> None:
    """Name the class of the preservation loss after the character's, unless somebody has set another word."""
    differential = recipe["train"]["preservation"]["differential"]
    written = own.get("train", {}).get("preservation", {}).get("differential", {})
    if "class" not in written and differential["class"] == knobs.default("train.preservation.differential.class"):
        differential["class"] = spoken.picture if kind == "style" else spoken.noun


def prompts(data: Any, trigger: str, sample: dict[str, Any], spoken: kinds.Words | None = None) -> list[SamplePrompt]:
    """The sample prompts of a file, with the recipe's ``sample`` where an entry says nothing, and places filled."""
    made = []
    for index, entry in enumerate(data):
        own = entry if isinstance(entry, dict) else {"prompt": entry}
        made.append(
            SamplePrompt(
                name=f"{index + 1:02d}",
                text=(spoken.fill if spoken else str)(words.tidy(own["prompt"])).replace("{trigger}", trigger),
                width=own.get("width", sample["width"]),
                height=own.get("height", sample["height"]),
                seed=own.get("seed", sample["seed"] + (index if sample["walk_seed"] else 0)),
                scale=own.get("scale", 1.0),
            )
        )
    return made


def _literal(data: dict[str, Any], character: Character) -> list[str]:
    """Lines about misspelt placeholders of the trigger, which would be drawn or learnt literally."""
    given = data.get("sample_prompts", ())
    prompts = (entry["prompt"] if isinstance(entry, dict) else entry for entry in given)
    texts = {f"sample_prompts[{index}]": text for index, text in enumerate(prompts, 1)}
    texts |= {f"identity_line.{key}": text for key, text in data.get("identity_line", {}).items()}
    texts["recipe.data.default_caption"] = character.recipe["data"]["default_caption"]
    return [
        f"{key}: {meant} is taken literally; did you mean {words.PLACEHOLDER}?"
        for key, text in texts.items()
        if (meant := words.misspelt_placeholder(text))
    ]


def _mistakes(character: Character) -> list[str]:
    """What a schema cannot check, each as ``key: what is wrong; what to do``."""
    if words.count(f"{character.words.noun} {character.kind}", character.trigger):
        # Whatever else holds the trigger holds it because of this.
        ordinary = f"trigger: {character.trigger} is an ordinary word, by which captions call the character already"
        return [f"{ordinary}; make one up, such as n1ka", *steps_mistakes(character)]
    found = []
    drawn = character.source != "folder" and not (character.generation and character.generation.file)
    if not character.concept and drawn:
        found.append("concept.prompt: is missing; describe the neutral reference that the images are made from")
    if character.source != "folder":
        if not character.appearance:
            found.append("appearance: is missing; describe what never changes, images are generated from it")
        for shot in character.shots:
            missing = character.missing(shot)
            found += [f"shots.{shot.name}.{key}: is missing; images are generated from it" for key in missing]
    if len(character.shots) != character.count:
        found.append(_wrong_count(character))
    for key, text in (("full", character.identity_full), ("eyes_hidden", character.identity_hidden)):
        if words.count(text.replace(words.PLACEHOLDER, character.trigger), character.trigger) != 1:
            found.append(f"identity_line.{key}: must contain the trigger exactly once; begin it with '{{trigger}}, '")
    times = [words.count(prompt.text, character.trigger) for prompt in character.sample_prompts]
    for index, number in enumerate(times, 1):
        if number > 1:
            found.append(
                f"sample_prompts[{index}]: contains the trigger {number} times; use it once, or not at all to compare"
            )
    if not any(times) and not any(words.misspelt_placeholder(prompt.text) for prompt in character.sample_prompts):
        found.append("sample_prompts: none contains the trigger, so none shows the character; write {trigger} in them")
    generation = {"concept.prompt": character.concept, "appearance": character.appearance}
    for shot in () if character.whole else character.shots:
        generation[f"shots.{shot.name}"] = " ".join(str(v) for k, v in shot.phrases().items() if k != "name")
    for key, text in generation.items():
        if words.count(text, character.trigger) or words.PLACEHOLDER in text or words.misspelt_placeholder(text):
            found.append(f"{key}: contains the trigger, which an image generator does not know; remove it")
    return found + steps_mistakes(character)


def steps_mistakes(character: Character) -> list[str]:
    """Steps to ship that are never trained or not saved."""
    if character.ship and character.ship > (last := character.recipe["train"]["steps"]):
        steps = ", ".join(map(str, character.recipe_steps))
        return [f"ship: step {character.ship} is never trained, recipe.train.steps is {last}; use one of {steps}"]
    if character.checkpoint != "auto" and character.checkpoint not in character.saved_steps:
        steps = ", ".join(map(str, character.saved_steps))
        return [f"checkpoint: step {character.checkpoint} is not saved; auto or one of {steps}"]
    return []


def _wrong_count(character: Character) -> str:
    have = {tier: sum(shot.tier == tier for shot in character.shots) for tier in ("close-up", "medium", "full-body")}
    listed = ", ".join(f"{number} {tier}" for tier, number in have.items())
    todo = "add the missing ones" if len(character.shots) < character.count else "remove some"
    return (
        f"shots: {len(character.shots)} shots ({listed}) where {character.count} are expected; "
        f"{todo}, or set images.count: {len(character.shots)}"
    )


def _stray_captions(character: Character, root: Path) -> list[str]:
    folder = root / "config" / "captions" / character.id
    # A disk that is not there takes all pictures with it, which is one mistake and not one for each caption.
    if not folder.is_dir() or (character.whole and not character.planned):
        return []
    texts = (path for path in folder.iterdir() if path.suffix.lower() == ".txt" and not inventory.foreign(path.name))
    known = {*character.shot_names, *(shot.name for shot in character.excluded)}
    stray = sorted(
        path.name
        for path in texts
        # x.png.txt is reported by the check of the data set.
        if path.stem not in known and Path(path.stem).stem not in known
    )
    return [f"config/captions/{character.id}/{name}: {_without(name[:-4], character)}" for name in stray]


def _without(name: str, character: Character) -> str:
    """That a caption belongs to nothing. Pictures of a folder may be gone, and their names are often alike."""
    if not character.whole:
        return plans.no_shot(name, character.shot_names)
    close = difflib.get_close_matches(name, character.shot_names, n=1)
    hint = f", or rename it if {close[0]} is meant" if close else ""
    return f"{character.folder} has no picture {name}; delete this caption with its picture{hint}"
