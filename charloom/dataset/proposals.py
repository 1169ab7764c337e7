"""Proposes captions from captioners' texts: cleans them up, checks them, and compares them with the present ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charloom.core import words
from charloom.dataset import cleanup, tags
from charloom.dataset.cleanup import Cleaned
from charloom.dataset.lint import RULES, Item
from charloom.dataset.lint.registry import Data

_RULES = ("trigger-count", "trigger-of-others", "wordy", "identity-words", "pronouns", "hidden-eyes", "tokens")
"""The rules that can be checked on a single caption."""


@dataclass(frozen=True)
class Proposal:
    """A caption for the picture ``name`` in place of ``current``."""

    name: str
    current: str
    raw: str
    text: str
    removed: tuple[str, ...]
    problems: tuple[str, ...]
    """What the check would say about it; empty if it passes."""

    @property
    def good(self) -> bool:
        """Whether it passes the check."""
        return not self.problems

    def record(self) -> dict[str, Any]:
        """As plain values, with the ``diff`` from the present caption (:func:`charloom.dataset.cleanup.difference`)."""
        return {
            "name": self.name,
            "current": self.current,
            "raw": self.raw,
            "proposal": self.text,
            "removed": list(self.removed),
            "problems": list(self.problems),
            "diff": [list(part) for part in cleanup.difference(self.current, self.text)],
        }


def propose(name: str, raw: str, current: str, settings: Mapping[str, Any]) -> Proposal:
    """Turn a captioner's text into a proposal; ``settings`` are those of
    :func:`charloom.workflow.caption_slices.clean_settings`."""
    context = cleanup.context_of(
        settings["trigger"],
        settings["class"],
        settings["line"],
        settings["identity_words"],
        settings["keep_words"],
        settings["eyes_hidden"],
        settings["most_tokens"],
        settings.get("noun", ""),
    )
    cleaned = cleanup.clean(raw, context)
    return Proposal(name, current, raw, cleaned.text, cleaned.removed, tuple(_problems(name, cleaned, settings)))


def _problems(name: str, cleaned: Cleaned, settings: Mapping[str, Any]) -> list[str]:
    if cleaned.problem:
        return [cleaned.problem]
    image = name.rpartition("/")[2]
    plain = {
        "trigger": settings["trigger"] or "\0",
        "class": settings["class"],
        "shots": [{"name": image, "view": settings["view"], "tier": ""}],
        "captions": {key: settings[key] for key in ("identity_words", "keep_words")},
    }
    if not settings["trigger"]:
        plain["sets"] = [{"name": name.rpartition("/")[0], "regularization": True}]
    item = Item(image if settings["trigger"] else name, cleaned.text, None, name, name)
    data = Data([item], plain)
    # Pictures of other people have no trigger, nor have those of a style without one.
    rules = [rule for rule in _RULES if settings["trigger"] or rule != "trigger-count"]
    found = [finding.what for rule in rules for finding in RULES[rule].findings(data)]
    if words.misspelt_placeholder(cleaned.text):
        found.append(f"has the placeholder {words.misspelt_placeholder(cleaned.text)}")
    return found


def record(
    proposals: Mapping[str, Proposal],
    captions: Mapping[str, str],
    raw: Mapping[str, str],
    settings: Mapping[str, Any],
    missing: int = 0,
) -> dict[str, Any]:
    """Proposals and tag statistics as plain values, for a file, a page, or the terminal.

    ``captions`` are the present captions and ``raw`` the captioner's texts, by picture; ``settings`` are those that all
    pictures share; ``missing`` is the number of pictures that are not described yet.
    """
    kind, line, noun = settings.get("class", "woman"), settings.get("line", ""), settings.get("noun", "")
    trigger = str(settings.get("trigger", ""))
    said, known = cleanup.varying(raw, trigger, kind, line, settings, noun)
    return {
        "pictures": [proposal.record() for proposal in proposals.values()],
        "missing": missing,
        "statistics": tags.statistics(captions, said, known, trigger),
    }
