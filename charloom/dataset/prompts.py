"""The prompt sheet: what to tell an image generator, one prompt for each shot, ready to copy.

The appearance is written once in the character file and expanded into every prompt, so that it cannot
drift. The trigger never appears: a generator does not know it. Knows text only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from charloom.dataset.captions import TIER_PHRASES


@dataclass(frozen=True)
class Sheet:
    """All prompts of a character: the reference first, if there is a text for it, then (tier, shot name, prompt)."""

    name: str
    reference: str
    shots: tuple[tuple[str, str, str], ...]


def shot_prompt(appearance: str, shot: dict[str, Any]) -> str:
    """The instruction for one image, to be sent together with the reference."""
    scene = [shot["view"], shot["pose"], shot["expression"], f"wearing {shot['outfit']}", *shot["accessories"]]
    described = ", ".join(part for part in [*scene, shot["background"]] if part)
    return (
        f"The attached picture is the reference for one particular person: {appearance.rstrip('.')}. "
        "Draw this very person again without altering anything about face, hair or build. "
        f"New picture: {TIER_PHRASES[shot['tier']]}, {described}. "
        "Photographic look, soft even light, one person only, no text or frame."
    )


def sheet(settings: dict[str, Any]) -> Sheet:
    """The sheet out of the rule's settings (name, concept, appearance, shots)."""
    shots = tuple((s["tier"], s["name"], shot_prompt(settings["appearance"], s)) for s in settings["shots"])
    return Sheet(settings["name"], settings["concept"], shots)


def as_text(sheet: Sheet) -> str:
    """Plain text: a heading for each prompt, an empty line between them."""
    blocks = [f"# {sheet.name}: reference (text to image)\n{sheet.reference}"] if sheet.reference else []
    blocks += [f"# {name}\n{prompt}" for _, name, prompt in sheet.shots]
    return "\n\n".join(blocks) + "\n"
