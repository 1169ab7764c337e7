"""Embeds pictures as data URIs, small enough to keep a page within its budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image

from charloom.report.grid import open_rgb

EDGES = (512, 384, 320, 256, 192, 160, 128, 96)
"""Longest edges that are tried, largest first."""
QUALITY = 82

_T, _R = TypeVar("_T"), TypeVar("_R")
_threads = 1


def set_threads(threads: int) -> None:
    """Let :func:`each` work on this many pictures at a time; Pillow reads, scales and encodes without Python's lock."""
    global _threads
    _threads = max(1, threads)


def each(do: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    """Apply ``do`` to every item; returns the results in order."""
    if _threads == 1 or len(items) < 2:
        return [do(item) for item in items]
    with ThreadPoolExecutor(_threads) as pool:
        return list(pool.map(do, items))


def encode(picture: Path, edge: int) -> bytes:
    """Encode the picture as WebP with no edge longer than ``edge`` pixels (never enlarged)."""
    image = open_rgb(picture)
    factor = max(image.size) // (edge * 2)
    if factor > 1:
        image = image.reduce(factor)  # a box filter first makes scaling large pictures many times faster
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def uri(data: bytes) -> str:
    """Turn the bytes of a WebP file into a data URI."""
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


def embed(pictures: Iterable[Path], budget: int, edges: Iterable[int] = EDGES) -> dict[Path, str]:
    """Data URIs of all pictures, as large as a budget of ``budget`` characters for all of them allows.

    The edge is chosen from a sample of the pictures; if all together exceed the budget, the next smaller is used.
    """
    paths = list(dict.fromkeys(pictures))
    if not paths:
        return {}
    some = paths[:: max(1, len(paths) // 6)]
    edges = sorted(edges, reverse=True)
    out: dict[Path, str] = {}
    for edge in edges:
        last = edge == edges[-1]
        guess = sum(each(lambda path, edge=edge: len(encode(path, edge)), some)) / len(some) * len(paths) * 4 / 3
        if guess > budget and not last:
            continue
        out = dict(zip(paths, each(lambda path, edge=edge: uri(encode(path, edge)), paths), strict=True))
        if sum(map(len, out.values())) <= budget or last:
            break
    return out
