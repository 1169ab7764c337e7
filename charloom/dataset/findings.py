"""What a check of a data set looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEVELS = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One finding: ``level`` is error, warning or note; ``where`` an image, a caption or the plan."""

    level: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}"


@dataclass(frozen=True)
class Item:
    """An image with its caption, as the user knows them."""

    name: str
    """``<shot>`` or ``<set>/<image>``."""
    caption: str | None
    """None if it could not be read, which is a finding of its own."""
    facts: Mapping[str, Any] | None
    """:func:`facts` of the image; None if it could not be read, which is a finding of its own."""
    text: str
    """What findings call the caption."""
    picture: str
    """What findings call the image."""

    @property
    def part(self) -> str:
        """The extra data set that it belongs to; empty for the shots of the plan."""
        return self.name.rpartition("/")[0]
