"""The prompt sheet as a page."""

from __future__ import annotations

from charloom.core.words import several
from charloom.dataset.prompts import Sheet
from charloom.report.templating import render

_TITLES = {"close-up": "Close-up portraits", "medium": "Medium shots", "full-body": "Full body"}


def as_html(sheet: Sheet) -> str:
    """Make one self-contained page with a button to copy each prompt; copied prompts are marked."""
    sections = []
    if sheet.reference:
        note = "Made once, from text alone. All other images are based on it."
        sections.append({"title": "Reference", "note": note, "prompts": [("reference", sheet.reference)]})
    for tier, title in _TITLES.items():
        prompts = [(name, prompt) for its_tier, name, prompt in sheet.shots if its_tier == tier]
        if prompts:
            note = f"{several(len(prompts), 'image')}, each with the reference attached."
            sections.append({"title": title, "note": note, "prompts": prompts})
    return render("prompts.html.j2", name=sheet.name, sections=sections)
