"""Packages that a recipe needs beyond charloom's own, and that are not installed. Looks for them, imports none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charloom.config.character import Character

VARIABLE = "CHARLOOM_MISSING"
"""Environment variable by which the workflow tells jobs on the training's machine what the training will lack."""
MOST = 200
"""Characters that the variable names; of more, the trainer itself says it."""
OPTIMIZERS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "lion": "lion-pytorch"}
"""The packages that some optimizers are in; a module is called like its package, with _ for -."""
EXTRAS = {"bitsandbytes": "cuda", "prodigyopt": "optimizers", "lion-pytorch": "optimizers"}
"""The extra of charloom's that installs each."""


@dataclass(frozen=True)
class Missing:
    """A package that is not installed, in a line; ``cuda`` if only CUDA devices need it."""

    line: str
    cuda: bool = False


def missing(recipe: Mapping[str, Any], cuda: bool) -> list[Missing]:
    """What the recipe lacks; ``cuda`` is whether it may be trained on a CUDA device."""
    found = []
    optimizer = recipe["train"]["optimizer"]
    package = OPTIMIZERS.get(optimizer, "")
    only_cuda = optimizer == "adamw8bit"
    if package and (cuda or not only_cuda) and not _is_there(package.replace("-", "_")):
        found.append(Missing(_line("train.optimizer", optimizer, package, "adamw"), only_cuda))
    for part in ("transformer", "text_encoder"):
        if recipe["quantization"][part] == "nf4" and not _is_there("bitsandbytes"):
            found.append(Missing(_line(f"quantization.{part}", "nf4", "bitsandbytes", "float8")))
    return found


def _line(knob: str, value: str, package: str, other: str) -> str:
    part, _, key = knob.partition(".")
    return (
        f"recipe.{knob}: {value} needs the package {package}: pip install 'charloom[{EXTRAS[package]}]', "
        f"or set recipe: {{{part}: {{{key}: {other}}}}}"
    )


@cache
def _is_there(module: str) -> bool:
    return find_spec(module) is not None


def told(characters: Iterable[Character], cuda: bool) -> str:
    """:data:`VARIABLE` for jobs that run in this environment: what is missing, and whose training lacks it."""
    names: dict[Missing, list[str]] = {}
    for character in characters:
        for one in missing(character.recipe, cuda):
            names.setdefault(one, []).append(character.id)
    found = [[one.line, one.cuda, who] for one, who in names.items() if len(who) <= MOST]
    return json.dumps(found) if found else ""


def of_job(text: str, command: Sequence[str], cuda: bool) -> list[str]:
    """Lines for a job, by its command line: what the training of the character lacks that it works for."""
    named = {word.split("/")[1] for word in command if word.startswith("results/") and word.count("/") > 1}
    return [line for line, only_cuda, who in json.loads(text or "[]") if named & {*who} and (cuda or not only_cuda)]
