"""Recipe numbers: raised by hand whenever a stage gives other results for the same inputs.

They are part of the settings of the rules and of the store keys, in place of hashes of the code: a
docstring or a faster loop must not retrain anybody's character, a changed result must. Training keeps its
own number in :mod:`charloom.train.settings`.
"""

from __future__ import annotations

RECIPES: dict[str, int] = {
    "source": 3,
    "folder": 3,
    "crop": 3,
    "caption": 1,
    "lint": 2,
    "prompts": 1,
    "latents": 1,
    "embeddings": 2,
    "base": 3,
    "sample": 1,
    "grid": 1,
    "score": 1,
    "choice": 3,
    "report": 2,
    "final": 1,
}
