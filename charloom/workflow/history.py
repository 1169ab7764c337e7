"""Previous results: a record in the store of every LoRA that was exported, with its pictures and scores.

Records outlive what they describe, so that a result with another base or other settings can be compared with its
successor (:mod:`charloom.report.versus`), and so that ``charloom store prune`` knows what a finished character needs.
Must not import torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.canonical import digest, file_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.train.keys import CHECKPOINT, checkpoint_key

KIND, PICTURE = "finished", "finished-picture"


@dataclass(frozen=True)
class Finished:
    """One record, and when it was written (seconds since 1970)."""

    facts: Mapping[str, Any]
    when: float

    @property
    def run(self) -> str | None:
        """The key of the training run, if its checkpoint was found in the store."""
        found = self.facts.get("run")
        return str(found) if found else None


def remember(
    store: Store,
    results: Results,
    final: Path,
    step: int,
    lock: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Store what was finished; returns the record.

    Args:
        results: the character's results, whose previews of ``step`` are kept.
        final: the file that was exported.
        lock: the base's lock file.
        about: ``character``, ``name``, ``trigger``, ``steps`` and ``guidance`` of the sampler, and ``prompts`` (name,
            text, seed, scale, width, height).
    """
    pictures = {}
    for prompt in about["prompts"]:
        if (path := results.sample(step, prompt["name"])).is_file():
            sha = pictures[prompt["name"]] = file_digest(path)
            if not store.has(PICTURE, sha, ".png"):
                with store.put(PICTURE, sha, ".png") as entry:
                    shutil.copyfile(path, entry)
    record = {
        **about,
        "base": {
            "name": lock["name"],
            "source": lock.get("repo") or lock.get("root"),
            "revision": lock.get("revision"),
            "transformer": lock["components"]["transformer"],
        },
        "step": step,
        "final": file_digest(final),
        "run": _run(store, results.checkpoint(step), step),
        "pictures": pictures,
        "scores": _scores(results, step),
    }
    with store.put(KIND, digest(record), ".json") as entry:
        files.write_json(entry, record)
    return record


def records(store: Store) -> Iterator[Finished]:
    """Every record that can be read, in no particular order."""
    for path in (store.root / KIND).glob("*/*.json"):
        try:
            facts, when = files.read_json(path), path.stat().st_mtime
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and {"character", "base", "final", "step"} <= set(facts):
            yield Finished(facts, when)


def earlier(found: Iterable[Finished], now: Mapping[str, Any]) -> Finished | None:
    """The result to compare ``now`` with: the character's newest on another base, else its newest other, or None."""
    others = [
        one
        for one in found
        if (one.facts["character"], one.facts.get("trigger")) == (now["character"], now.get("trigger"))
        and one.facts["final"] != now["final"]
    ]
    transformer = now["base"]["transformer"]
    return max(others, key=lambda one: (one.facts["base"].get("transformer") != transformer, one.when), default=None)


def of_file(found: Iterable[Finished], character: str, final: Path) -> Finished | None:
    """The newest record of a file."""
    sha = file_digest(final)
    own = (one for one in found if one.facts["character"] == character and one.facts["final"] == sha)
    return max(own, key=lambda one: one.when, default=None)


def picture(store: Store, sha: str) -> Path:
    """The file of a picture in a record."""
    return store.path(PICTURE, sha, ".png")


def _run(store: Store, checkpoint: Path, step: int) -> str | None:
    """The key of the run that a checkpoint belongs to: its entry is the same file, or one with the same bytes."""
    ending = checkpoint_key("", step)
    entries = list((store.root / CHECKPOINT).glob(f"*/*{ending}.safetensors"))
    same = [entry for entry in entries if os.path.samefile(entry, checkpoint)]
    if not same:
        size, sha = checkpoint.stat().st_size, file_digest(checkpoint)
        same = [entry for entry in entries if entry.stat().st_size == size and file_digest(entry) == sha]
    return same[0].stem.removesuffix(ending) if same else None


def _scores(results: Results, step: int) -> dict[str, float]:
    """What the choice says of the checkpoint: metrics by name."""
    try:
        choice = files.read_json(results.validation)
    except (OSError, ValueError):
        return {}
    verdict = next((one for one in choice.get("verdicts", ()) if one.get("step") == step), {})
    return {key: value for key, value in (verdict.get("scores") or {}).items() if isinstance(value, int | float)}
