"""``charloom captions``: shows the captioner's proposals as diffs of the present captions, to accept or refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from charloom.config import captioning, project
from charloom.core import last_run, layout
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.words import several
from charloom.dataset import cleanup
from charloom.workflow import proposing
from charloom.workflow.proposing import Review

STYLES = {"same": "", "less": "red strike", "more": "green"}
MARKS = {"same": "{}", "less": "[-{}-]", "more": "{{+{}+}}"}
"""How changes are marked without colours, as in ``git diff --word-diff``."""


def review(
    root: Path,
    name: str,
    accept: Sequence[str],
    keep: Sequence[str],
    further: Sequence[str],
    *,
    as_json: bool,
    tags: bool,
) -> None:
    """Show what waits, or write what is accepted (``accept``) or stays as it is (``keep``).

    Raises:
        UserError: the character file has mistakes; a picture has no proposal; nothing says what to do with one.
    """
    workflow = project.as_last_run(root, name)
    character = workflow.character(name)
    if accept and keep:
        raise UserError("--accept and --keep exclude each other; name one of them")
    if further and not (accept or keep):
        raise UserError(f"{further[0]}: say what to do with it: --accept or --keep")
    found = proposing.review(character, root, Store(root / workflow.store))
    if accept or keep:
        names = [one for entry in [*(accept or keep), *further] for one in entry.split(",") if one]
        for path in proposing.accept(found, names, root, keep=bool(keep)):
            print(f"{path.as_posix()}: written")
        left = [one for one in found.proposals.values() if not one.good]
        if names == ["all"] and accept and left:
            for one in left:
                print(f"left: {one.name}: {'; '.join(one.problems)}")
        return
    if as_json:
        print(json.dumps(found.record(), indent=1, ensure_ascii=False))
        return
    if tags:
        _say_tags(found)
        return
    _say(found)


def _say(found: Review) -> None:
    character, console = found.character, Console(highlight=False, soft_wrap=True)
    settings = captioning.of(character)
    if settings.captioner is None:
        print(f"{character.label}: names no captioner; captions are yours or composed. To have pictures described:")
        print("  captions: {captioner: owner/model}    # or a folder, or {model, base_url}")
        return
    if settings.auto:
        print(f"{character.label}: captions.accept is auto: texts that pass the check are taken without asking")
    for proposal in found.proposals.values():
        console.print(Text(proposal.name, style="bold"))
        line = Text("  ")
        for kind, words in cleanup.difference(proposal.current, proposal.text):
            said = words if console.color_system else MARKS[kind].format(words)
            line.append(f"{said} ", style=STYLES[kind])
        console.print(line)
        if proposal.removed:
            console.print(Text(f"  left out: {', '.join(proposal.removed)}", style="dim"))
        for problem in proposal.problems:
            console.print(Text(f"  would be refused: {problem}", style="yellow"))
    if found.undescribed:
        target = layout.results(character.id).proposals.as_posix()
        price = settings.captioner.price
        cost = f" (about {price * len(found.undescribed):.2f} at your price)" if price else ""
        again = last_run.again(Path(), character.id, target)
        are = "is" if len(found.undescribed) == 1 else "are"
        print(f"{several(len(found.undescribed), 'picture')} {are} not described yet{cost}: {again}")
    if found.proposals:
        print(f"{len(found.proposals)} wait: charloom captions {character.id} --accept all (or names), or --keep")


def _say_tags(found: Review) -> None:
    statistics = found.record()["statistics"]
    print(f"In at least half of {statistics['captions']} captions:")
    for term in statistics["common"]:
        print(f"  {term['share']:4.0%}  {term['term']}")
    if not statistics["described"]:
        return
    print(f"Shown by at least half of {statistics['described']} described pictures, and in no caption:")
    for term in statistics["unsaid"]:
        print(f"  {term['share']:4.0%}  {term['term']}: {', '.join(term['pictures'][:8])}")
