"""What a character is and how its pictures look: the words that captions, prompts and plans take from ``class`` and
``look`` of the character file.

Texts of a character file and of a plan may name them: ``{their} head`` is her, his, their or its head, ``a {noun}`` a
woman or a fox.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The words for one character."""

    noun: str
    """What a caption calls it, without article: woman, fox, teapot."""
    they: str
    them: str
    their: str
    picture: str
    """What a picture of the look is called: photo, drawing."""
    manner: str
    """The look in a prompt for an image generator."""
    tiers: dict[str, str]
    """How a caption begins, by tier."""

    @property
    def a_noun(self) -> str:
        """The noun with its article."""
        return with_article(self.noun)

    def fill(self, text: str) -> str:
        """``text`` with the words in place of ``{noun}``, ``{they}``, ``{them}`` and ``{their}``."""
        if "{" not in text:
            return text
        text = re.sub(r"\b([Aa])n? \{noun\}", lambda m: m[1] + self.a_noun[1:], text)
        for name in ("noun", "they", "them", "their"):
            text = text.replace(f"{{{name}}}", getattr(self, name))
        return text


_PRONOUNS = {
    "woman": ("she", "her", "her"),
    "man": ("he", "him", "his"),
    "person": ("they", "them", "their"),
    "creature": ("it", "it", "its"),
    "object": ("it", "it", "its"),
    "style": ("they", "them", "their"),
}
CLASSES = tuple(_PRONOUNS)
"""The last is a style, which has a file of its own (``config/styles/``)."""
WITH_FACE = ("woman", "man", "person")
"""Classes whose data sets need every emotion, profiles and clothes."""

_LOOKS = {
    "photographic": ("photo", "Photographic look, soft even light"),
    "drawn": ("drawing", "Drawn by hand, with clean lines and flat even light"),
    "anime": ("anime drawing", "Anime look, with clean lines and flat even light"),
    "comic": ("comic drawing", "Comic look, with inked outlines and flat even light"),
    "painted": ("painting", "Painted look, with visible brushwork and soft even light"),
    "rendered": ("3D render", "Rendered 3D look, soft even light"),
    "pixel-art": ("pixel art picture", "Pixel art with hard edges and few colours"),
}
LOOKS = tuple(_LOOKS)
PICTURES = tuple(picture for picture, _ in _LOOKS.values())
"""What pictures are called, in any look."""

PLANS = {"creature": "mascot-24", "object": "mascot-24", "style": "style-30"}
"""The plan of a class where the character file names none; ``portrait-30`` for people."""


def of(class_: str = "woman", look: str = "photographic", noun: str = "") -> Words:
    """The words for a class and a look; ``noun`` replaces the name of the class."""
    they, them, their = _PRONOUNS[class_]
    picture, manner = _LOOKS[look]
    return Words(noun or class_, they, them, their, picture, manner, _tiers(class_, picture))


def plan(class_: str) -> str:
    """The plan of shots for a class."""
    return PLANS.get(class_, "portrait-30")


def shares(balance: dict[str, int]) -> dict[str, float]:
    """Intended shots by tier as shares of all."""
    return {tier: number / sum(balance.values()) for tier, number in balance.items()}


def with_article(noun: str) -> str:
    """``a fox``, ``an owl``, by the first letter."""
    return f"{'an' if noun[:1].lower() in 'aeiou' and noun[:1] else 'a'} {noun}"


def _tiers(class_: str, picture: str) -> dict[str, str]:
    if class_ == "style":  # how it is drawn is for the trigger to say
        return {"close-up": "a close-up", "medium": "a medium shot", "full-body": "a full view"}
    near = f"a close-up {picture}" if class_ == "object" else f"a close-up portrait {picture}"
    far = f"a full view {picture}" if class_ == "object" else f"a full body {picture}"
    return {"close-up": near, "medium": f"a medium shot {picture}", "full-body": far}
