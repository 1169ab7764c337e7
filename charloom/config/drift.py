"""The previews that measure drift: prompts without their trigger, and prompts at many sampler steps.

Which there are, for a character and its recipe (``validation.drift``).
"""

from __future__ import annotations

from charloom.config import kinds
from charloom.config.character import Character
from charloom.core import words

Prompt = dict[str, str]
"""``name``, ``kind`` (``class`` or ``steps``), ``of`` (the sample prompt), ``text``."""


def prompts(character: Character) -> list[Prompt]:
    """The previews of one checkpoint that tell of drift; none if ``validation.drift`` is none.

    Many sampler steps tell whether a distilled base is still distilled. A base that uses guidance is not.
    """
    wanted = character.recipe["validation"]
    if wanted["drift"] == "none" or not character.sampled_steps or character.is_style:
        return []
    word = kinds.with_article(character.recipe["train"]["preservation"]["differential"]["class"])
    distilled = character.recipe["sample"]["guidance"] == 1
    with_trigger = [p for p in character.sample_prompts if words.count(p.text, character.trigger)]
    return [
        {"name": f"{prompt.name}-{kind}", "kind": kind, "of": prompt.name, "text": text}
        for prompt in with_trigger[: wanted["drift_prompts"]]
        for kind, text in (
            ("class", words.replace(prompt.text, character.trigger, word)),
            ("steps", prompt.text),
        )
        if kind == "class" or distilled
    ]


def steps(character: Character) -> list[int]:
    """The checkpoints that draw them, the base alone (0) before the others."""
    if not prompts(character):
        return []
    drawn = [step for step in character.sampled_steps if step]
    return [0, *(drawn if character.recipe["validation"]["drift"] == "all" else drawn[-1:])]


def names(character: Character, step: int) -> list[str]:
    """Names of the previews of one checkpoint; the base alone needs none at many steps."""
    return [one["name"] for one in prompts(character) if step or one["kind"] == "class"]


def embedding(name: str) -> str:
    """The name of the embedding that such a preview is drawn from."""
    return name.removesuffix("-steps")
