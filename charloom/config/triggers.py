"""Triggers: made-up words that stand for a character. A good one consists of several tokens, none of them a word."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

from charloom.config import inventory
from charloom.core.tokens import Counter

FORM = re.compile("[A-Za-z0-9]{2,20}")
"""What a trigger may be made of."""
WRITTEN = re.compile(r"^trigger: *[\"']?([A-Za-z0-9]+)", re.MULTILINE)
"""The trigger in the text of a file that may have mistakes."""
_DIGITS = {"i": "1", "e": "3", "a": "4", "o": "0", "s": "5", "l": "1", "t": "7"}
_WORD = 4
"""Letters from which on a piece that begins a word is one that the model knows: girl, woman, photo."""


def complaint(trigger: str, count: Counter) -> str | None:
    """What is wrong with a trigger by the base's own tokenizer, or None; also None where the tokenizer is not here."""
    if not count.exact:
        return None
    for spelling in dict.fromkeys((trigger, trigger.lower(), trigger.title())):
        # A caption may begin with it, or have a blank before it.
        for text in (f" {spelling}", spelling):
            pieces = count.pieces(text)
            if len(pieces) < 2:
                return "is a single token, a word that the base knows already; change letters to digits, as in l3yla"
            begins = pieces[0].strip()
            if len(begins) >= _WORD and begins.isalpha():
                return (
                    f"begins with {begins}, a word that the base knows already; change letters to digits, as in l3yla"
                )
    return None


def suggest(name: str, count: Counter, taken: Container[str] = ()) -> str:
    """A trigger of 4 to 6 letters and digits from a name: not ``taken``, and good by the tokenizer if it is here."""
    free = [word for word in _spellings(name) if word not in taken]
    good = (word for word in free if complaint(word, count) is None)
    return next(good, free[0])


def taken(root: Path, but: str = "") -> dict[str, str]:
    """The triggers in the files of characters and styles, in small letters, and a file that has each.

    ``but`` is the name of one whose own does not count. Reads no more than that line, so a file may have mistakes.
    """
    found: dict[str, str] = {}
    for folder in inventory.PROJECTS:
        for path in inventory.yaml_files(root / "config" / folder):
            text = path.read_text(encoding="utf-8", errors="replace") if path.stem != but else ""
            for word in WRITTEN.findall(text):
                found.setdefault(word.lower(), f"config/{folder}/{path.name}")
    return found


def shared(trigger: str, root: Path, name: str) -> str | None:
    """A line about another character or style that has the trigger of ``name``, or None."""
    other = taken(root, name).get(trigger.lower())
    if other is None:
        return None
    what = f"{trigger} is the trigger of {other} too, so one picture cannot show both"
    styled = other.startswith("config/styles/")
    return f"{what}; {'' if styled else 'to compare them leave it so, else '}choose another"


def _spellings(name: str) -> Iterator[str]:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())[:6].ljust(4, "x")
    if any(letter.isdigit() for letter in letters):
        yield letters
    places = [index for index in (*range(1, len(letters)), 0) if letters[index] in _DIGITS]
    for index in places:
        yield letters[:index] + _DIGITS[letters[index]] + letters[index + 1 :]
    if len(places) > 1:
        first, second = sorted(places[:2])
        once = letters[:first] + _DIGITS[letters[first]] + letters[first + 1 :]
        yield once[:second] + _DIGITS[letters[second]] + once[second + 1 :]
    for digit in "7928":
        yield letters[:1] + digit + letters[1:5]
    yield from (f"{letters[:3]}{number:02d}x" for number in range(2, 100))
