"""``charloom lint``: the check of a character as text, JSON or a page."""

from __future__ import annotations

import json
from pathlib import Path

from charloom.config import project
from charloom.core import files, last_run, layout
from charloom.core.store import Store
from charloom.core.words import several
from charloom.dataset import lint, sources
from charloom.workflow import inspection, lint_slices, looking
from charloom.workflow.inspection import Inspection


def check(root: Path, name: str, *, as_json: bool, html: bool, ocr: bool) -> bool:
    """Check a character and print what is found; returns whether there are errors.

    Raises:
        UserError: its file has mistakes, a line for each.
    """
    workflow = project.as_last_run(root, name, sources.problems)
    character = workflow.character(name)
    base = workflow.bases[character.base]
    detectors = None if ocr else lint_slices.detectors(lint_slices.own(character), ocr=False)
    found = inspection.inspect(character, base, root, Store(root / workflow.store), detectors)
    record = found.record()
    if html:
        from charloom.report import lint_page

        page = root / layout.results(name).lint_page
        files.write_text(page, lint_page.as_html(record, found.files))
    if as_json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        _say(found, base.name)
        if html:
            print(f"{page}: written")
    return bool(record["errors"])


def _say(found: Inspection, base: str) -> None:
    character, record = found.character, lint.as_record(found.findings)
    shots = several(len(character.shots), "picture" if character.whole else "shot")
    print(f"{character.label}: {shots}, {several(len(character.sample_prompts), 'sample prompt')}: the file is valid")
    for finding in found.findings:
        print(finding)
    if found.missing:
        target = layout.results(character.id).lint.as_posix()
        images = "1 image is" if found.missing == 1 else f"{found.missing} images are"
        print(f"{images} not drawn yet; to draw and check: {last_run.again(Path(), character.id, target)}")
    for line in looking.broken.values():
        print(f"note: {line}")
    if not found.exact:
        print(f"The tokenizer of base {base} is not on this machine: token counts are estimates.")
    result = f"{several(record['errors'], 'error')}, {several(record['warnings'], 'warning')}"
    allowed = f", {len(found.allowed)} allowed" if found.allowed else ""
    looked = f"{several(len(found.items), 'caption')} and {several(len(found.items) - found.missing, 'image')}"
    print(f"{looked} checked: {result}{allowed}")
