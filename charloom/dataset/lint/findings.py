"""The data types of the check: items to be checked, and findings about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LEVELS = ("error", "warning", "note")
"""Errors stop the workflow, warnings are listed and left to the user, notes inform."""


@dataclass(frozen=True)
class Finding:
    """One finding of a rule. ``where`` is a picture, a caption, a key or the plan, as the user knows it."""

    level: str
    where: str
    what: str
    rule: str = ""
    remedy: str = ""
    pictures: tuple[str, ...] = ()
    """Names of the pictures that show it."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What was measured: plain values."""

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.message}"

    @property
    def message(self) -> str:
        """What is wrong, and what to do about it."""
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


@dataclass(frozen=True)
class Item:
    """An image with its caption, as the user knows them."""

    name: str
    """``<shot>`` or ``<set>/<image>``."""
    caption: str | None
    """None if it could not be read, which is reported separately."""
    facts: Mapping[str, Any] | None
    """:func:`charloom.dataset.lint.measure.facts` of the image, with ``faces`` and ``text`` if a detector is installed;
    None if it could not be read, which is reported separately."""
    text: str
    """What findings call the caption."""
    picture: str
    """What findings call the image."""

    @property
    def part(self) -> str:
        """Name of the extra data set that the item belongs to; empty for shots of the plan."""
        return self.name.rpartition("/")[0]


def in_order(found: Sequence[Finding]) -> list[Finding]:
    """Sort findings by severity, most severe first; otherwise the order is kept."""
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def as_record(findings: Sequence[Finding], allowed: Sequence[Finding] = ()) -> dict[str, Any]:
    """The findings as plain values, with the number of errors and warnings; ``allowed`` are those that the user allows.

    Each finding has ``level``, ``where``, ``what``, ``rule``, ``remedy``, ``pictures`` and ``evidence``.
    """
    levels = Counter(finding.level for finding in findings)
    counts = {"errors": levels["error"], "warnings": levels["warning"], "notes": levels["note"]}
    plain = [[_plain(finding) for finding in group] for group in (findings, allowed)]
    return {**counts, "findings": plain[0], **({"allowed": plain[1]} if allowed else {})}


def _plain(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "pictures": list(finding.pictures), "evidence": dict(finding.evidence)}
