"""Turns job files of ai-toolkit into character files.

Every key of the job is either understood or reported with the reason why not. What an image shows is not guessed: one
without a caption gets the trigger alone, as in ai-toolkit. Nothing is written here; the command line does that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from charloom.config import guesses, scaffold, schema, triggers
from charloom.core import tokens, words
from charloom.core.errors import UserError
from charloom.interop.aitoolkit import job as aitoolkit_job
from charloom.interop.aitoolkit import model, recipe, samples, sets
from charloom.interop.aitoolkit.job import Job

_ORDER = ("name", "trigger", "class", "noun", "concept", "appearance", "identity_line", "images", "shots", "crop",
          "datasets", "sample_prompts", "base", "recipe")  # fmt: skip


@dataclass
class Imported:
    """A character file, and what happened to every key of the job."""

    id: str
    character: dict[str, Any]
    captions: dict[str, str] = field(default_factory=dict)
    """Shot name to caption, for ``config/captions/<id>/``."""
    understood: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    todo: list[str] = field(default_factory=list)
    base: str = ""
    """The base file that applies."""


def read(path: Path, root: Path = Path("."), name: str | None = None) -> Imported:
    """The character in the job file ``path``.

    Args:
        path: a job YAML of ai-toolkit, ``job: extension``.
        root: the workflow's folder, whose ``config/bases`` are searched for the model.
        name: name of the character file; by default the name of the job.

    Raises:
        UserError: the file is not a job of ai-toolkit, or its name cannot be a file name.
    """
    job, title = aitoolkit_job.load(path)
    slug = re.sub(r"[^a-z0-9_-]+", "-", title.lower()).strip("-_")[:40]
    if not (name or slug):
        raise UserError(f"{path}: config.name: '{title}' cannot be a file name; give one with --name")
    id = scaffold.check_name(name or slug)
    trigger = _trigger(job, id, root)
    base = model.read(job, root)
    ours, adapter = base.ours, model.adapter(job, base)
    knobs = recipe.Knobs(job, ours)
    sets.own(job, knobs)
    recipe.read(knobs)
    if adapter:
        knobs.put("training_adapter", adapter)
    model.suits(knobs, base)
    folder = sets.place(job, job.prefix(job.own), path)
    default = knobs.recipe.get("data", {}).get("default_caption", "")
    shots, captions = sets.shots(job, folder, trigger, default)
    if len(captions) < len(shots):
        knobs.put("data.default_caption", words.PLACEHOLDER)
    place = folder or f"resources/characters/{id}"
    if not shots:
        sets.look_for(job, place, f"config/characters/{id}.yaml")
    class_, noun = guesses.class_and_noun(list(captions.values())) or ("person", "")
    character = {
        "name": title[:60],
        "trigger": trigger,
        "class": class_,
        "noun": noun or None,
        "appearance": "the character of the images",
        "identity_line": {"full": "{trigger}", "eyes_hidden": "{trigger}"},
        "images": {"source": "folder", "path": place},
        # Without shots, every picture of the folder is used, including ones added later.
        "shots": shots,
        # ai-toolkit expects images that are already cropped.
        "crop": {"right": 0, "bottom": 0},
        "datasets": sets.extra(job, knobs, path, trigger),
        "sample_prompts": samples.read(job, trigger, {**ours["sample"], **knobs.recipe.get("sample", {})}),
        "base": base.base,
        "recipe": knobs.recipe,
    }
    if shots:
        character["images"]["count"] = len(shots)
    character = {key: character[key] for key in _ORDER if character.get(key) is not None and character.get(key) != []}
    _fit(character, job)
    if network := character["recipe"].get("network"):
        network["alpha"] = float(network.get("rank", ours["network"]["rank"]))
    job.account()
    todo = list(dict.fromkeys(job.todo))
    return Imported(id, character, captions, job.understood, job.ignored, todo, base.name)


def _trigger(job: Job, id: str, root: Path) -> str:
    """The job's trigger word if it is valid in charloom, else a new one."""
    word = job.take("trigger_word", str, "")
    for index in range(len(job.sets)):
        own = job.take(f"{job.prefix(index)}.trigger_word", str)
        if own and not word and index == job.own:
            word = own
        elif own and own != word:
            job.refuse(f"{job.prefix(index)}.trigger_word", "a character has one trigger")
    job.trigger_word = word
    if triggers.FORM.fullmatch(word):
        if line := triggers.shared(word, root, id):
            job.todo.append(f"trigger: {line}")
        return word
    guess = triggers.suggest(id, tokens.Counter(), triggers.taken(root))
    if word:
        said = f"'{word}' is not made of 2 to 20 letters and digits; {guess} replaces it"
    else:
        said = f"the job has none; {guess} is used, and your captions must contain it"
    job.todo.append(f"trigger: {said}")
    return guess


def _fit(character: dict[str, Any], job: Job) -> None:
    """Replace values that the schema refuses by the nearest valid ones, or remove them; report each change."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(schema.load_schema("character"))
    for _ in range(3):
        for error in [error for found in validator.iter_errors(character) for error in schema.causes(found)]:
            *groups, last = error.absolute_path
            node: Any = character
            for group in groups:
                node = node[group]
            value, limit, rule = node[last], error.validator_value, error.validator
            if rule in ("minimum", "maximum"):
                node[last] = limit
            elif rule == "multipleOf":
                node[last] = max(limit, int(value // limit) * limit)
            elif rule == "uniqueItems":
                node[last] = sorted(set(value))
                continue
            elif isinstance(last, str) and groups:
                del node[last]
            else:
                continue
            done = f"set to {node[last]}" if isinstance(last, int) or last in node else "it was left out"
            allowed = f"{'at least' if rule == 'minimum' else 'at most'} {limit}"
            said = {"minimum": allowed, "maximum": allowed, "multipleOf": f"multiples of {limit}"}.get(
                rule, error.message
            )
            job.todo.append(f"{schema.dotted(error.absolute_path)}: {value} is not possible ({said}); {done}")


def character_yaml(imported: Imported, source: Path) -> str:
    """The character file as text; comments at the top list what is left to do."""
    head = [scaffold.EDITOR_LINE, f"# Imported from {source.name}. Every key: config/schemas/character.schema.yaml"]
    head += [f"# To do: {line}" for line in imported.todo]
    if "shots" in imported.character:
        head.append("# appearance and identity_line are not used: captions describe the shots.")
    else:
        default = imported.character["recipe"].get("data", {}).get("default_caption")
        text = "data.default_caption" if default else "identity_line"
        head.append(f"# Every picture of the folder is trained on; one without a .txt has {text} as its caption.")
    body = yaml.safe_dump(imported.character, sort_keys=False, allow_unicode=True, width=110)
    return "\n".join(head) + "\n" + body
