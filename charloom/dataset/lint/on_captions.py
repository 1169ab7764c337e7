"""Rules about the trigger and about captions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from charloom.config import guesses
from charloom.core import words
from charloom.dataset import cleanup, identity, tags
from charloom.dataset.lint.findings import Item
from charloom.dataset.lint.registry import Data, Hit, rule

LONG_WORDS = 90
ORDINARY = frozenset(
    """adam alice anna ben bella black blonde blue brown camila clara dark david elena ella emily emma eva face
    female girl green hair hanna hannah jane john julia kate laura leila lena leyla light lily linda lisa lucy
    man mara maria marie mary maya mia model mona nadia name nina nora olga olivia orla person peter photo pink
    portrait queen red rosa rose sara sarah shot sofia sophia star style token vera white woman yuna""".split()
)
"""Words and first names that models already know; a hint, not a dictionary."""
RARE = "ohwx"
"""The usual rare token of DreamBooth tutorials: only letters, but no model knows it."""


@rule(
    "trigger",
    "error",
    "The trigger is a word that models may know, clumsy, or another character's.",
    remedy="add a digit",
)
def trigger(data: Data) -> Iterator[Hit]:
    """An error only if the trigger already means something. A style may be named after itself."""
    word = data.trigger
    if data.style:
        return
    if word.lower() in ORDINARY:
        what = f"{word} is a word or name that models already know"
        yield Hit("trigger", what, remedy="change a letter to a digit, as in l3yla")
    elif word.isalpha() and word.lower() != RARE:
        yield Hit("trigger", f"{word} has only letters, so models may know it", level="warning")
    if not 4 <= len(word) <= 6:
        remedy = "4 to 6 make few tokens and are easy to type"
        yield Hit("trigger", f"{word} has {len(word)} characters", level="warning", remedy=remedy)


@rule("trigger-count", "error", "A caption of the character does not have the trigger exactly once.")
def trigger_count(data: Data) -> Iterator[Hit]:
    """An error for the shots; an extra set may show somebody else on purpose."""
    for item in data.written:
        if not _miscounted(data, item):
            continue
        times = words.count(item.caption, data.trigger)
        meant = _placeholder(item.caption)
        said = f" (write {data.trigger} instead of {meant}: captions have no placeholders)" if meant else ""
        evidence = {"times": times}
        if data.style:
            what, remedy = (
                f"has the trigger {data.trigger} {times} times",
                f"use it once, so that the word means the style{said}",
            )
            yield Hit(item.text, what, (item.name,), evidence, "warning", remedy)
        elif item.part:
            what = f"has the trigger {data.trigger} {times} times"
            remedy = f"use it once if the image shows the character, else set regularization: true{said}"
            yield Hit(item.text, what, (item.name,), evidence, "warning", remedy)
        else:
            what = f"the trigger {data.trigger} {'is missing' if not times else f'appears {times} times'}"
            yield Hit(item.text, what, (item.name,), evidence, remedy=f"it must appear exactly once{said}")


def _miscounted(data: Data, item: Item) -> bool:
    """Whether a caption should have the trigger exactly once but does not; a style may have no trigger."""
    wanted = data.trigger and data.role(item) != "regularisation"
    return bool(wanted) and words.count(str(item.caption), data.trigger) != 1


def _placeholder(caption: str) -> str | None:
    return words.PLACEHOLDER if words.PLACEHOLDER in caption else words.misspelt_placeholder(caption)


@rule("placeholder", "warning", "A caption has a placeholder, which is trained on as it stands.", remedy="remove it")
def placeholder(data: Data) -> Iterator[Hit]:
    """Placeholders that :func:`trigger_count` misses: next to the trigger, for other people, in styles without one."""
    for item in data.written:
        if (meant := _placeholder(item.caption)) and not _miscounted(data, item):
            yield Hit(item.text, f"{meant} is trained on as it stands", (item.name,), {"text": meant})


@rule("trigger-of-others", "error", "A picture of somebody else has the trigger.", remedy="remove it")
def trigger_of_others(data: Data) -> Iterator[Hit]:
    """Regularisation pictures."""
    for item in data.written:
        if data.trigger and data.role(item) == "regularisation" and words.count(item.caption, data.trigger):
            others = "are in other styles" if data.style else "show others"
            what = f"contains the trigger {data.trigger}, but regularisation images {others}"
            yield Hit(item.text, what, (item.name,))


@rule("other-trigger", "warning", "Captions call the character by another made-up word beside the trigger.")
def other_trigger(data: Data) -> Iterator[Hit]:
    """That of another LoRA, or of before a change: captions of a folder get the new trigger put before them."""
    own = of_character(data) if data.trigger else []
    found = guesses.trigger([words.replace(item.caption, data.trigger, "") for item in own])
    if found and re.search(r"\d", found):
        having = [item for item in own if words.count(item.caption, found)]
        what = f"{len(having)} of {len(own)} call the character {found} beside the trigger {data.trigger}"
        remedy = f"write {data.trigger} in its place"
        yield Hit("captions", what, tuple(item.name for item in having), {"word": found}, remedy=remedy)


def of_character(data: Data) -> list[Item]:
    """Items whose captions describe the character."""
    return [item for item in data.of_character() if item.caption is not None]


@rule("wordy", "warning", "A caption is long.", remedy="describe only what varies")
def wordy(data: Data) -> Iterator[Hit]:
    """More than :data:`LONG_WORDS` words."""
    for item in () if data.style else of_character(data):
        if (number := len(item.caption.split())) > LONG_WORDS:
            yield Hit(item.text, f"has {number} words", (item.name,), {"words": number, "most": LONG_WORDS})


@rule("identity-words", "warning", "A caption describes who the character is.", remedy="remove it")
def identity_words(data: Data) -> Iterator[Hit]:
    """By the word list of the class and the user's own words."""
    own = data.settings.get("captions", {})
    forbidden = identity.words_of(data.kind, own.get("identity_words", ()), own.get("keep_words", ()), strict=True)
    for item in of_character(data):
        if named := [w for w in forbidden if w != data.trigger.lower() and words.count(item.caption, w)]:
            named = [word for word in named if not any(word in other for other in named if other != word)]
            why = "says how it is drawn, which the style" if data.style else "describes the identity, which the trigger"
            what = f"{', '.join(named)}: {why} should carry"
            yield Hit(item.text, what, (item.name,), {"words": named})


@rule("pronouns", "warning", "A caption calls the character by the pronoun of another class.")
def pronouns(data: Data) -> Iterator[Hit]:
    """``her`` for a man, ``his`` for a woman."""
    for item in of_character(data):
        if wrong := identity.wrong_pronouns(item.caption, data.kind):
            said = ", ".join(wrong)
            remedy = f"correct the caption, or class, which is {data.kind}"
            yield Hit(item.text, f"says {said} of a {data.kind}", (item.name,), {"words": list(wrong)}, remedy=remedy)


@rule("hidden-eyes", "warning", "A caption names eyes that the picture does not show.", remedy="remove them")
def hidden_eyes(data: Data) -> Iterator[Hit]:
    """Shots from behind."""
    for item in data.written:
        behind = data.shots.get(item.name, {}).get("view") == "seen from behind"
        if behind and re.search(r"\beyes\b", item.caption):
            yield Hit(item.text, "mentions the eyes, which a back view does not show", (item.name,))


@rule("caption-twins", "warning", "Captions of different pictures are the same.")
def caption_twins(data: Data) -> Iterator[Hit]:
    """Only among shots: an extra set may have one caption for all of its pictures."""
    same: dict[str, list[Item]] = defaultdict(list)
    for item in data.written:
        # A caption that is set for all pictures without a text is repeated on purpose.
        if not item.part and item.caption != data.settings.get("whole"):
            same[item.caption].append(item)
    for items in same.values():
        if len(items) > 1:
            where, names = words.listed([item.text for item in items], 3), tuple(item.name for item in items)
            yield Hit(where, "are identical", names, remedy="describe what differs between the images")


@rule("tokens", "error", "A caption is longer than the text encoder reads.", remedy="shorten it")
def tokens(data: Data) -> Iterator[Hit]:
    """An error only if the tokens are counted exactly, not estimated."""
    for item in data.written:
        if what := data.count.too_long(item.caption):
            what, _, remedy = what.partition("; ")
            level = None if data.count.exact else "warning"
            yield Hit(item.text, what, (item.name,), {"tokens": data.count(item.caption)}, level, remedy)


@rule("unsaid", "warning", "Most pictures show something that no caption says.")
def unsaid(data: Data) -> Iterator[Hit]:
    """By the captioner's raw texts, if one has described the pictures."""
    raw = data.settings.get("_raw") or {}
    shown = {item.name: item for item in of_character(data) if item.name in raw}
    if not shown:
        return
    own, line, noun = (data.settings.get(key, empty) for key, empty in (("captions", {}), ("line", ""), ("noun", "")))
    seen, known = cleanup.varying({name: raw[name] for name in shown}, data.trigger, data.kind, line, own, noun)
    said = {name: item.caption for name, item in shown.items()}
    for term in tags.unsaid(seen, said, [*known, data.trigger]):
        what = f"{len(term.pictures)} of {len(shown)} pictures show {term.text}, and no caption says so"
        remedy = (
            "the LoRA would learn it as part of the character: name it in captions or vary it, or if it is part of the "
            "character, write it into identity_line or captions.identity_words"
        )
        yield Hit("captions", what, term.pictures, {"term": term.text, "share": round(term.share, 3)}, remedy=remedy)


@rule("waiting", "note", "Captions of the captioner wait to be accepted.")
def waiting(data: Data) -> Iterator[Hit]:
    """Until then the composed captions are used."""
    if names := tuple(data.settings.get("_waiting", ())):
        what = f"{len(names)} texts of the captioner wait to be accepted; until then the composed captions are used"
        yield Hit("captions", what, names, remedy=f"charloom captions {data.settings.get('character', '')}".rstrip())
