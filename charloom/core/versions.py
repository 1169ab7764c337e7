"""Recipe numbers: raised by hand whenever a stage gives different results for the same inputs.

They are part of the settings of the rules and of the store keys, instead of hashes of the code: a new docstring or a
faster loop must not retrain a character, a changed result must. Captions need none, because keys hold their text.
Training has its own number in :mod:`charloom.train.keys`.
"""

from __future__ import annotations

RECIPES: dict[str, int] = {
    "source": 3,
    "folder": 3,
    "generated": 1,
    "crop": 3,
    "lint": 3,
    "describe": 1,
    "masks": 2,
    "prompts": 1,
    "latents": 1,
    "embeddings": 2,
    "base": 3,
    "sample": 1,
    "grid": 1,
    "score": 1,
    "judge": 1,
    "drift": 1,
    "choice": 6,
    "strengths": 1,
    "verification": 1,
    "report": 3,
    "index": 1,
    "final": 2,
    "comfyui": 1,
    "gallery": 1,
    "bundle": 1,
    "versus": 1,
}

FACES_IN_PICTURES = 1
TEXT_IN_PICTURES = 1
"""Likewise for what detectors find in a picture, which is kept apart from the other facts of the check."""
CLEANED_CAPTIONS = 2
"""Likewise for the caption that is made from a captioner's text."""
QUANTISED_LINEARS = 2
"""Likewise for the choice of Linears to quantise; raising it rebuilds prepared bases and retrains on them."""
SCALES_ON_CPU = 2
"""Likewise for the scales that a CPU computes for float8 and int8; since 2 they equal a GPU's bit for bit."""
