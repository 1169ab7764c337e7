"""The manifest of a data set: the only file through which training sees its data.

It holds digests of contents, so that training depends on the data and not on when or where it was made. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.dataset import captions


def manifest(
    results: Path, settings: dict[str, Any], stored: Mapping[Path, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The manifest of the character whose files are in the folder ``results``.

    ``stored`` has the SHA-256 of files from the store, by absolute path: a file that differs is damaged, and must not
    enter the manifest, against which training checks its data.

    Returns:
        ``items``: for each image ``name``, ``image`` (sha256), ``caption``, ``latents`` and ``embeddings`` (paths),
        their ``_sha256``, ``weight``, ``repeats``, ``is_reg``. Where they apply: ``set`` (name of an extra data
        set) with its own ``resolutions``, ``caption_dropout``, ``flip_x``, ``flip_y``; ``class_embeddings`` (the
        caption with the class word for the trigger); ``mask`` with ``mask_sha256`` and ``mask_weight``.
        ``holdout``, if there are any: items that training must not use.
        ``variants``: embeddings that belong to no image, by name (``empty``, ``trigger``).

    Raises:
        UserError: a file is damaged.
    """
    files = Results(results)

    def named(key: str, path: Path) -> dict[str, str]:
        """Path and digest of a file under ``key``."""
        found = file_digest(path)
        if stored.get(path.absolute(), found) != found:
            raise UserError(
                f"{path}: is damaged, it is not what was stored; delete it and run again, which restores it"
            )
        return {key: path.as_posix(), f"{key}_sha256": found}

    items: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    for part in settings["sets"]:
        shares = {key: part[key] for key in ("set", "weight", "repeats", "is_reg") if key in part}
        for name in part["items"]:
            (held_out if part.get("holdout") else items).append(
                {
                    "name": name,
                    "image": file_digest(files.image(name)),
                    "caption": captions.made(files.caption(name)),
                    **named("latents", files.latents(name)),
                    **named("embeddings", files.embedding(name)),
                    **(named("class_embeddings", files.class_embedding(name)) if name in settings["class"] else {}),
                    **(
                        named("mask", files.mask(name)) | {"mask_weight": settings["masks"][name]}
                        if name in settings.get("masks", {})
                        else {}
                    ),
                    **shares,
                    **part.get("own", {}),
                }
            )
    variants = {name.removeprefix("_"): named("embeddings", files.embedding(name)) for name in settings["variants"]}
    return {"items": items, **({"holdout": held_out} if held_out else {}), "variants": variants}
