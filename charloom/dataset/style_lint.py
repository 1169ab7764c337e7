"""What the captions and the number of pictures of a style must be.

A style has neither person nor plan, so the rules for trigger, identity words and distances do not apply. Its captions
say what is shown, so that only how it is drawn is left to learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charloom.core import words
from charloom.dataset.findings import Finding, Item

FEW = 15
"""Pictures below which a style is hardly told from what they show."""
TECHNIQUES = (
    "anime", "art style", "brush strokes", "brushstrokes", "cartoon", "charcoal", "comic", "crosshatching", "drawing",
    "drawn", "engraving", "gouache", "illustration", "in the style of", "ink", "line art", "lineart", "oil painting",
    "painted", "painting", "pastel", "pencil", "pixel art", "print", "sepia", "sketch", "sketched", "vector",
    "watercolor", "watercolour", "woodcut",
)  # fmt: skip


def check(items: Sequence[Item], settings: Mapping[str, Any]) -> list[Finding]:
    """Findings about all images of a style, those of extra data sets included."""
    trigger, found = settings["trigger"], []
    others = {part["name"] for part in settings.get("sets", ()) if part["regularization"]}
    own = [item for item in items if item.part not in others]
    if len(own) < FEW:
        what = f"{len(own)} pictures; 20 to 60 of different subjects teach a style and not what they show"
        found.append(Finding("warning", "images", what))
    for item in items:
        if item.caption is None:
            continue
        times = words.count(item.caption, trigger) if trigger else 0
        if item.part in others:
            if times:
                what = f"contains the trigger {trigger}, but regularisation images are in other styles; remove it"
                found.append(Finding("error", item.text, what))
            continue
        if trigger and times != 1:
            what = f"has the trigger {trigger} {times} times; use it once, so that the word means the style"
            found.append(Finding("warning", item.text, what))
        if named := [word for word in TECHNIQUES if word != trigger.lower() and words.count(item.caption, word)]:
            why = "says how it is drawn, which the style should carry; remove it"
            found.append(Finding("warning", item.text, f"{', '.join(named)}: {why}"))
    return found
