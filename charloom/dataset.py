"""The manifest of a data set: the one file by which training knows its data.

It names contents, so that training depends on what the data is and never on when or where it was made. No torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.canonical import file_digest
from charloom.captions import tidy


def manifest(results: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the character whose files are in ``results``.

    Returns:
        ``items``: for each image ``name``, ``image`` (sha256), ``caption``, ``latents`` and ``embeddings`` (paths),
        their ``_sha256``, ``weight``, ``repeats``, ``is_reg``; ``variants``: embeddings that are not of an image, by
        name (``empty``, ``trigger``, ``class``).
    """
    items = []
    for name in settings["items"]:
        latents = results / "latents" / f"{name}.safetensors"
        items.append(
            {
                "name": name,
                "image": file_digest(results / "dataset" / f"{name}.png"),
                "caption": tidy((results / "dataset" / f"{name}.txt").read_text(encoding="utf-8")),
                "latents": latents.as_posix(),
                "latents_sha256": file_digest(latents),
                **_embedding(results, name),
                "weight": settings["weight"],
                "repeats": settings["repeats"],
                "is_reg": False,
            }
        )
    variants = {name.removeprefix("_"): _embedding(results, name) for name in settings["variants"]}
    return {"items": items, "variants": variants}


def _embedding(results: Path, name: str) -> dict[str, str]:
    path = results / "embeddings" / f"{name}.safetensors"
    return {"embeddings": path.as_posix(), "embeddings_sha256": file_digest(path)}
