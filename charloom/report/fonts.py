"""Chooses a font for text on pictures: Pillow's own, which has little beyond ASCII, or one that has all the letters."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SMALLEST = 9
ELSEWHERE = (
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("YuGothR.ttc", "msyh.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
    *("Arial Unicode.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "Nirmala.ttf"),
)
"""Common font files for other scripts; Pillow looks for them where the system keeps its fonts."""


def of(texts: Iterable[str]) -> Callable[[float], Font]:
    """The first font that has every letter of ``texts``, or the one that has most of them, as a function of pixels."""
    return _first(frozenset(x for text in texts for x in text if not x.isascii() and not x.isspace()))


@lru_cache(maxsize=64)
def _first(letters: frozenset[str]) -> Callable[[float], Font]:
    best, fewest = _pillows, len(letters) + 1
    for made in _known():
        lacking = _lacking(made(20), letters)
        if lacking < fewest:
            best, fewest = made, lacking
        if not lacking:
            break
    return best


def _known() -> Iterator[Callable[[float], Font]]:
    yield _pillows
    found = importlib.util.find_spec("matplotlib")  # not imported: that takes half a second
    if found and found.origin:
        yield from _file(str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"))
    for name in ELSEWHERE:
        yield from _file(name)


def _pillows(size: float) -> Font:
    return ImageFont.load_default(max(SMALLEST, round(size)))


def _file(name: str) -> Iterator[Callable[[float], Font]]:
    """The font in a file, if there is one."""
    try:
        ImageFont.truetype(name, SMALLEST)
    except OSError:
        return
    yield lambda size: ImageFont.truetype(name, max(SMALLEST, round(size)))


def _lacking(font: Font, letters: Iterable[str]) -> int:
    """Number of letters that the font would draw as its box for missing glyphs."""
    box = bytes(font.getmask("\uffff"))
    return sum(bytes(font.getmask(letter)) == box for letter in letters)
