"""The page of all characters: a picture, the shipped step and the verdict of each, with links to its own page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charloom.core import files, numbers
from charloom.core.layout import Results
from charloom.report import pictures
from charloom.report.templating import render

BUDGET = 6_000_000
"""Characters of all embedded pictures together."""
SHOWN = 4
"""Previews of each character."""


def index(folder: Path, characters: Sequence[Mapping[str, Any]]) -> str:
    """The page as text; ``folder`` is ``results``.

    Each character has ``character`` (its id), ``name``, ``trigger``, ``base`` and ``prompts`` (names), and
    ``checkpoint`` if its file says which step ships. A character whose choice is missing or broken is listed as not
    finished.
    """
    cards = [_card(folder / one["character"], one) for one in characters]
    embedded = pictures.embed([path for card in cards for path in card["paths"]], BUDGET, (320, 256, 192, 128, 96))
    for card in cards:
        card["pictures"] = [embedded[path] for path in card.pop("paths")]
    return render("index.html.j2", cards=cards)


def _card(root: Path, one: Mapping[str, Any]) -> dict[str, Any]:
    made = Results(root)
    choice = files.read_mapping(made.validation)
    step = choice.get("step")
    by_hand = one.get("checkpoint") if step is not None else None
    step = by_hand or step
    verdict = next((v for v in choice.get("verdicts", ()) if v.get("step") == step), {})
    scores = verdict.get("scores") or {}
    known = [(key, scores[key]) for key in ("identity", "style", "obedience", "bleed") if scores.get(key) is not None]
    samples = [made.sample(step, prompt) for prompt in one.get("prompts", ())] if step is not None else []
    reference = [made.reference] if made.reference.is_file() else []
    return {
        "id": one["character"],
        "name": one["name"],
        "trigger": one["trigger"],
        "base": one["base"],
        "step": step,
        "by_hand": bool(by_hand),
        "verdict": verdict.get("verdict", ""),
        "scores": [(key, numbers.apart(value)[0]) for key, value in known],
        "warnings": choice.get("warnings", ()),
        "paths": [*reference, *[path for path in samples if path.is_file()][:SHOWN]],
        "links": [
            (f"{one['character']}/{path.relative_to(root).as_posix()}", words)
            for path, words in ((made.report, "report"), (made.gallery, "gallery"), (made.prompt_page, "prompts"))
            if path.is_file()
        ],
    }
