"""Store keys of a training run: which runs share their results. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charloom.config.knobs import ITEM_OVERRIDES
from charloom.core.canonical import digest

CHECKPOINT, METRICS = "checkpoint", "metrics"
"""Kinds of store entries, one of each for every step that is saved."""


RECIPE = 2
"""Raised by hand whenever the same settings and data would give other bytes than before."""
RECIPE_WITH_DROPOUT = 3
"""The same for runs with dropout in several samples per step: since 3 each batch has a seed of its own, so that several
processes can compute them."""


def run_key(settings_slice: Mapping[str, Any], dataset: str, base: str, recipe_number: int = RECIPE) -> str:
    """The key of a training run; checkpoints and states of a run are named ``<run_key>-<step:06d>``.

    ``settings_slice`` is :meth:`TrainSettings.slice`; ``dataset`` and ``base`` are digests.
    """
    return digest({"recipe": recipe_number, "settings": dict(settings_slice), "dataset": dataset, "base": base})


def recipe_number(dropout: float, draws_per_step: int) -> int:
    """The number that stands for the code in a run's key."""
    return RECIPE_WITH_DROPOUT if dropout and draws_per_step > 1 else RECIPE


def manifest_digest(manifest: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Digest of what training reads of a manifest: contents and weights, in order; neither paths nor captions' text."""
    entries, variants = manifest_parts(manifest)
    held_out = manifest.get("holdout") if isinstance(manifest, Mapping) else None
    return digest(
        {
            "items": [[e["latents_sha256"], e["embeddings_sha256"], *_shares(e), *_own(e)] for e in entries],
            # They change no weight, but their losses are part of the run's record.
            **({"holdout": [[e["latents_sha256"], e["embeddings_sha256"]] for e in held_out]} if held_out else {}),
            "variants": {name: entry["embeddings_sha256"] for name, entry in variants.items()},
        }
    )


def manifest_parts(
    manifest: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]:
    """Items and caption variants (``empty``, ``trigger``) of a manifest; a bare list has no variants."""
    if isinstance(manifest, Mapping):
        return list(manifest["items"]), manifest.get("variants") or {}
    return list(manifest), {}


def checkpoint_key(key: str, step: int) -> str:
    """Name of step ``step`` of a run in the store."""
    return f"{key}-{step:06d}"


def _shares(entry: Mapping[str, Any]) -> list[Any]:
    return [float(entry.get("weight", 1)), int(entry.get("repeats", 1)), bool(entry.get("is_reg", False))]


def _own(entry: Mapping[str, Any]) -> list[Any]:
    """Fields that only some items have, so that the others keep their digest."""
    keys = ("class_embeddings_sha256", "mask_sha256", "mask_weight", *ITEM_OVERRIDES)
    own = {key: list(entry[key]) if key == "resolutions" else entry[key] for key in keys if key in entry}
    return [own] if own else []
