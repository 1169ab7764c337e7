"""Turns a captioner's text into a caption: the trigger first, identity left out, what varies kept, not too long.

It uses patterns and understands nothing. The result is shown as a diff of the present caption before anybody trains on
it, and the words that were left out are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from charloom.core import tokens, words
from charloom.dataset import identity

MOST_TOKENS = 120
LEAST_WORDS = 3
"""A caption needs more words than this."""

_PICTURE = r"image|photo|photograph|picture|portrait|scene|illustration|drawing|painting|render|shot|snapshot|artwork"
_OPENINGS = (
    r"(?:sure|certainly|of course|okay|ok)[,!.]?\s+",
    r"(?:here(?:'s| is| are)|below is)[^:.]{0,80}:\s*",
    r"(?:caption|description|answer|training caption)\s*:\s*",
    rf"in (?:this|the) (?:{_PICTURE})\s*,?\s*(?:we (?:can )?see\s+|there is\s+|you (?:can )?see\s+)?",
    rf"(?:the|this) (?:{_PICTURE})(?: here)? (?:shows|depicts|features|captures|presents|portrays|contains)\s+",
    rf"(?:the|this) (?:{_PICTURE})(?: here)? is (?=(?:an?|the) )",
    r"(?:this|it) is(?=,? (?:an?|the) )\s*,?\s+|(?:this|it) is\s+,\s*",
    r"(?:there is|we (?:can )?see|you (?:can )?see)\s+",
)
_OPENING = re.compile("|".join(f"(?:{part})" for part in _OPENINGS), re.IGNORECASE)
_SHOT = re.compile(
    rf"(?P<shot>(?:an?|the)\s+(?:[\w-]+,?\s+){{0,4}}?(?:close-up|closeup|selfie|view|{_PICTURE})"
    rf"(?:\s+(?:{_PICTURE}))*)\s+(?:of|showing|featuring|depicting|with)\s+",
    re.IGNORECASE,
)

LINES, CHARACTERS = 40, 3000
"""How much of a captioner's text is read; no caption is that long."""
_QUOTES = " \"'“”‘’"
_HOW = (
    "very|slightly|slight|softly|naturally|beautifully|gently|neatly|long|short|medium-length|shoulder-length|"
    "waist-length|chin-length|wavy|curly|straight|thick|thin|full|fuller|high|low|sharp|soft|defined|well-defined|"
    "prominent|strong|arched|round|rounded|oval|heart-shaped|square|small|large|big|wide|narrow|delicate|smooth|clear|"
    "glowing|flawless|natural|bushy|bright|striking|expressive|subtle|fine|pointed|angular|chiselled|chiseled|button|"
    "brown|dark|black|blonde|blond|light|light-brown|dark-brown|red|auburn|ginger|green|blue|hazel|grey|gray|golden|"
    "silver|white|fair|pale|olive|tan|tanned|deep|warm|cool|rosy|pink|ivory|porcelain|freckled|almond-shaped|orange|"
    "purple|yellow|fluffy|shaggy|stubby|striped|spotted|matching|healthy|shiny|glossy|silky|sleek|youthful|symmetrical"
)
_DETERMINERS = r"a|an|the|her|his|their|its|some"
_LINKS = r"with|has|have|having|and|plus|featuring|showing|including|also"
_WORN = r"(?:(?:is|are|was|were)\s+)?(?:wears?|wearing|wore|has|have|having|with)"
_LEFT_ALONE = re.compile(r"^(?:she|he|they|it|her|his|their|its|and|but|with|the|an?|is|are|has|have|also|who|that)*$")
_VERBS = re.compile(r"^(?:is|are|was|were|look|looks|appear|appears|seem|seems|frame|frames|has|have)\b", re.IGNORECASE)
_DONE_UP = r"(?!\s+(?:tied|pulled|styled|worn|braided|up\b|down\b|in\s+(?:an?|two)\b|swept|gathered|loose|blowing|wet))"
"""What follows ``hair`` when it describes how the hair is worn, which varies."""


@dataclass(frozen=True)
class Context:
    """What a caption is about. ``trigger`` is empty for pictures of other people, whose identity is kept."""

    trigger: str
    kind: str = "woman"
    identity_words: tuple[str, ...] = ()
    line_words: tuple[str, ...] = ()
    """Constant features of the character from its identity line: ``long hair``."""
    eyes_hidden: bool = False
    most_tokens: int = MOST_TOKENS
    noun: str = ""
    """The user's own noun for the character, if it is not the class."""


@dataclass(frozen=True)
class Cleaned:
    """A caption, and what was left out of the captioner's text."""

    text: str
    removed: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """Why the text makes no caption; empty if it does."""
        return "" if len(self.text.split()) > LEAST_WORDS else "hardly anything is left of the captioner's text"


def clean(raw: str, context: Context) -> Cleaned:
    """Turn a captioner's text into a caption."""
    # A model that repeats itself can go on for thousands of words.
    text, removed = _plain("\n".join(raw.splitlines()[:LINES])[:CHARACTERS]), []
    if context.trigger:
        text = words.replace(text, context.trigger, "").strip(" ,")
    text = _opened(text)
    if context.trigger:
        text, removed = _without(text, context)
        text = _begun(text, context)
    elif text:
        text = text[0].lower() + text[1:] if text.split()[0].lower() in ("a", "an", "the") else text
    short = _shortened(text.rstrip(" .,;"), context.most_tokens)
    if cut := text.rstrip(" .,;").removeprefix(short).strip(" .,;"):
        removed = [*removed, cut]
    return Cleaned(short, tuple(removed))


def varying(
    raw: Mapping[str, str], trigger: str, kind: str, line: str, own: Mapping[str, Sequence[str]], noun: str
) -> tuple[dict[str, str], list[str]]:
    """What a captioner's texts say beside who the character is, however long they are, and the words for who it is.

    ``raw`` has the texts by picture, ``own`` the user's ``identity_words`` and ``keep_words``.
    """
    more, keep = own.get("identity_words", ()), own.get("keep_words", ())
    context = context_of(trigger, kind, line, more, keep, most_tokens=CHARACTERS, noun=noun)
    known = [*identity.words_of(kind, more, keep), *identity.called(kind, noun)]
    return {name: clean(text, context).text for name, text in raw.items()}, known


def _plain(raw: str) -> str:
    """Remove Markdown, lists, line breaks, and quotes around the whole text."""
    text = re.sub(r"<think>.*?</think>|</?\w+>", " ", raw, flags=re.DOTALL)
    text = re.sub(r"```\w*|[*_`#]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}", "", text)
    joined = ""
    for line in filter(str.strip, text.splitlines()):
        bare = re.sub(r"^\s*(?:[-•*]|\d+[.)])\s+", "", line).strip()
        ended = not joined or joined.endswith((".", ",", ":", ";", "!", "?"))
        joined += f"{'' if ended else ',' if bare != line.strip() else '.'} {bare}"
    return words.tidy(joined).strip(_QUOTES)


def _opened(text: str) -> str:
    """Remove what comes before the description itself."""
    while found := _OPENING.match(text):
        text = text[found.end() :].lstrip().strip(_QUOTES)
    return text


def _begun(text: str, context: Context) -> str:
    """Put the trigger first, in place of what the captioner calls the character."""
    shot = ""
    if found := _SHOT.match(text):
        shot, text = _article_less(found["shot"]), text[found.end() :]
    subject = identity.subject(context.kind, context.noun)
    if found := subject.match(text):
        text = text[found.end() :].lstrip()
        text = re.sub(r"^(?:,\s*)?(?:who|that)\s+(?:is|are|has)\s+|^(?:,\s*)?(?:who|that)\s+|^(?:is|are)\s+", "", text)
        joined = f"{context.trigger}, {shot}, {text}" if shot else f"{context.trigger} {text}"
    else:
        # The trigger stands for whoever is named first.
        text = re.sub(rf"(?:^|(?<=,\s)){subject.pattern}\s*(?:is\s+)?", "", text, count=1, flags=re.IGNORECASE)
        bare = "|".join(identity.NOUNS.get(context.kind, ()))
        text = re.sub(rf"(?:^|(?<=,\s))(?:\d?(?:{bare})|solo)(?:,\s*|$)", "", text, flags=re.IGNORECASE)
        text = re.sub(r"^(?:she|he|they|it)\s+(?:is|are|has)?\s*", "", text, flags=re.IGNORECASE)
        first = text.split(" ", 1)[0]
        text = text if first.isupper() and len(first) > 1 else text[:1].lower() + text[1:]
        joined = f"{context.trigger}, {f'{shot}, ' if shot else ''}{text}"
    return _mended(joined)


def _article_less(shot: str) -> str:
    return re.sub(r"^(?:an?|the)\s+", "", shot, flags=re.IGNORECASE)


def _without(text: str, context: Context) -> tuple[str, list[str]]:
    """Return the text without identity, and what was removed."""
    removed: list[str] = []
    for pattern in _patterns(context):
        text = _taken_out(text, pattern, removed)
    sentences = [_sentence(one, context, removed) for one in re.split(r"(?<=[.!?])\s+", text)]
    return " ".join(one for one in sentences if one), removed


def _patterns(context: Context) -> list[re.Pattern[str]]:
    """One pattern per identity word: the word with its adjectives and what links it to the rest."""
    describing = rf"(?:(?:{_HOW}),?\s+(?:and\s+)?)"
    patterns = []
    for word in context.identity_words:
        patterns.append((rf"{describing}*{re.escape(word)}", ""))
    for phrase in context.line_words:
        head = phrase.split()[-1]
        patterns.append((rf"{describing}+{re.escape(head)}", _DONE_UP))
    return [
        re.compile(
            rf"(?P<worn>\b{_WORN}\s+)?(?P<link>(?:,\s*)?\b(?:(?:{_LINKS})\s+)+)?"
            rf"(?P<phrase>(?:\b(?:{_DETERMINERS})\s+)?\b{noun}\b{after})"
            rf"(?P<next>\s*,?\s*(?:and\s+)?(?=(?:(?:{_DETERMINERS}|{_HOW})\b)))?"
            r"(?(worn)(?P<also>\s*,?\s*and\s+)?)",
            re.IGNORECASE,
        )
        for noun, after in patterns
    ]


def _taken_out(text: str, pattern: re.Pattern[str], removed: list[str]) -> str:
    def gone(found: re.Match[str]) -> str:
        removed.append(words.tidy(found["phrase"]))
        if worn := found["worn"]:
            if found["next"]:
                return worn
            # "is wearing glasses and smiling" is smiling.
            return f" {worn.split()[0]} " if found["also"] and len(worn.split()) > 1 else " "
        link = (found["link"] or "").strip(" ,").split()
        # "with brown hair and a red scarf" keeps its "with"; "and brown hair, a red scarf" its "and".
        if found["next"] and link:
            return f" {link[0]} "
        return ", " if found["next"] and not link else " "

    for _ in range(8):
        changed = pattern.sub(gone, text)
        if changed == text:
            return text
        text = _mended(changed)
    return text


def _sentence(sentence: str, context: Context, removed: list[str]) -> str:
    """Remove the parts of a sentence that have become empty, or that mention eyes which are not visible."""
    kept = []
    for part in re.split(r"(?<=,)\s+", sentence):
        bare = re.sub(r"[^\w\s-]", "", part.lower()).strip()
        headless = _VERBS.match(part) and not kept
        if _LEFT_ALONE.match(bare.replace(" ", "")) or headless:
            if len(bare.split()) > 1:
                removed.append(part.strip(" ,."))
            continue
        if context.eyes_hidden and re.search(r"\beyes?\b", part, re.IGNORECASE):
            removed.append(part.strip(" ,."))
            continue
        kept.append(part)
    text, end = " ".join(kept).strip(" ,"), sentence[-1:]
    return f"{text}{end}" if text and text[-1] not in ".!?" and end and end in ".!?" else text


def _mended(text: str) -> str:
    """Repair punctuation and linking words where something between them was removed."""
    for pattern, into in (
        (r"\s+([,.;])", r"\1"),
        (r"(?:,\s*){2,}", ", "),
        (r",\s*\.", "."),
        (r"\.{2,}|\.\s+(?=\.)", "."),
        (r"\b(?:on|of|around|across|over)\s*(?=[,.;]|$)", ""),
        (rf"\b(?:{_LINKS})\s*(?=[,.;]|$)", ""),
        (r"\b(with|and)\s+(?:and|with)\b", r"\1"),
        (r",\s*(?:and)?\s*,", ","),
        (r"\s{2,}", " "),
        (r"^[\s,.;]+", ""),
        (r"\s+([,.;])", r"\1"),
    ):
        text = re.sub(pattern, into, text, flags=re.IGNORECASE)
    return text.strip()


def _shortened(text: str, most: int) -> str:
    """Keep as many whole sentences, then whole parts of the last one, as fit into ``most`` tokens.

    Tokens are estimated on purpose: the caption must not depend on whether a tokenizer is installed.
    """
    for pattern in (r"(?<=[.!?])\s+", r"(?<=,)\s+", r"\s+"):
        parts = re.split(pattern, text)
        while len(parts) > 1 and tokens.estimate(" ".join(parts)) > most:
            parts.pop()
        text = " ".join(parts).rstrip(" .,;")
        if tokens.estimate(text) <= most:
            return text
    return text


def difference(before: str, after: str) -> list[tuple[str, str]]:
    """The diff from one caption to the other, as pairs of (``same``, ``less`` or ``more``; words)."""
    import difflib

    one, two = before.split(), after.split()
    out: list[tuple[str, str]] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if kind == "equal":
            out.append(("same", " ".join(one[a:b])))
            continue
        if b > a:
            out.append(("less", " ".join(one[a:b])))
        if d > c:
            out.append(("more", " ".join(two[c:d])))
    return out


def context_of(
    trigger: str,
    kind: str,
    line: str,
    more: Iterable[str] = (),
    keep: Sequence[str] = (),
    eyes_hidden: bool = False,
    most_tokens: int = MOST_TOKENS,
    noun: str = "",
) -> Context:
    """The context of a character's caption; ``line`` is its identity line."""
    kept = {word.lower() for word in keep}
    lines = tuple(word for word in identity.line_words(line, trigger) if word not in kept)
    return Context(trigger, kind, tuple(identity.words_of(kind, more, keep)), lines, eyes_hidden, most_tokens, noun)
