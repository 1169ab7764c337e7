"""Splits prompts into phrases and tells what each is about: ``("outfit", "wearing a teal hoodie")``.

Prompts are free text. The workflow's captions, and prompts written like them, separate phrases by commas. If a phrase
has no known word, its position decides: the last one is the background.
"""

from __future__ import annotations

import re

from charloom.core import words

TIERS = ("close-up", "closeup", "portrait", "medium shot", "full body", "full-body", "full view", "headshot",
         "wide shot", "selfie")  # fmt: skip
_WORDS: dict[str, tuple[str, ...]] = {
    "outfit": ("wearing", "dressed in", "outfit", "dress", "shirt", "jacket", "hoodie", "coat", "suit", "jeans",
               "sweater", "skirt", "pajamas", "uniform", "blouse"),
    "accessory": ("earring", "necklace", "glasses", "sunglasses", "hat", "beanie", "cap", "scarf", "watch", "bracelet",
                  "ring", "bag", "holding", "headphones"),
    "view": ("frontal view", "front view", "side profile", "profile", "three-quarter", "3/4 view", "from behind",
             "back view", "looking at the camera", "from above", "from below", "low angle", "high angle"),
    "expression": ("smile", "smiling", "laughing", "serious", "crying", "angry", "surprised", "neutral expression",
                   "expression", "closed eyes", "frowning", "grin", "winking"),
    "pose": ("standing", "sitting", "walking", "running", "jumping", "arms crossed", "hands", "leaning", "lying",
             "kneeling", "dancing", "crouching", "arms", "riding"),
    "background": ("background", "studio", "street", "beach", "park", "kitchen", "bedroom", "forest", "office", "city",
                   "room", "cafe", "mountain", "garden", "at night", "indoors", "outdoors", "in front of"),
}  # fmt: skip


def split(text: str, trigger: str = "", of_identity: str = "") -> list[tuple[str, str]]:
    """The phrases of ``text`` with what they are about, in order.

    Phrases that name the trigger are reduced to their tier; ``of_identity`` is a line that describes the character
    and says nothing about the scene. Phrases about nothing known are ``other``.
    """
    known = {part.strip().lower() for part in of_identity.split(",") if part.strip()}
    parts = [part.strip(" .") for part in re.split(r"[,;]|\. ", text) if part.strip(" .")]
    found: list[tuple[str, str]] = []
    for index, part in enumerate(parts):
        hers = re.search(words.pattern(trigger), part, re.IGNORECASE) if trigger else None
        if hers:
            after = part[hers.end() :]
            if tier := next((name for name in TIERS if name in part.lower()), None):
                found.append(("tier", tier))
            rest = after.strip(" .")
            if len(rest.split()) > 1:  # "photo of l3yla sitting in a cafe"
                found.append((about(rest, last=index == len(parts) - 1), rest))
            continue
        if part.lower() in known:
            continue
        if index == 0 and (tier := next((name for name in TIERS if name in part.lower()), None)):
            found.append(("tier", tier))
            continue
        found.append((about(part, last=index == len(parts) - 1 and index > 0), part))
    return found


def about(phrase: str, last: bool = False) -> str:
    """What a phrase is about: a key of the table, else the background if it is the last one, else ``other``."""
    plain = phrase.lower()
    for name, known in _WORDS.items():
        if any(re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z]{{3,}})", plain) for word in known):
            return name
    return "background" if last else "other"


def by_attribute(phrases: list[tuple[str, str]]) -> dict[str, str]:
    """One phrase per attribute; several about the same attribute are joined."""
    out: dict[str, str] = {}
    for name, phrase in phrases:
        out[name] = f"{out[name]}, {phrase}" if name in out else phrase
    return out
