"""Says, before anything runs, what is made again because charloom was updated.

The recipe numbers (:mod:`charloom.core.versions`) with which each character was last finished are kept in
``work/versions.json``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from charloom.core import files, words
from charloom.core.versions import (
    CLEANED_CAPTIONS,
    FACES_IN_PICTURES,
    QUANTISED_LINEARS,
    RECIPES,
    SCALES_ON_CPU,
    TEXT_IN_PICTURES,
)
from charloom.train.keys import RECIPE, RECIPE_WITH_DROPOUT
from charloom.workflow.notify import LAST_RULE

RECORD = Path("work/versions.json")
EVERYBODY = "*"
"""The entry for all characters in a record of an older version, which did not distinguish them."""

MADE_AGAIN = {
    "source": "pictures that charloom draws or asks for, and what follows",
    "folder": "pictures read from a folder; what follows where one differs",
    "generated": "pictures from generators; those in the store are reused",
    "describe": "captions proposed by the captioner",
    "masks": "masks, and training with them",
    "gallery": "pictures of galleries",
    "versus": "pages that compare old results with new",
    "crop": "crops; what follows where one differs",
    "lint": "the check of the data set",
    "prompts": "the prompt sheet",
    "latents": "latents and training",
    "embeddings": "texts are encoded again, and training follows",
    "base": "the prepared base and every training on it",
    "sample": "previews, scores and the choice",
    "grid": "preview grids",
    "score": "scores and the choice",
    "judge": "what the judge knows about a character, scores and the choice",
    "drift": "drift scores",
    "choice": "the choice of the checkpoint",
    "strengths": "the strength sweep",
    "verification": "the verification of the checkpoint to ship",
    "report": "reports",
    "index": "the page of all characters",
    "final": "the file to ship; its tensors stay",
    "comfyui": "ComfyUI workflows",
    "bundle": "bundles",
    "training": "every training, and the previews, scores and files that follow",
    "training with dropout": "trainings with network.dropout and several samples per step, and what follows",
    "cleanup": "proposed captions as they are cleaned up",
    "quantised Linears": "prepared bases in float8, int8 and nf4, and every training on them",
    "scales on the CPU": "prepared bases in float8 and int8; every training on one that the CPU prepared",
    "faces in pictures": "the look for faces in pictures",
    "text in pictures": "the look for text in pictures",
}
"""By recipe number, what runs again when it is raised."""

RULES = {
    "bundle": "make_bundle",
    "comfyui": "write_comfyui",
    "gallery": "write_gallery",
    "prompts": "write_prompts",
    "report": "write_report",
    "versus": "compare_results",
}
"""By recipe number, the rule whose results it concerns, if these are requested by themselves."""
MOST = 5
"""How many characters are named in a line."""


def current() -> dict[str, int]:
    """The recipe numbers of this version."""
    further = {
        "training": RECIPE,
        "training with dropout": RECIPE_WITH_DROPOUT,
        "cleanup": CLEANED_CAPTIONS,
        "quantised Linears": QUANTISED_LINEARS,
        "scales on the CPU": SCALES_ON_CPU,
        "faces in pictures": FACES_IN_PICTURES,
        "text in pictures": TEXT_IN_PICTURES,
    }
    return {**RECIPES, **further}


def lines(names: Sequence[str], record: Path = RECORD) -> list[str]:
    """What is made again because charloom was updated since these characters were finished; empty if nothing is."""
    kept, changed = _read(record), dict[tuple[str, int, int], list[str]]()
    for name in names:
        before = _of(name, kept)
        for recipe, number in current().items():
            if (old := before.get(recipe, number)) != number:
                changed.setdefault((recipe, old, number), []).append(name)
    if not changed:
        return []
    said = ["charloom was updated. Made again for characters that have it (CHANGELOG.md says why):"]
    for (recipe, old, number), who in changed.items():
        what = MADE_AGAIN.get(recipe, recipe)
        said.append(f"  {words.listed(who, MOST)}: {what} ({recipe} {old} → {number})")
    return said


def asked(names: Collection[str], words: Sequence[str]) -> list[str]:
    """The characters that a command line names; all of them if it names none."""
    named = [name for name in names if any(word == name or word.startswith(f"results/{name}/") for word in words)]
    return named or list(names)


def remember(done: Mapping[str, Collection[str]], record: Path = RECORD) -> None:
    """Record this version's numbers for what was made with them: by character, the rules of its jobs."""
    kept = _read(record)
    known = {name: dict(numbers) for name, numbers in kept.items()}
    for name, rules in done.items():
        made = {recipe: number for recipe, number in current().items() if RULES.get(recipe, LAST_RULE) in rules}
        if made:
            known[name] = {**_of(name, known), **made}
    if known != kept:
        files.write_json(record, known)


def _of(name: str, kept: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The numbers of a character; from a record for all, without what may never have been made for this one."""
    everybody = kept.get(EVERYBODY, {})
    return kept.get(name, {recipe: number for recipe, number in everybody.items() if recipe not in RULES})


def _read(record: Path) -> dict[str, dict[str, Any]]:
    """The numbers by character; empty if nothing was made here yet."""
    kept = files.read_mapping(record)
    if kept and not any(isinstance(one, dict) for one in kept.values()):
        return {EVERYBODY: kept}
    return {name: numbers for name, numbers in kept.items() if isinstance(numbers, dict)}
