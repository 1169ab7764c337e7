"""What somebody should know before a character is made."""

from __future__ import annotations

from typing import Any


def notices(character: Any, base: Any, has_gpu: bool | None = None) -> list[str]:
    """Lines about what the result will and will not be good for."""
    return []
