"""The prompt sheet: prompts for an image generator, one per shot, ready to copy.

The appearance is written once in the character file and inserted into every prompt, so that it cannot drift. The
trigger never appears, because a generator does not know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from charloom.config import kinds


@dataclass(frozen=True)
class Sheet:
    """All prompts of a character: ``reference`` (may be empty), then (tier, shot name, prompt) per shot."""

    name: str
    reference: str
    shots: tuple[tuple[str, str, str], ...]


_KEEP = {
    "creature": "its shape, colours or proportions",
    "object": "its shape, colours or proportions",
}
"""What must not change from picture to picture; for people, face, hair and build."""


def shot_prompt(appearance: str, shot: dict[str, Any], kind: str = "woman", look: str = "", noun: str = "") -> str:
    """The prompt for one image, to be sent together with the reference image.

    ``kind`` is the class, ``look`` and ``noun`` as in :func:`charloom.config.kinds.of`.
    """
    words = kinds.of(kind, look or "photographic", noun)
    outfit = f"wearing {shot['outfit']}" if shot["outfit"] else ""
    scene = [shot["view"], shot["pose"], shot["expression"], outfit, *shot["accessories"], shot["background"]]
    described = ", ".join(part for part in scene if part)
    tier, about = words.tiers[shot["tier"]], appearance.rstrip(".")
    if kind == "style":
        told = ", ".join(part for part in (f"{tier} of {shot['subject']}", described) if part)
        return (
            f"The attached picture is the reference for one particular style: {about}. "
            "Draw something else in this very style, without altering anything about lines, colours or shading. "
            f"New picture: {told}. No text or frame."
        )
    who = "person" if kind in kinds.WITH_FACE else words.noun
    return (
        f"The attached picture is the reference for one particular {who}: {about}. "
        f"Draw this very {who} again without altering anything about {_KEEP.get(kind, 'face, hair or build')}. "
        f"New picture: {tier}, {described}. {words.manner}, one {who} only, no text or frame."
    )


def scene(tier: str, who: str, **spoken_of: str) -> str:
    """A prompt to try a LoRA with; ``who`` is the trigger; ``class``, ``look`` and ``noun`` as in the settings."""
    kind = spoken_of.get("class", "woman")
    words = kinds.of(kind, spoken_of.get("look", "photographic"), spoken_of.get("noun", ""))
    if kind == "style":
        return f"{words.tiers[tier]} of a city street, in {who} style"
    return f"{words.tiers[tier]} of {who}, {'smiling, ' if kind in kinds.WITH_FACE else ''}city street"


def sheet(settings: dict[str, Any]) -> Sheet:
    """Make the sheet from the rule's settings: name, concept, appearance, shots; class, look and noun unless it is a
    woman in photographs."""
    how = {"kind": settings.get("class", "woman"), "look": settings.get("look", ""), "noun": settings.get("noun", "")}
    shots = tuple((s["tier"], s["name"], shot_prompt(settings["appearance"], s, **how)) for s in settings["shots"])
    return Sheet(settings["name"], settings["concept"], shots)


def as_text(sheet: Sheet) -> str:
    """Plain text: a heading per prompt, separated by empty lines."""
    blocks = [f"# {sheet.name}: reference (text to image)\n{sheet.reference}"] if sheet.reference else []
    blocks += [f"# {name}\n{prompt}" for _, name, prompt in sheet.shots]
    return "\n\n".join(blocks) + "\n"
