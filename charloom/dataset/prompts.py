"""The prompt sheet: prompts for an image generator, one per shot, ready to copy.

The appearance is written once in the character file and inserted into every prompt, so that it cannot drift. The
trigger never appears, because a generator does not know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from charloom.dataset.captions import TIER_PHRASES


@dataclass(frozen=True)
class Sheet:
    """All prompts of a character: ``reference`` (may be empty), then (tier, shot name, prompt) per shot."""

    name: str
    reference: str
    shots: tuple[tuple[str, str, str], ...]


def shot_prompt(appearance: str, shot: dict[str, Any]) -> str:
    """The prompt for one image, to be sent together with the reference image."""
    scene = [shot["view"], shot["pose"], shot["expression"], f"wearing {shot['outfit']}", *shot["accessories"]]
    described = ", ".join(part for part in [*scene, shot["background"]] if part)
    return (
        f"The attached picture is the reference for one particular person: {appearance.rstrip('.')}. "
        "Draw this very person again without altering anything about face, hair or build. "
        f"New picture: {TIER_PHRASES[shot['tier']]}, {described}. "
        "Photographic look, soft even light, one person only, no text or frame."
    )


def sheet(settings: dict[str, Any]) -> Sheet:
    """The sheet from the rule's settings (name, concept, appearance, shots)."""
    shots = tuple((s["tier"], s["name"], shot_prompt(settings["appearance"], s)) for s in settings["shots"])
    return Sheet(settings["name"], settings["concept"], shots)


def as_text(sheet: Sheet) -> str:
    """Plain text: a heading per prompt, separated by empty lines."""
    blocks = [f"# {sheet.name}: reference (text to image)\n{sheet.reference}"] if sheet.reference else []
    blocks += [f"# {name}\n{prompt}" for _, name, prompt in sheet.shots]
    return "\n\n".join(blocks) + "\n"
