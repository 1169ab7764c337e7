"""The strength strip: the chosen checkpoint at several strengths, and the recommended one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charloom.core.layout import Results
from charloom.report import pictures
from charloom.report.gather import Material

BUDGET = 1_500_000
"""Characters of the embedded strip."""


def strip(m: Material) -> dict[str, Any] | None:
    """What the page shows of ``strengths.json``: ``recommended``, ``step``, ``why``, the ``rows`` (strength and
    values), and the strip as a ``picture``; None if no strengths were tried."""
    if not m.strengths:
        return None
    found = m.strengths
    rows = [row for row in found.get("strengths", ()) if isinstance(row, Mapping)]
    columns = [
        key for key in ("identity", "obedience", "bleed", "detail", "overall") if any(key in row for row in rows)
    ]
    image = _picture(m.folder)
    return {
        "recommended": found.get("recommended"),
        "step": found.get("step"),
        "why": _lines(found.get("why")),
        "columns": columns,
        "rows": [[row.get("strength"), *(row.get(key) for key in columns)] for row in rows],
        "source": pictures.embed([image], BUDGET, (1600, 1280, 1024, 768)).get(image, "") if image else "",
        "file": image.relative_to(m.folder).as_posix() if image else "",
    }


def _picture(folder: Path) -> Path | None:
    made = Results(folder)
    return next((path for path in (made.strength_strip, folder / "strengths" / "strip.png") if path.is_file()), None)


def _lines(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(line) for line in value or ()]
