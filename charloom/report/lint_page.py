"""The check of a data set as a page: what was found, the pictures that show it, and every picture with its caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charloom.core.errors import UserError
from charloom.report import pictures
from charloom.report.templating import render

BUDGET = 8_000_000
"""Characters of all embedded pictures together."""
SHOWN = 12
"""Most pictures beside one finding; of others only the number is shown."""
LISTED = 600
"""Most pictures in the list at the end; those with findings come first."""


def as_html(record: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """Make one self-contained page from the record of ``charloom lint --json``; ``files`` are the images by name."""
    listed = sorted(record["pictures"], key=lambda one: not one["findings"])[:LISTED]
    evidence = [name for finding in record["findings"] for name in finding["pictures"][:SHOWN]]
    wanted = dict.fromkeys([*evidence, *(one["name"] for one in listed)])
    embedded = _thumbnails([name for name in wanted if name in files], files)
    about = {rule["name"]: rule for rule in record["rules"]}
    groups: dict[str, list[dict[str, Any]]] = {}
    for finding in record["findings"]:
        shown = [(name, embedded.get(name, "")) for name in finding["pictures"][:SHOWN]]
        more = len(finding["pictures"]) - len(shown)
        groups.setdefault(finding["rule"], []).append({**finding, "shown": shown, "more": max(0, more)})
    sections = [
        {"rule": rule, "about": about.get(rule, {}).get("about", ""), "level": found[0]["level"], "findings": found}
        for rule, found in groups.items()
    ]
    cards = [{**one, "source": embedded.get(one["name"], ""), "words": _worst(one, record)} for one in listed]
    return render(
        "lint.html.j2", record=record, sections=sections, cards=cards, left_out=len(record["pictures"]) - len(listed)
    )


def _worst(picture: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The most severe level among the findings of a picture."""
    levels = [record["findings"][number]["level"] for number in picture["findings"]]
    return next((level for level in ("error", "warning", "note") if level in levels), "")


def _thumbnails(names: list[str], files: Mapping[str, Path]) -> dict[str, str]:
    """Data URIs by image name; none for unreadable files, which have a finding of their own."""
    readable = {}
    for name in names:
        try:
            pictures.encode(files[name], 16)
        except (OSError, ValueError, UserError):
            continue
        readable[name] = files[name]
    found = pictures.embed(readable.values(), BUDGET, (256, 192, 128, 96, 64))
    return {name: found[path] for name, path in readable.items()}
