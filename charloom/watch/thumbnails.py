"""Small copies of the pictures for pages, made once and kept in the store.

Pages never get a file of the user's as it is: what is handed out was decoded and encoded anew, so nothing else that a
file may hold reaches a browser.
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
"""Counts up when a thumbnail is made otherwise, so that no former one is shown."""
EDGES = {"small": 384, "large": 1400}
"""Longest edge in pixels by the name of the size."""
NONE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"><path d="M30 30l36 36M66 30l-36 36" '
    b'stroke="#888" stroke-width="4" stroke-linecap="round"/></svg>'
)
"""In place of a picture that cannot be read; the check says why."""


def thumbnail(picture: Path, size: str, store: Store) -> tuple[bytes, str]:
    """The picture's copy of a size of :data:`EDGES`, and its media type."""
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
    # On a full disk it is made anew each time.
    with contextlib.suppress(OSError, UserError), store.put(KIND, key, ".webp", sync=False) as target:
        target.write_bytes(data)
    return data, "image/webp"
