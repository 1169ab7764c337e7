"""Applies the rules to a data set, with the user's own levels and allowances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from charloom.core import tokens
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.dataset import captions
from charloom.dataset.lint import on_captions, on_likeness, on_pictures, on_plan  # noqa: F401 (they register rules)
from charloom.dataset.lint.findings import Finding, Item, in_order
from charloom.dataset.lint.registry import RULES, Data

OFF = "ignore"
"""The level that turns a rule off."""


@dataclass(frozen=True)
class Checked:
    """The outcome: the findings, most severe first, and those that the user allows."""

    findings: list[Finding]
    allowed: list[Finding]


def check(
    items: Sequence[Item],
    settings: Mapping[str, Any],
    count: tokens.Counter | None = None,
    further: Iterable[Finding] = (),
) -> Checked:
    """Apply all rules. ``count`` counts the tokens of a text; ``further`` are findings from elsewhere.

    ``settings["lint"]`` may hold ``levels`` (rule to error, warning, note or ignore) and ``allow`` (entries of ``rule``
    and ``where``, a pattern of picture names or places).
    """
    data = Data(items, settings, count or tokens.Counter())
    own = settings.get("lint", {})
    found = list(further)
    for rule in RULES.values():
        level = own.get("levels", {}).get(rule.name)
        if level == OFF and not rule.fixed:
            continue
        made = rule.findings(data)
        found += made if level is None or rule.fixed else [replace(finding, level=level) for finding in made]
    kept, allowed = _sorted_out(found, own.get("allow", ()))
    return Checked(in_order(kept), in_order(allowed))


def lint(items: Sequence[Item], settings: Mapping[str, Any], count: tokens.Counter | None = None) -> list[Finding]:
    """Only the findings of :func:`check`."""
    return check(items, settings, count).findings


def _sorted_out(found: Sequence[Finding], entries: Sequence[Mapping[str, str]]) -> tuple[list[Finding], list[Finding]]:
    """Split findings into those that count and those that are allowed; an unused allowance is a finding itself."""
    kept, allowed, used = [], [], set()
    for finding in found:
        matching = [number for number, entry in enumerate(entries) if _allows(entry, finding)]
        used.update(matching)
        (allowed if matching else kept).append(finding)
    for number, entry in enumerate(entries):
        if number not in used:
            where = f"lint.allow[{number + 1}]"
            named = f"{entry['rule']} in {entry['where']}" if "where" in entry else entry["rule"]
            fixed = entry["rule"] in RULES and RULES[entry["rule"]].fixed
            what = f"{entry['rule']} cannot be allowed" if fixed else f"nothing is found that it allows ({named})"
            kept.append(Finding("warning", where, what, "allow", "remove it"))
    return kept, allowed


def _allows(entry: Mapping[str, str], finding: Finding) -> bool:
    if entry["rule"] != finding.rule or (finding.rule in RULES and RULES[finding.rule].fixed):
        return False
    names = (finding.where, *finding.pictures)
    return "where" not in entry or any(fnmatchcase(name, entry["where"]) for name in names)


def made(
    results: Results, settings: Mapping[str, Any], facts_of: Mapping[str, dict[str, Any] | UserError]
) -> tuple[list[Item], list[Finding]]:
    """The images and captions that the workflow has made for a character, and findings about unreadable images.

    ``facts_of`` has the facts of each image, or the error raised when it was read.
    """
    items, found = [], []
    folders = {part["name"]: part.get("folder", part["name"]) for part in settings.get("sets", ())}
    for name in names(settings):
        part, _, image = name.rpartition("/")
        usual = str(Path(folders[part], image)) if part else image
        picture, text = settings.get("files", {}).get(name) or (f"{usual}.png", f"{usual}.txt")
        fact = facts_of[name]
        if isinstance(fact, UserError):
            found.append(unread(picture, fact, name))
            fact = None
        items.append(Item(name, captions.made(results.caption(name)), fact, text, picture))
    return items, found


def unread(where: str, error: UserError, name: str) -> Finding:
    """Turn an error about a file into a finding."""
    what, _, remedy = str(error).removeprefix(f"{where}: ").rpartition("; ")
    return Finding("error", where, what or remedy, "unreadable", remedy if what else "", (name,))


def names(settings: Mapping[str, Any]) -> list[str]:
    """Names of all images: those of the plan, then those of the extra data sets."""
    return [shot["name"] for shot in settings["shots"]] + [
        name for part in settings.get("sets", ()) for name in part["items"]
    ]


def prompts(texts: Mapping[str, str], count: tokens.Counter) -> list[Finding]:
    """Findings about sample prompts, given by name."""
    found = []
    for where, text in texts.items():
        if line := count.too_long(text):
            what, _, remedy = line.partition("; ")
            found.append(Finding("error" if count.exact else "warning", where, what, "tokens", remedy))
    return found
