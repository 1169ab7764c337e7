"""Finds what captions have in common: terms in most of them, and what captioners see but no caption mentions.

Terms are content words and pairs of them (``gold earrings``). Word lists and counts, no model: good enough to point at
the watch that is on every picture.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 0.5
"""Share of the pictures that counts as most of them."""
WHOLE = 0.75
"""A pair replaces its word if at least this share of the word's pictures have the pair."""
FEWEST = 3
"""With fewer pictures than this, "most" means nothing."""

_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_STOP = frozenset(
    """a about above across after again against all almost along also although am among an and another any anything are
    around as at away back be because been before behind being below beneath beside besides between both but by can
    carry carrying close clearly could do does doing down each either else entire even every everything few first for
    from further gently had has have having he her here hers herself high him himself his how i if in inside into is it
    its itself just kind lightly like likely look looking looks lot made makes making many may might more most much near
    next no none nor not of off on one only onto or other others our out outside over overall own part partially
    partly perhaps possibly quite rather really same scene seem seems several shall she should show showing shown shows
    side slight slightly small so soft softly some somebody someone something somewhat such suggest suggesting suggests
    taken than that the their theirs them themselves then there these they thing this those though three through to
    toward towards two under until up upon us very view visible was we well were what when where which while who whole
    whom whose will with within without would you your appears appear appearing background camera caption capture
    captured captures captures central centered color colored colors colour coloured colours contrast depicted depicting
    depicts describe detail details directly emphasis emphasizing evident face facing feature featured features
    featuring figure focus foreground frame framed frames framing image images individual person photo photograph
    picture portrait pose posed poses posing position positioned setting shot simple stands standing sits sitting
    subject theme tone tones type wearing wears worn dressed dress-up lighting lit light""".split()
)
"""Words that say nothing about what is in a picture, or that every captioner is fond of."""


@dataclass(frozen=True)
class Term:
    """A term, the names of the pictures whose text has it, and their share of all pictures."""

    text: str
    pictures: tuple[str, ...]
    share: float

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {"term": self.text, "pictures": list(self.pictures), "share": round(self.share, 4)}


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.replace("’", "'").removesuffix("'s") for word in _WORD.findall(text.lower())]


def stem(word: str) -> str:
    """A word without its plural ending, so that ``earring`` and ``earrings`` count as one."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def frequent(texts: Mapping[str, str], ignored: Iterable[str] = (), most: float = MOST) -> list[Term]:
    """The terms in at least ``most`` of ``texts`` (by picture), most common first, without the words in ``ignored``.

    A word that nearly always appears in the same pair is represented by the pair.
    """
    passed = {stem(word) for term in ignored for word in words_of(term)}
    single: dict[str, set[str]] = defaultdict(set)
    pairs: dict[tuple[str, str], set[str]] = defaultdict(set)
    spelt: dict[str, Counter[str]] = defaultdict(Counter)
    for name, text in texts.items():
        before = ""
        for word in words_of(text):
            kept = "" if word in _STOP or len(word) < 3 or stem(word) in passed else stem(word)
            if kept:
                single[kept].add(name)
                spelt[kept][word] += 1
                if before:
                    pairs[before, kept].add(name)
            before = kept
    if len(texts) < FEWEST:
        return []
    said = {key: counter.most_common(1)[0][0] for key, counter in spelt.items()}
    found: dict[str, set[str]] = {}
    wanted = {key: names for key, names in single.items() if len(names) >= most * len(texts)}
    for key, names in wanted.items():
        best = max((pair for pair in pairs if key in pair), key=lambda pair: (len(pairs[pair]), pair), default=None)
        if best and len(pairs[best]) >= WHOLE * len(names):
            found[f"{said[best[0]]} {said[best[1]]}"] = pairs[best]
        else:
            found[said[key]] = names
    # "silver watch" adds nothing if "watch" is in more pictures.
    found = {
        text: names
        for text, names in found.items()
        if not any(part in found and names <= found[part] for part in text.split() if part != text)
    }
    order = sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return [Term(text, tuple(n for n in texts if n in names), len(names) / len(texts)) for text, names in order]


def unsaid(
    raw: Mapping[str, str], captions: Mapping[str, str], ignored: Iterable[str] = (), most: float = MOST
) -> list[Term]:
    """Terms in at least ``most`` of the captioner's ``raw`` texts (by picture) that no caption mentions."""
    said = {stem(word) for text in captions.values() for word in words_of(text)}
    return [
        term for term in frequent(raw, ignored, most) if not any(stem(word) in said for word in words_of(term.text))
    ]


def statistics(
    captions: Mapping[str, str], raw: Mapping[str, str], ignored: Iterable[str] = (), trigger: str = ""
) -> dict[str, Any]:
    """Both as plain values: ``common`` (what most captions say) and ``unsaid`` (what none says)."""
    ignored = [*ignored, trigger]
    return {
        "captions": len(captions),
        "described": len(raw),
        "common": [term.record() for term in frequent(captions, [trigger])],
        "unsaid": [term.record() for term in unsaid(raw, captions, ignored)],
    }
