"""A character file, read and checked, with its plan, base and recipe resolved."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.config import datasets, generation, inventory, schema, yaml
from charloom.config.character import Character, SamplePrompt, Shot
from charloom.core import words
from charloom.core.errors import UserError


def read(path: Path, label: str, context: dict[str, Any], recipe_for: Any) -> Character:
    """The character in ``path``.

    ``context`` holds ``base`` and ``crop`` of the workflow; ``root``, the folder of the project; ``ready``, the
    character whose images must exist; and ``image_problems``, which checks them.
    ``recipe_for(base, overrides, label)`` merges the recipe. Raises one :class:`UserError` with a line per mistake.
    """
    document = yaml.read_yaml(path, label)
    if document.get("kind") == "style":
        raise UserError(f"{label}: kind: is a style; move the file to config/styles/{path.name}")
    data, problems = schema.check(document, "character", label)
    if problems:
        raise UserError.several(problems)
    shots, problems = _shots(data["shots"], document, label, context["root"])
    base = data.get("base", context["base"])
    recipe, more = recipe_for(base, data.get("recipe", {}), label)
    if problems:
        raise UserError.several(problems + more)
    images = data["images"]
    sets, wrong = datasets.read(data.get("datasets", ()), data["trigger"], recipe["data"]["default_caption"])
    checkpoint = data.get("checkpoint", "auto")
    character = Character(
        id=path.stem,
        label=label,
        name=data["name"],
        trigger=data["trigger"],
        concept=words.tidy(data.get("concept", {}).get("prompt", "")),
        appearance=words.tidy(data["appearance"]),
        identity_full=words.tidy(data["identity_line"]["full"]),
        identity_hidden=words.tidy(data["identity_line"]["eyes_hidden"]),
        doll=data.get("doll", {}),
        source=images["source"],
        folder=os.path.expanduser(images["path"]) if "path" in images else None,
        count=images.get("count", 30),
        shots=tuple(shots),
        sample_prompts=tuple(prompts(data["sample_prompts"], data["trigger"], recipe["sample"])),
        base=base,
        crop=cropped({**context["crop"], **data.get("crop", {})}, images["source"], recipe["data"]["resolutions"]),
        recipe=recipe,
        checkpoint=data.get("ship", checkpoint) if checkpoint == "auto" else checkpoint,
        ship=data.get("ship"),
        datasets=tuple(sets),
        generation=generation.read(images),
        written=data,
    )
    texts = {shot.name: character.caption_file(shot, context["root"]) for shot in shots}
    blank = {name: text.as_posix() for name, text in sorted(texts.items()) if text and datasets.is_blank(text)}
    silent = {shot.name for shot in shots if shot.missing and not texts[shot.name]}
    character = replace(character, blank=frozenset(blank) | silent)
    wrong += generation.mistakes(images, character.shot_names)
    problems = more + [f"{label}: {line}" for line in [*wrong, *_literal(data, character), *_mistakes(character)]]
    problems += _stray_captions(character, context["root"])
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


def _shots(data: Any, document: yaml.Document, label: str, root: Path) -> tuple[list[Shot], list[str]]:
    """The shots of a character file: written out, or a shared plan with single shots changed."""
    changes: dict[str, Any] = {}
    problems: list[str] = []
    if not isinstance(data, list):
        plan = data if isinstance(data, str) else data["plan"]
        changes = {} if isinstance(data, str) else data.get("replace", {})
        path = root / "config" / "plans" / f"{plan}.yaml"
        if not path.is_file():
            return [], [f"{label}: shots: there is no config/plans/{plan}.yaml; {_known(plan, path.parent)}"]
        loaded, problems = schema.check(
            yaml.read_yaml(path, f"config/plans/{plan}.yaml"), "plan", f"config/plans/{plan}.yaml"
        )
        if problems:
            return [], problems
        data = loaded["shots"]
    by_name = {shot["name"]: shot for shot in data}
    for name, change in changes.items():
        if name not in by_name:
            problems.append(f"{label}: shots.replace.{name}: {_no_shot(name, list(by_name))}")
            continue
        part_of = (document, ("shots", "replace", name))
        changed, wrong = schema.check({**by_name[name], **change}, "shot", f"{label}: shots.replace.{name}", part_of)
        problems += wrong
        if not wrong:
            by_name[name] = changed
    names = [shot["name"] for shot in data]
    problems += [f"{label}: shots: {name} appears twice; every shot needs its own name" for name in _twice(names)]
    if problems:
        return [], problems
    shots = [Shot(**{**by_name[name], "accessories": tuple(by_name[name].get("accessories", ()))}) for name in names]
    texts: Iterator[dict[str, Any]] = (
        {k: words.tidy(v) for k, v in vars(s).items() if isinstance(v, str) and k != "file"} for s in shots
    )
    return [replace(shot, **text) for shot, text in zip(shots, texts, strict=True)], []


def prompts(data: list[Any], trigger: str, sample: dict[str, Any]) -> list[SamplePrompt]:
    """The sample prompts of a file, with the recipe's ``sample`` where an entry says nothing."""
    made = []
    for index, entry in enumerate(data):
        own = entry if isinstance(entry, dict) else {"prompt": entry}
        made.append(
            SamplePrompt(
                name=f"{index + 1:02d}",
                text=words.tidy(own["prompt"]).replace("{trigger}", trigger),
                width=own.get("width", sample["width"]),
                height=own.get("height", sample["height"]),
                seed=own.get("seed", sample["seed"] + (index if sample["walk_seed"] else 0)),
                scale=own.get("scale", 1.0),
            )
        )
    return made


def _literal(data: dict[str, Any], character: Character) -> list[str]:
    """Lines about misspelt placeholders of the trigger, which would be drawn or learnt literally."""
    prompts = (entry["prompt"] if isinstance(entry, dict) else entry for entry in data["sample_prompts"])
    texts = {f"sample_prompts[{index}]": text for index, text in enumerate(prompts, 1)}
    texts |= {f"identity_line.{key}": text for key, text in data["identity_line"].items()}
    texts["recipe.data.default_caption"] = character.recipe["data"]["default_caption"]
    return [
        f"{key}: {meant} is taken literally; did you mean {words.PLACEHOLDER}?"
        for key, text in texts.items()
        if (meant := words.misspelt_placeholder(text))
    ]


def _mistakes(character: Character) -> list[str]:
    """What a schema cannot check, each as ``key: what is wrong; what to do``."""
    found = []
    drawn = character.source != "folder" and not (character.generation and character.generation.file)
    if not character.concept and drawn:
        found.append("concept.prompt: is missing; describe the neutral reference that the images are made from")
    if character.source != "folder":
        for shot in character.shots:
            found += [f"shots.{shot.name}.{key}: is missing; images are generated from it" for key in shot.missing]
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
    for shot in character.shots:
        generation[f"shots.{shot.name}"] = " ".join(str(v) for k, v in shot.phrases().items() if k != "name")
    for key, text in generation.items():
        if words.count(text, character.trigger) or words.PLACEHOLDER in text or words.misspelt_placeholder(text):
            found.append(f"{key}: contains the trigger, which an image generator does not know; remove it")
    return found + steps_mistakes(character)


def steps_mistakes(character: Character) -> list[str]:
    """Steps to ship that are never trained or not saved."""
    if character.ship and character.ship > (last := character.recipe["train"]["steps"]):
        return [f"ship: step {character.ship} is never trained: recipe.train.steps is {last}"]
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
    if not folder.is_dir():
        return []
    texts = (path for path in folder.iterdir() if path.suffix.lower() == ".txt" and not inventory.foreign(path.name))
    stray = sorted(
        path.name
        for path in texts
        # x.png.txt is reported by the check of the data set.
        if path.stem not in character.shot_names and Path(path.stem).stem not in character.shot_names
    )
    return [f"config/captions/{character.id}/{name}: {_no_shot(name[:-4], character.shot_names)}" for name in stray]


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _no_shot(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"there is no shot called {name}" + (
        f"; did you mean {close[0]}?" if close else f"; shots are {', '.join(names)}"
    )


def _known(name: str, folder: Path) -> str:
    return schema.meant(name, [path.stem for path in inventory.yaml_files(folder)])
