"""Captions that are proposed from captioners' texts: cleaned up, checked by the rules of captions, and compared with
the present ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from charloom.core import words
from charloom.dataset import cleanup, identity, tags
from charloom.dataset.cleanup import Cleaned
from charloom.dataset.lint import RULES, Item
from charloom.dataset.lint.registry import Data

_RULES = ("trigger-count", "trigger-of-others", "wordy", "identity-words", "pronouns", "hidden-eyes", "tokens")
"""The rules that one caption alone can break."""


@dataclass(frozen=True)
class Proposal:
    """A caption for the picture ``name`` in place of ``current``."""

    name: str
    current: str
    raw: str
    text: str
    removed: tuple[str, ...]
    problems: tuple[str, ...]
    """What the check would say of it; empty if it passes."""

    @property
    def good(self) -> bool:
        """Whether it passes the check."""
        return not self.problems

    def record(self) -> dict[str, Any]:
        """As plain values, with the ``diff`` from the present caption: pairs of ``same``, ``less`` or ``more``, and
        words."""
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
    """The caption that a captioner's text makes; ``settings`` are those of
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
    # Neither pictures of others nor those of a style without a trigger can have it.
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
    """Proposals and statistics of tags as plain values, for a file, a page, or the terminal.

    ``captions`` are the present ones of all pictures and ``raw`` what the captioner has said, by picture; ``settings``
    are those that all pictures share; ``missing`` pictures are not described yet.
    """
    kind, noun = settings.get("class", "woman"), settings.get("noun", "")
    more, keep = settings.get("identity_words", ()), settings.get("keep_words", ())
    known = [*identity.words_of(kind, more, keep), *identity.called(kind, noun)]
    trigger = str(settings.get("trigger", ""))
    context = cleanup.context_of(trigger, kind, settings.get("line", ""), more, keep, noun=noun)
    said = {name: cleanup.varying(text, context) for name, text in raw.items()}
    return {
        "pictures": [proposal.record() for proposal in proposals.values()],
        "missing": missing,
        "statistics": tags.statistics(captions, said, known, trigger),
    }
