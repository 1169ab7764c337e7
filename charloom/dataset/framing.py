"""Guesses the balance of a folder that is used as a whole: distances and views of its pictures.

It goes by the words of the captions, and by the size of faces where a face detector has run. The result is a single
note: nobody has to describe their own pictures, so nothing is required, and no caption is written from a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charloom.config import guesses

NEAR, FAR = 0.27, 0.14
"""Height of a face, as a share of the picture's: at or above the first it is a close-up, below the second probably the
whole body. The limits lie halfway between the framings of head and shoulders, head to waist, and whole figure."""
FEW = 0.1
"""Share of the pictures below which a distance is called rare."""
FEWEST = 5
"""Fewer pictures than this hardly make a character."""


@dataclass(frozen=True)
class Guess:
    """``tier`` and ``view`` as in shots, empty if unknown; ``by`` is ``words``, ``face`` or empty."""

    tier: str = ""
    view: str = ""
    by: str = ""


def guess(caption: str, facts: Mapping[str, Any] | None) -> Guess:
    """Guess what a picture shows from its caption, or else from its largest face (``faces`` of the facts)."""
    view = guesses.view(caption)
    if tier := guesses.tier(caption):
        return Guess(tier, view, "words")
    heights = [face["box"][3] - face["box"][1] for face in (facts or {}).get("faces", ())]
    if not heights:
        return Guess("", view)
    largest = max(heights)
    return Guess("close-up" if largest >= NEAR else "medium" if largest >= FAR else "full-body", view, "face")


def findings(items: Iterable[Any], settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (level, where, what) about a folder that is used as a whole: number of pictures, captions, balance.

    ``items`` have ``part``, ``picture``, ``caption`` and ``facts``; ``settings["whole"]``, which only such a folder
    has, is the caption of pictures without one.
    """
    if "whole" not in settings:
        return
    of_the_character = [item for item in items if not item.part]
    own = [(item.caption or "", item.facts) for item in of_the_character]
    if len(own) < FEWEST:
        few = f"{len(own)} picture{'s are' if len(own) > 1 else ' is'} few"
        yield "warning", "pictures", f"{few}; 15 to 40 different ones make a good character"
    if without := [item.picture for item in of_the_character if item.caption == settings["whole"]]:
        have = f"{len(without)} pictures have no caption" if len(without) > 1 else "1 picture has no caption"
        named = [Path(picture).name for picture in without[:3]] + ["…"] * (len(without) > 3)
        remedy = "write what varies, or it becomes part of the trigger"
        yield "warning", "captions", f'{have} but "{settings["whole"]}" ({", ".join(named)}); {remedy}'
    for line in balance([guess(caption, facts) for caption, facts in own]):
        yield "note", "balance", line


def balance(made: Sequence[Guess]) -> Iterator[str]:
    """Yield lines about the balance of the guessed pictures."""
    known = [one for one in made if one.tier]
    if not known:
        return
    tiers, by = Counter(one.tier for one in known), Counter(one.by for one in known)
    views = Counter(one.view for one in made if one.view)
    sources = [f"{by[key]} by {what}" for key, what in _SOURCES.items() if by[key]]
    listed = ", ".join(
        f"{tiers[tier]} {name.removesuffix('s') if tiers[tier] == 1 else name}" for tier, name in _NAMES.items()
    )
    seen = "".join(f", {number} {view}" for view, number in views.most_common())
    yield f"guessed for {len(known)} of {len(made)} pictures ({' and '.join(sources)}): {listed}{seen}"
    rare = [name for tier, name in _NAMES.items() if tiers[tier] < FEW * len(known)]
    if rare and len(known) >= 0.5 * len(made) and len(made) >= FEWEST:
        yield f"hardly any {' or '.join(rare)}, by this guess; the LoRA draws best at distances that it has seen"


_SOURCES = {"words": "their captions", "face": "the size of a face"}
_NAMES = {"close-up": "close-ups", "medium": "medium shots", "full-body": "of the whole figure"}
