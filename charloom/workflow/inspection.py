"""Checks a character as it is now: the user's own files, by their own names, with all rules.

For ``charloom lint`` and for web pages: one call returns items, findings and what they are about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from charloom.config import inventory, triggers
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core import layout, tokens
from charloom.core.store import Store
from charloom.dataset import lint
from charloom.dataset.lint import Finding, Item
from charloom.dataset.lint.registry import Data
from charloom.workflow import caption_slices, likeness, lint_files, lint_slices, looking, proposing, slices


@dataclass(frozen=True)
class Inspection:
    """What was checked and what was found."""

    character: Character
    settings: dict[str, Any]
    items: list[Item]
    findings: list[Finding]
    allowed: list[Finding]
    missing: int
    """Images that are not drawn yet."""
    exact: bool
    """Whether tokens were counted by the base's own tokenizer."""
    detectors: tuple[str, ...]
    files: dict[str, Path]
    """The file of each image, by its name; only of those that exist."""

    def record(self) -> dict[str, Any]:
        """As plain values: the findings as in ``lint.json``, the rules, and a line for each picture."""
        data = Data(self.items, self.settings)
        return {
            "character": self.character.id,
            **lint.as_record(self.findings, self.allowed),
            "missing": self.missing,
            "tokens": "exact" if self.exact else "estimated",
            "detectors": list(self.detectors),
            "rules": [
                {
                    "name": rule.name,
                    "level": rule.level,
                    "about": rule.about,
                    "remedy": rule.remedy,
                    "fixed": rule.fixed,
                }
                for rule in lint.RULES.values()
            ],
            "pictures": [
                {
                    "name": item.name,
                    "file": item.picture,
                    "text": item.text,
                    "caption": item.caption,
                    "role": data.role(item),
                    "tier": data.shots.get(item.name, {}).get("tier", ""),
                    "size": item.facts["size"] if item.facts else None,
                    "findings": [n for n, finding in enumerate(self.findings) if item.name in finding.pictures],
                }
                for item in self.items
            ],
        }


def inspect(
    character: Character,
    base: Base,
    root: Path,
    store: Store,
    detectors: Sequence[str] | None = None,
    stop: Event | None = None,
) -> Inspection:
    """Check a character whose file has no mistakes. ``detectors`` are those installed unless given.

    Raises:
        Stopped: ``stop`` was set in the meantime.
    """
    settings = json.loads(slices.lint(character, base))
    detectors = lint_slices.detectors(settings) if detectors is None else tuple(detectors)
    if settings.get("captioned"):
        raw = proposing.raw_texts(character, root, store)
        settings |= {"_raw": raw, "_waiting": [name for name in caption_slices.waiting(character, root) if name in raw]}
    results = layout.results(character.id, root)
    settings |= {"_pictures": likeness.records(results, character.shot_names)}
    items, unread, missing = lint_files.items(character, root, store, detectors, settings.get("_raw", {}), stop)
    count = tokens.counter(base.source())
    texts = {f"sample_prompts[{i}]": prompt.text for i, prompt in enumerate(character.sample_prompts, 1)}
    texts |= {f"gallery[{i}]": scene.text for i, scene in enumerate(character.gallery, 1)}
    further = [*unread, *lint.prompts(texts, count)]
    if line := character.trigger and triggers.shared(character.trigger, root, character.id):
        what, _, remedy = line.partition("; ")
        further.append(Finding("warning", "trigger", what, "trigger", remedy))
    for folder in (*inventory.PROJECTS, "bases", "plans"):
        for unused in inventory.of_config(root / "config" / folder):
            what, _, remedy = unused.what.partition("; ")
            further.append(Finding("warning", unused.where, what, "unused-files", remedy))
    checked = lint.check(items, settings, count, further)
    paths = {name: lint_files.picture(character, name, root)[0] for name in character.image_names}
    files = {name: path for name, path in paths.items() if path.is_file()}
    detectors = tuple(name for name in detectors if name not in looking.broken)
    return Inspection(
        character, settings, items, checked.findings, checked.allowed, missing, count.exact, detectors, files
    )
