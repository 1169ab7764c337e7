"""Scores of checkpoints: their previews compared with the character's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.canonical import digest, file_digest
from charloom.core.layout import Results
from charloom.core.store import Store

KIND = "scores"


class Judgement:
    """The scores of a character's checkpoints; the character's files are in the folder ``results``."""

    def __init__(self, results: Path, settings: dict[str, Any], weights: Path | None) -> None:
        self.files = Results(results)
        self.settings = settings
        self.weights = weights
        # Only images of the plan: extra data sets may show somebody else.
        items = [item for item in files.read_json(self.files.manifest)["items"] if "set" not in item]
        self._references = [(item["name"], item["caption"]) for item in items]
        images = [[item["image"], item["caption"]] for item in items]
        self.fixed = digest({"references": images, "weights": file_digest(weights) if weights else None, **settings})

    def samples(self, step: int) -> list[Path]:
        """The previews of a checkpoint in the order of the prompts."""
        return [self.files.sample(step, prompt["name"]) for prompt in self.settings["prompts"]]

    def key(self, step: int) -> str | None:
        """Store key of a checkpoint's scores; None while previews are missing."""
        samples = self.samples(step)
        if not all(path.is_file() for path in samples):
            return None
        return digest({"fixed": self.fixed, "step": step, "samples": [file_digest(path) for path in samples]})

    def opened(self, store: Store) -> tuple[Any, dict[str, float]]:
        """The judge, which knows the references, and the levels that they reach."""
        from charloom.judge import backend as judges

        judge = judges.open_backend(self.settings["judge"], self.weights)
        own = [judges.load_picture(self.files.image(name), text, name=name) for name, text in self._references]
        return judge, judge.study(own)

    def make(self, store: Store) -> list[int]:
        """Score every checkpoint that has all its previews and no stored scores; returns the steps."""
        from charloom.judge import backend as judges

        judge, levels = None, {}
        done = []
        for step in self.files.sampled_steps():
            entry = self.key(step)
            if entry is None or store.has(KIND, entry, ".json"):
                continue
            if judge is None:
                judge, levels = self.opened(store)
            pictures = [
                judges.load_picture(
                    path, prompt["text"], name=prompt["name"], seed=prompt["seed"], strength=prompt["scale"]
                )
                for path, prompt in zip(self.samples(step), self.settings["prompts"], strict=True)
            ]
            who = self.settings["character"], step, pictures, self.settings["trigger"]
            with store.put(KIND, entry, ".json") as path:
                files.write_json(path, judges.score(judge, levels, *who))
            done.append(step)
        return done
