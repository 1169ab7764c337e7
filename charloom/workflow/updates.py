"""What an update of charloom makes again, said before anything runs.

The recipe numbers (:mod:`charloom.core.versions`) of the last finished call are kept in ``work/versions.json``.
"""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.versions import RECIPES
from charloom.train.keys import RECIPE

RECORD = Path("work/versions.json")

MADE_AGAIN = {
    "source": "pictures that charloom draws or asks for, and what follows",
    "folder": "pictures read from a folder; what follows where one differs",
    "generated": "pictures from generators, of which those in the store are taken",
    "describe": "captions proposed by the captioner",
    "masks": "masks, and training with them",
    "gallery": "the pictures of galleries",
    "versus": "pages that compare old results with new",
    "crop": "crops; what follows where one differs",
    "lint": "the check of the data set",
    "prompts": "the prompt sheet",
    "latents": "latents and training",
    "embeddings": "texts are encoded anew, and training follows",
    "base": "the prepared base and every training on it",
    "sample": "previews, scores and the choice",
    "grid": "the grids of previews",
    "score": "scores and the choice",
    "judge": "what the judge knows of a character, scores and the choice",
    "drift": "scores of drift",
    "choice": "the choice of the checkpoint",
    "strengths": "the strength sweep",
    "report": "reports",
    "index": "the page of all characters",
    "final": "the file to ship; its tensors stay",
    "comfyui": "ComfyUI workflows",
    "bundle": "bundles",
    "training": "every training, and the previews, scores and files that follow",
}
"""By recipe number, what runs again when it is raised."""


def current() -> dict[str, int]:
    """The recipe numbers of this version."""
    return {**RECIPES, "training": RECIPE}


def lines(record: Path = RECORD) -> list[str]:
    """What is made again because charloom was updated since the last finished call; empty if nothing is."""
    before = files.read_mapping(record)  # empty if nothing was made here yet
    changed = [name for name, number in current().items() if before.get(name, number) != number]
    if not changed:
        return []
    said = ["charloom was updated since the last run. Made again, for characters that had it (CHANGELOG.md says why):"]
    return said + [f"  {MADE_AGAIN.get(name, name)} ({name} {before[name]} → {current()[name]})" for name in changed]


def remember(record: Path = RECORD) -> None:
    """Keep this version's numbers: everything that was asked for is made by them."""
    if files.read_mapping(record) != (numbers := current()):
        files.write_json(record, numbers)
