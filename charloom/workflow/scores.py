"""Scores of checkpoints: the character's previews against its own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.canonical import digest, file_digest
from charloom.core.store import Store

KIND = "scores"


class Judgement:
    """The scores of one character's checkpoints, whose files are in ``results``."""

    def __init__(self, results: Path, settings: dict[str, Any], weights: Path | None) -> None:
        self.results = results
        self.settings = settings
        self.weights = weights
        # The plan alone: further data sets may show somebody else.
        items = [item for item in files.read_json(results / "dataset.json")["items"] if "set" not in item]
        self._references = [(item["name"], item["caption"]) for item in items]
        images = [[item["image"], item["caption"]] for item in items]
        self._fixed = digest({"references": images, "weights": file_digest(weights) if weights else None, **settings})

    def samples(self, step: int) -> list[Path]:
        """The pictures of a checkpoint in the order of the prompts."""
        folder = self.results / "samples" / f"step-{step:06d}"
        return [folder / f"{prompt['name']}.png" for prompt in self.settings["prompts"]]

    def key(self, step: int) -> str | None:
        """Store key of a checkpoint's scores; None while pictures are missing."""
        samples = self.samples(step)
        if not all(path.is_file() for path in samples):
            return None
        return digest({"fixed": self._fixed, "step": step, "samples": [file_digest(path) for path in samples]})

    def make(self, store: Store) -> list[int]:
        """Score every checkpoint whose pictures are all there and that is not stored; returns the steps."""
        from charloom.judge import backend as judges

        judge, levels = None, {}
        done = []
        for folder in sorted((self.results / "samples").glob("step-*")):
            step = int(folder.name.removeprefix("step-"))
            entry = self.key(step)
            if entry is None or store.has(KIND, entry, ".json"):
                continue
            if judge is None:
                judge = judges.open_backend(self.settings["judge"], self.weights)
                images = self.results / "dataset"
                levels = judge.study(
                    [judges.load_picture(images / f"{name}.png", text, name=name) for name, text in self._references]
                )
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
