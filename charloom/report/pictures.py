"""Pictures as data URIs, small enough to keep the whole page within its budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from charloom.report.grid import open_rgb

EDGES = (512, 384, 320, 256, 192, 160, 128, 96)
"""Longest edges that are tried, largest first."""
QUALITY = 82


def encode(picture: Path, edge: int) -> bytes:
    """The picture as WebP with no edge longer than ``edge`` pixels (never enlarged)."""
    image = open_rgb(picture)
    factor = max(image.size) // (edge * 2)
    if factor > 1:
        image = image.reduce(factor)  # a box filter first: scaling large pictures gets many times faster
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def uri(data: bytes) -> str:
    """Bytes of a WebP file as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


def embed(pictures: Iterable[Path], budget: int, edges: Iterable[int] = EDGES) -> dict[Path, str]:
    """Data URIs of all pictures, as large as ``budget`` characters together allow.

    The edge is chosen by a sample of the pictures; if all of them then miss the budget, the next smaller is taken.
    """
    paths = list(dict.fromkeys(pictures))
    if not paths:
        return {}
    some = paths[:: max(1, len(paths) // 6)]
    edges = sorted(edges, reverse=True)
    out: dict[Path, str] = {}
    for edge in edges:
        last = edge == edges[-1]
        guess = sum(len(encode(path, edge)) for path in some) / len(some) * len(paths) * 4 / 3
        if guess > budget and not last:
            continue
        out = {path: uri(encode(path, edge)) for path in paths}
        if sum(map(len, out.values())) <= budget or last:
            break
    return out
