"""Links in a data set that lead to what is none of its business."""

from __future__ import annotations

import json
from collections.abc import Iterator


def links() -> Iterator[tuple[str, bytes]]:
    """Links out of a project, wherever files of a data set are."""
    masks = {"images": {"masks": "masks"}}
    for about in (
        {"link": "pics/a.txt", "to": "key.txt"},
        {"link": "pics/a.TXT", "to": "key.txt"},
        {"link": "set/a.txt", "to": "key.txt"},
        {"link": "config/captions/mara/a.txt", "to": "key.txt"},
        {"link": "pics/b.png", "to": "picture.png"},
        {"link": "set/b.png", "to": "picture.png"},
        {"link": "pics/b.png", "to": "key.txt"},
        {"link": "pics/in", "to": "deep"},
        {"link": "pics/in.png", "to": "deep"},
        {"link": "set/in", "to": "deep"},
        {"link": "masks/a.png", "to": "key.txt", "named": False, **masks},
        {"link": "masks/in", "to": "deep", "named": False, **masks},
        {"link": "pics/a.txt", "to": "nothing"},
        {"link": "pics/b.png", "to": "../project/pics/b.png"},
        {"link": "pics/in", "to": "../project/pics"},
        {"link": "pics/b.png", "to": "../../../../../../dev/zero"},
        {"link": "pics/a.txt", "to": "../../../../../../dev/stdin"},
        {"link": "pics/a.txt", "to": "../../../../../../etc/passwd"},
        {"link": "pics/in", "to": "../../../../../../"},
    ):
        yield f"{about['link']} to {about['to']}", json.dumps(about).encode()
