"""The strength sweep: the chosen checkpoint at several strengths, drawn and scored like previews."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charloom.core.canonical import digest, file_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.workflow.samples import Previews, Wanted
from charloom.workflow.scores import Judgement, shown

KIND = "strengths"


def chosen_step(validation: Mapping[str, Any], checkpoint: str | int) -> int:
    """The step that is shipped: the user's, or else the one that validation chose."""
    return int(validation["step"] if checkpoint == "auto" else checkpoint)


def wanted(
    previews: Previews,
    step: int,
    prompt: str,
    settings: Mapping[str, Any],
    strength: float,
    checkpoint: Path | None = None,
) -> Wanted | None:
    """The preview of ``prompt`` at ``strength``; at the prompt's own it is the checkpoint's preview, and stored.

    ``checkpoint`` is where that of ``step`` is, if not among the results yet.
    """
    return previews.wanted(step, prompt, {**settings, "scale": float(strength)}, checkpoint)


def all_wanted(
    previews: Previews, step: int, siblings: Mapping[str, Any], checkpoint: Path | None = None
) -> list[Wanted]:
    """Every picture of the sweep that can be drawn now; ``siblings``: ``strengths``, and ``prompts`` by name."""
    found = [
        wanted(previews, step, name, settings, strength, checkpoint)
        for strength in siblings["strengths"]
        for name, settings in siblings["prompts"].items()
    ]
    return [one for one in found if one]


class Sweep:
    """The scores of a sweep; ``settings`` is the slice of the rule."""

    def __init__(
        self,
        results: Path,
        settings: dict[str, Any],
        weights: Path | None,
        step: int,
        judge: dict[str, Any] | None = None,
    ) -> None:
        self.files = Results(results)
        self.settings = settings
        self.step = step
        shared = {key: settings[key] for key in ("character", "trigger", "judge", "prompts")}
        self._judgement = Judgement(results, shared, weights, judge)

    def pictures(self, strength: float) -> list[Path]:
        """The pictures at a strength, in the order of the prompts."""
        return [self.files.strength(strength, prompt["name"]) for prompt in self.settings["prompts"]]

    def key(self) -> str:
        """Store key of the result."""
        drawn = [[strength, *map(file_digest, self.pictures(strength))] for strength in self.settings["strengths"]]
        return digest({"fixed": self._judgement.fixed, "drawn": drawn, "step": self.step, **self.settings})

    def make(self, store: Store, device: Any = "cpu") -> dict[str, Any]:
        """Score the pictures; the content of ``strengths.json``.

        That is what :func:`charloom.judge.strengths.recommend` returns, with ``character``, ``prompts`` (``name``,
        ``text``, ``seed``), ``notes``, and ``unfinished``: an instrument failed, which may not happen next time.
        """
        from charloom.judge import backend as judges
        from charloom.judge.memory import Memory
        from charloom.judge.strengths import recommend

        memory = Memory(store)
        judge, levels = self._judgement.opened(memory, device)
        documents = {}
        for strength in self.settings["strengths"]:
            pictures = shown(self.pictures(strength), self.settings["prompts"], strength)
            who = self.settings["character"], self.step, pictures, self.settings["trigger"]
            documents[strength] = judges.score(judge, levels, *who)
        prompts = [{key: prompt[key] for key in ("name", "text", "seed")} for prompt in self.settings["prompts"]]
        found = {"character": self.settings["character"], "prompts": prompts, **recommend(documents, self.step)}
        return found | {"notes": list(memory.notes), "unfinished": bool(judge.failed)}
