"""Formats numbers and settings for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Every leaf as (dotted key, value in words)."""
    out: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out += leaves(value, f"{prefix}{key}.")
        else:
            words = {True: "on", False: "off", None: "none"}.get(value) if isinstance(value, bool | None) else None
            listed = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            out.append((f"{prefix}{key}", words or listed))
    return out


def size(number: float) -> str:
    """Format a number of bytes in decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}" if number < 100 * factor else f"{number / factor:.0f} {unit}"
    return f"{number:.0f} bytes"


def duration(seconds: float) -> str:
    """Format a time in seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
