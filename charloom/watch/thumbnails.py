"""Small copies of pictures for pages, made once and kept in the store.

Pages never get the user's file itself: every copy is decoded and encoded anew, so nothing else that a file may contain
reaches a browser.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from charloom.core.canonical import digest
from charloom.core.contents import signature
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.report import pictures

KIND = "thumbnail"
RECIPE = 1
"""Raised when thumbnails are made differently, so that no old one is shown."""
EDGES = {"small": 384, "large": 1400}
"""Longest edge in pixels, by name of the size."""
NONE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><path d="M30 30l36 36M66 30l-36 36" '
    b'stroke="#888" stroke-width="4" stroke-linecap="round"/></svg>'
)
"""Placeholder for an unreadable picture; the check says why it is unreadable."""


def thumbnail(picture: Path, size: str, store: Store) -> tuple[bytes, str]:
    """A copy of the picture in one of the sizes :data:`EDGES`, and its media type."""
    try:
        key = digest(
            {"path": str(picture.resolve()), "file": signature(picture), "edge": EDGES[size], "recipe": RECIPE}
        )
        entry = store.path(KIND, key, ".webp")
        if entry.is_file():
            return entry.read_bytes(), "image/webp"
        data = pictures.encode(picture, EDGES[size])
    except (OSError, ValueError, UserError):
        return NONE, "image/svg+xml"
    # If the disk is full, it is made anew each time.
    with contextlib.suppress(OSError, UserError), store.put(KIND, key, ".webp", sync=False) as target:
        target.write_bytes(data)
    return data, "image/webp"
