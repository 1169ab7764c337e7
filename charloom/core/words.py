"""Finds words in texts of any language: the trigger, and misspelt placeholders for it. Independent of files.

Triggers are Latin letters and digits. Languages without spaces between words write them right beside their own
characters (一张m4ra的照片), so only Latin letters, digits and the underscore belong to the same word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache

PLACEHOLDER = "{trigger}"

# Latin letters with their accents, full-width ones too; any digits; accents that are characters of their own.
_SAME_KIND = r"A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿⱠ-Ɀ꜠-ꟿＡ-Ｚａ-ｚ\d_\u0300-\u036f"

_NAMES = r"trigger(?:[ _-]?(?:word|phrase|token|name))?"
_IN_BRACKETS = re.compile(rf"[\[<({{$%]+\s*(?:{_NAMES})\s*[\]>)}}$%]*|\[name\]|<name>", re.IGNORECASE)
_SHOUTED = re.compile(rf"(?<![{_SAME_KIND}])TRIGGER(?:[ _-]?WORD)?(?![{_SAME_KIND}])")
_CURLY = re.compile(r"\{\s*([A-Za-z_ -]{2,20})\s*\}")


@cache
def pattern(word: str) -> str:
    """A regular expression for ``word`` as a whole word."""
    return rf"(?<![{_SAME_KIND}]){re.escape(word)}(?![{_SAME_KIND}])"


def count(text: str, word: str) -> int:
    """How often ``word`` occurs in ``text`` as a whole word, ignoring case."""
    return len(re.findall(pattern(word), text, flags=re.IGNORECASE))


def replace(text: str, word: str, other: str) -> str:
    """``text`` with ``other`` wherever ``word`` occurs as a whole word, ignoring case."""
    return re.sub(pattern(word), lambda _: other, text, flags=re.IGNORECASE)


def misspelt_placeholder(text: str) -> str | None:
    """What was probably meant to be ``{trigger}`` and would be drawn literally: ``[trigger]``, ``{{trigger}}``, …"""
    for found in _IN_BRACKETS.finditer(text):
        if found[0] != PLACEHOLDER:
            return found[0]
    if shouted := _SHOUTED.search(text):
        return shouted[0]
    for found in _CURLY.finditer(text):
        if found[0] != PLACEHOLDER and difflib.SequenceMatcher(None, found[1].lower(), "trigger").ratio() > 0.75:
            return found[0]
    return None


def swapped(text: str, swap: tuple[str, str] | list[str]) -> str:
    """The caption with another word in place of the trigger, wherever that is a whole word."""
    trigger, other = swap
    return replace(text, trigger, other)


def title(name: str) -> str:
    """A display name from the name of a file."""
    return name.replace("-", " ").replace("_", " ").title()


def tidy(text: str) -> str:
    """A hand-written caption on one line, without redundant white space."""
    return " ".join(text.split())


def several(number: int, what: str) -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """Names in a sentence: ``a, b and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
