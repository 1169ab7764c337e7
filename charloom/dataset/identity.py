"""Words about who somebody is, which captions leave to the trigger, and the nouns and pronouns of each class.

These are only lists: a word on them may be right in a particular caption. ``captions.identity_words`` and
``captions.keep_words`` of a character file extend and shorten them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

_FACE = (
    "cheekbone", "cheekbones", "cheeks", "complexion", "eyebrow", "eyebrows", "brows", "face shape", "facial features",
    "jaw", "jawline", "lips", "nose", "skin", "skin tone", "eyelashes", "lashes", "chin dimple", "dimples", "freckles",
    "freckled", "oval face", "round face", "heart-shaped face", "square face", "almond-shaped", "forehead",
)  # fmt: skip
_OLD = ("cheeks", "brows", "facial features", "jaw", "lashes", "dimples", "freckled", "heart-shaped face",
        "square face", "forehead")  # fmt: skip
"""Words that captioners' texts lose, but hand-written captions may use: ``rosy cheeks in the cold`` varies."""
_BEARD = ("adam's apple", "facial hair")
_ANIMAL = (
    "fur colour", "fur color", "coat colour", "coat color", "fur pattern", "snout", "muzzle", "whiskers", "paw pads",
    "markings", "plumage", "beak", "fur", "tail shape", "ear shape",
)  # fmt: skip
_THING = ("colour scheme", "color scheme", "silhouette", "proportions", "material", "brand", "model number")

_TECHNIQUE = (
    "anime", "art style", "brush strokes", "brushstrokes", "cartoon", "charcoal", "comic", "crosshatching", "drawing",
    "drawn", "engraving", "gouache", "illustration", "in the style of", "ink", "line art", "lineart", "oil painting",
    "painted", "painting", "pastel", "pencil", "pixel art", "print", "sepia", "sketch", "sketched", "vector",
    "watercolor", "watercolour", "woodcut",
)  # fmt: skip

IDENTITY: dict[str, tuple[str, ...]] = {
    "woman": _FACE,
    "man": (*_FACE, *_BEARD),
    "person": _FACE,
    "creature": _ANIMAL,
    "object": _THING,
    "style": _TECHNIQUE,
}
"""Identity words by class; those of a style say how it is drawn."""
STRICT = {kind: tuple(word for word in words if word not in _OLD) for kind, words in IDENTITY.items()}
"""The words that the check of captions reports; the clean-up of captioners' texts removes all of :data:`IDENTITY`."""

NOUNS: dict[str, tuple[str, ...]] = {
    "woman": ("woman", "lady", "girl", "female", "person", "model", "individual", "subject", "figure"),
    "man": ("man", "guy", "boy", "male", "gentleman", "person", "model", "individual", "subject", "figure"),
    "person": ("person", "woman", "man", "lady", "girl", "guy", "boy", "individual", "model", "subject", "figure"),
    "creature": ("creature", "animal", "character", "mascot", "figure", "cat", "dog", "fox", "bear", "rabbit", "bird",
                 "dragon", "monster", "toy", "subject"),
    "object": ("object", "item", "product", "thing", "subject"),
    "style": ("illustration", "painting", "drawing", "artwork", "image", "picture"),
}  # fmt: skip
"""What captioners call the character, by class."""

WRONG: dict[str, tuple[str, ...]] = {
    "woman": ("he", "him", "his", "himself"),
    "man": ("she", "her", "hers", "herself"),
    "person": (),
    "creature": (),
    "object": ("she", "her", "hers", "herself", "he", "him", "his", "himself"),
    "style": (),
}
"""Pronouns that cannot refer to a character of that class."""

_ADJECTIVES = (
    "young|old|older|middle-aged|adult|teenage|elderly|tall|short|slim|slender|petite|muscular|athletic|curvy|beautiful|"
    "pretty|handsome|attractive|stunning|gorgeous|cute|smiling|elegant|stylish|striking|"
    "caucasian|asian|african|black|white|latina|latino|hispanic|european|indian|blonde|blond|brunette|red-haired|"
    "dark-haired|fair-skinned|dark-skinned|brown-haired|black-haired|long-haired|short-haired|bearded|blue-eyed|"
    "green-eyed|brown-eyed|red-headed|redheaded|olive-skinned|tanned|pale|anthropomorphic|cartoon|stylized|stylised"
)
"""Adjectives of a person; none of them, except ``smiling``, varies from picture to picture."""


def words_of(kind: str, more: Iterable[str] = (), keep: Iterable[str] = (), strict: bool = False) -> list[str]:
    """The identity words of a class and the user's own, without those to keep, longest first."""
    table = STRICT if strict else IDENTITY
    own, kept = [" ".join(word.lower().split()) for word in more], {" ".join(word.lower().split()) for word in keep}
    found = dict.fromkeys([*table.get(kind, table["person"]), *own])
    return sorted((word for word in found if word not in kept), key=lambda word: (-len(word), word))


def called(kind: str, noun: str = "") -> tuple[str, ...]:
    """What captioners call the character: by its class, and by the user's own noun for it."""
    return (*NOUNS.get(kind, ()), *([noun] if noun else []))


@cache
def subject(kind: str, noun: str = "") -> re.Pattern[str]:
    """The pattern that finds the character in a captioner's text: ``a young woman``, ``the man``."""
    nouns = "|".join(map(re.escape, filter(None, (noun, *NOUNS.get(kind, NOUNS["person"])))))
    return re.compile(
        rf"\b(?:an?|the|one|this)\s+(?:(?:very|{_ADJECTIVES}),?\s+(?:and\s+)?)*(?:{nouns})(?:\s+(?:{nouns}))*\b",
        re.IGNORECASE,
    )


def line_words(line: str, trigger: str) -> list[str]:
    """The constant features in an identity line: ``m4ra, a woman with long hair and green eyes`` gives ``long hair``
    and ``green eyes``."""
    _, _, rest = line.replace("{trigger}", trigger).partition(" with ")
    return [part.strip() for part in re.split(r",|\band\b", rest.lower()) if part.strip()]


def wrong_pronouns(text: str, kind: str) -> Sequence[str]:
    """Pronouns in a caption that do not match the class."""
    wrong = WRONG.get(kind, ())
    return list(dict.fromkeys(word for word in re.findall(r"[a-z]+", text.lower()) if word in wrong))
