"""Guesses about pictures from the words of their captions: what they show, from which distance and side, and which word
stands for the character. A guess helps to start and to see a data set's balance; nothing is demanded by it, and no
caption is made of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from charloom.config.triggers import FORM
from charloom.core import words

MOST = 0.6
"""Share of the captions that must agree."""

_TIERS = {
    "full-body": r"full[- ]?body|full[- ]length|whole body|head to toe|wide shot|long shot|full view",
    "medium": r"medium (?:shot|close)|mid[- ]shot|(?:half|upper)[- ]body|waist[- ]up|from the waist|cowboy shot|bust",
    "close-up": r"close[- ]?up|head ?shot|portrait|face shot|head and shoulders",
}
_VIEWS = {
    # "behind her" tells of the background.
    "seen from behind": r"from behind|from the back|back view|rear view|facing away|(?:her|his|their|its) back to",
    "side profile": r"(?:side|in|left|right) profile|profile (?:view|shot|picture)|side view|from the side",
    "three-quarter view": r"three[- ]quarters?|3/4",
    "frontal view": r"front(?:al)? view|from the front|facing (?:the camera|the viewer|forward|viewer)"
    r"|looking (?:straight |directly )?(?:at|into) (?:the )?(?:camera|viewer|lens)",
}
_PEOPLE = {
    "woman": r"wom[ae]n|girls?|lad(?:y|ies)|female|she|her|hers|1girl",
    "man": r"m[ae]n|boys?|guys?|gentleman|male|he|his|him|1boy",
}
_CREATURES = (
    "fox", "cat", "dog", "wolf", "bear", "rabbit", "bunny", "owl", "bird", "dragon", "horse", "unicorn", "mouse",
    "frog", "penguin", "panda", "lion", "tiger", "raccoon", "otter", "hedgehog", "squirrel", "robot", "monster",
    "creature", "mascot", "puppy", "kitten", "deer", "pig", "goat", "sheep", "duck", "turtle", "dinosaur",
)  # fmt: skip
_LOOKS = {
    "anime": r"anime|manga",
    "comic": r"comic",
    "painted": r"painting|painted|watercolou?r|oil on canvas|gouache",
    "rendered": r"3d render(?:ing)?|render(?:ing)?|cgi|blender",
    "pixel-art": r"pixel[- ]art",
    "drawn": r"drawing|drawn|illustration|sketch|line art|cartoon|vector art",
    "photographic": r"photo|photograph|photographic|photorealistic|selfie|snapshot|dslr",
}
_PLAIN = frozenset(
    "a an the this that photo photograph picture image portrait close closeup medium full shot drawing illustration "
    "painting anime woman man girl boy person she he they it of in on with and young old beautiful one "
    "there here her his their two some digital black white".split()
)


def tier(caption: str) -> str:
    """How much of the character a picture shows, if its caption says so: a tier of shots, or empty."""
    return _first(_TIERS, caption)


def view(caption: str) -> str:
    """From which side a picture shows the character, if its caption says so: a view of shots, or empty."""
    return _first(_VIEWS, caption)


def class_and_noun(captions: Sequence[str]) -> tuple[str, str] | None:
    """``class`` and ``noun`` of the character file by most captions; None where they do not say."""
    times = Counter({name: _times(pattern, captions) for name, pattern in _PEOPLE.items()})
    (first, most), (_, other) = times.most_common(2)
    if most >= MOST * len(captions) > 0 and most > 2 * other:
        return first, ""
    animals = Counter({noun: _times(rf"{noun}(?:s|es)?", captions) for noun in _CREATURES})
    noun, number = animals.most_common(1)[0]
    if number >= MOST * len(captions) > 0 and number > 2 * most:
        return "creature", "" if noun == "creature" else noun
    return None


def look(captions: Sequence[str]) -> str | None:
    """``look`` of the character file by most captions; None where they do not say."""
    times = Counter(name for name in (_first(_LOOKS, caption) for caption in captions) if name)
    name, number = next(iter(times.most_common(1)), ("", 0))
    return name if number >= MOST * len(captions) > 0 else None


def trigger(captions: Sequence[str]) -> str | None:
    """The word by which nearly all captions call the character, as captions made for a LoRA do; None if there is none.

    It has a digit, or it is what the captions begin with and no ordinary word.
    """
    if len(captions) < 3:
        return None
    held: Counter[str] = Counter()
    begun: Counter[str] = Counter()
    for caption in captions:
        said = re.sub(r"\[trigger\]|\{trigger\}", " ", caption)  # stands for the word, but is not it
        found = FORM.findall(said)
        held.update({word for word in found if words.count(caption, word) == 1})
        begun.update(found[:1])
    enough = 0.8 * len(captions)
    known = [word for word, number in held.most_common() if number >= enough]
    named = [word for word in known if re.search(r"[A-Za-z]", word) and not re.fullmatch(r"\d+[a-z]+", word)]  # 85mm
    odd = [word for word in named if re.search(r"\d", word)]
    first = [word for word in named if begun[word] >= enough and word.lower() not in _PLAIN]
    return next(iter(odd + first), None)


def _first(patterns: dict[str, str], text: str) -> str:
    found = (name for name, pattern in patterns.items() if _holds(pattern, text))
    return next(found, "")


def _holds(pattern: str, text: str) -> bool:
    return bool(re.search(rf"(?<![a-z])(?:{pattern})(?![a-z])", text, re.IGNORECASE))


def _times(pattern: str, texts: Iterable[str]) -> int:
    """How many of the texts hold it."""
    return sum(_holds(pattern, text) for text in texts)
