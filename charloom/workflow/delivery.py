"""Slices of the settings, as in :mod:`charloom.workflow.slices`, for what leaves the workflow."""

from __future__ import annotations

from collections.abc import Iterable

from charloom.config import masking, portable
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core import layout
from charloom.core.canonical import canonical_json
from charloom.core.versions import RECIPES
from charloom.train.keys import RECIPE
from charloom.workflow import caption_slices, gallery_slices, slices


def thumbnail(character: Character) -> str:
    """Name of the sample prompt whose picture goes into the header of the file; empty if none shows the character.

    The first with the trigger and a strength above 0, whatever the strength sweep or the scores say.
    """
    shown = (p.name for p in character.sample_prompts if p.scale and character.shown_by(p.text))
    return next(shown, "") if character.sampled_steps else ""


def shipped(character: Character) -> str:
    """Which checkpoint is to be shipped."""
    return canonical_json(
        {"checkpoint": character.checkpoint, "name": character.name, "recipe": RECIPES["verification"]}
    )


def final(character: Character, base: Base) -> str:
    """For the file to ship."""
    recipe = character.recipe
    shown = next((p for p in character.sample_prompts if p.name == thumbnail(character)), None)
    sample = {"name": shown.name, "prompt": shown.text, "seed": shown.seed, "strength": shown.scale} if shown else None
    return canonical_json(
        {
            "name": character.name,
            "base": base.name,
            "license": base.license,
            "resolution": max(recipe["data"]["resolutions"]),
            "sampler": {"steps": recipe["sample"]["steps"], "guidance": recipe["sample"]["guidance"]},
            "sample": sample,
            **({"architecture": base.architecture} if base.architecture else {}),
            "recipe": RECIPES["final"],
        }
    )


def thumbnails(character: Character) -> list[str]:
    """Pictures for the header of the file: that prompt as drawn by each checkpoint that may be shipped."""
    prompt, made = thumbnail(character), layout.results(character.id)
    steps = {*character.candidates, character.saved_steps[-1], character.checkpoint}
    drawn = [step for step in character.sampled_steps if step and step in steps]
    return [made.sample(step, prompt).as_posix() for step in drawn] if prompt else []


def drawn(character: Character) -> str:
    """How previews are drawn, for the record of a finished character (:mod:`charloom.workflow.history`)."""
    sample = character.recipe["sample"]
    return canonical_json(
        {
            "character": character.id,
            "name": character.name,
            "trigger": character.trigger,
            "steps": sample["steps"],
            "guidance": sample["guidance"],
            "prompts": slices.prompts(character),
        }
    )


def versus(character: Character) -> str:
    """For the comparison with the previous result."""
    return canonical_json({"character": character.id, "name": character.name, "recipe": RECIPES["versus"]})


def comfyui(character: Character, base: Base) -> str:
    """For the ComfyUI workflows: files, prompts with the trigger, and how previews are drawn."""
    shown = [p for p in character.sample_prompts if character.shown_by(p.text)]
    near = [p for p in shown if "portrait" in p.text.lower() or "close-up" in p.text.lower()]
    far = [p for p in shown if p not in near]
    portrait, scene = (near or shown)[0], (far or shown)[0]
    sample = character.recipe["sample"]
    # A long prompt is what these sizes are for.
    far_away = next(iter(character.gallery), scene).text
    return canonical_json(
        {
            "id": character.id,
            "name": character.name,
            "trigger": character.trigger,
            "lora": f"{character.id}.safetensors",
            "style": "style.safetensors",
            **base.comfyui,
            "miniature": base.miniature,
            "prompts": {"portrait": portrait.text, "scenes": far_away, "character-and-style": far_away},
            "seed": portrait.seed,
            "steps": sample["steps"],
            "cfg": sample["guidance"],
            **({"negative": away} if (away := character.negative_prompt) else {}),
            **({"label": base.name} if base.architecture else {}),
            "recipe": RECIPES["comfyui"],
        }
    )


def bundle(character: Character, base: Base) -> str:
    """For the bundle: everything that is not in a file of the results."""
    described = set(caption_slices.taken(character))
    numbers = ["source", "folder", "crop", "latents", "embeddings", "base", "sample", "final"]
    numbers += ["masks"] if masking.masked(character) else []
    return canonical_json(
        {
            "id": character.id,
            "name": character.name,
            "trigger": character.trigger,
            "source": "folder" if character.generation else character.source,
            "base": base.name,
            "license": base.license,
            "miniature": base.miniature,
            "character": portable.character_file(character),
            "config": portable.base_file(base),
            "elsewhere": portable.elsewhere(character, base),
            **({"start": character.init.as_posix()} if character.init else {}),
            **({"left_behind": lost} if (lost := portable.left_behind(character, base)) else {}),
            "items": character.image_names,
            "captions": [s.name for s in character.shots if character.caption_file(s) or s.name in described],
            "sets": [part.name for part in character.datasets],
            **({"masks": masked} if (masked := masking.masked(character)) else {}),
            "prompts": slices.prompts(character),
            **({"gallery": gallery_slices.listed(character)} if character.gallery else {}),
            "recipes": {**{name: RECIPES[name] for name in numbers}, "train": RECIPE},
            "recipe": RECIPES["bundle"],
        }
    )


def index(characters: Iterable[Character]) -> str:
    """For the page of all characters."""
    people = [
        {
            "character": one.id,
            "name": one.name,
            "trigger": one.trigger,
            "base": one.base,
            "prompts": one.prompt_names if one.sampled_steps else [],
            **({} if one.checkpoint == "auto" else {"checkpoint": one.checkpoint}),
        }
        for one in characters
    ]
    return canonical_json({"characters": people, "recipe": RECIPES["index"]})
