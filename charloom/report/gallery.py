"""The page of a gallery: every scene large, with its prompt to copy and how it was drawn. One self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from charloom.core.layout import Results
from charloom.report import pictures
from charloom.report.templating import render

BUDGET = 4_000_000
"""Characters of all embedded pictures together; the files beside the page have full size."""
WIDE = 640
"""Pictures wider than this (pixels) are shown at most three in a row."""
EDGES = (1280, 1024, 768, 512, 384, 256)


def page(results: Path, settings: Mapping[str, Any]) -> str:
    """The page as text.

    Args:
        results: the folder ``results/<character>``, with the pictures.
        settings: ``character`` (its id), ``name``, ``trigger``, ``base``, ``miniature`` and ``scenes`` (``name``,
            ``text``, ``width``, ``height``, ``steps``, ``guidance``, ``seed``, ``strength``; ``styles`` with ``style``
            and ``strength``).

    Raises:
        UserError: a picture is missing or broken.
    """
    made = Results(results)
    paths = {scene["name"]: made.scene(scene["name"]) for scene in settings["scenes"]}
    embedded = pictures.embed(paths.values(), BUDGET, EDGES)
    scenes = [
        {
            **scene,
            "source": embedded[paths[scene["name"]]],
            "file": quote(paths[scene["name"]].name),
            "how": _how(scene),
        }
        for scene in settings["scenes"]
    ]
    widest = max((scene["width"] for scene in scenes), default=0)
    return render("gallery.html.j2", **settings | {"scenes": scenes, "column": "30rem" if widest > WIDE else "18rem"})


def _how(scene: Mapping[str, Any]) -> str:
    """How a scene was drawn, in one line."""
    parts = [f"{scene['width']} × {scene['height']}", f"{scene['steps']} steps", f"seed {scene['seed']}"]
    parts += [f"guidance {scene['guidance']:g}"] if scene["guidance"] > 1 else []
    parts += [f"strength {scene['strength']:g}"]
    parts += [f"{style['style']} at {style['strength']:g}" for style in scene["styles"]]
    return ", ".join(parts)
