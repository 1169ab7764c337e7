"""The rule that generated pictures must show the right person.

Their similarity to the reference is measured when they are made (:mod:`charloom.workflow.likeness`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from charloom.dataset.lint.registry import Data, Hit, rule


def hit(name: str, record: Mapping[str, Any]) -> Hit | None:
    """The finding about a generated picture, if any, from the record of how it was made."""
    seen = record.get("identity") or {}
    if not seen.get("far"):
        return None
    what = (
        f"shows somebody else than the reference, by {seen['instrument']} ({seen['similarity']:.2f} where "
        f"{seen['limit']:.2f} is the least)"
    )
    remedy = (
        f"look at it, and ask again with images.retry, or with images.attempts.{name}: {record.get('attempt', 0) + 1}"
    )
    evidence = {key: seen[key] for key in ("instrument", "similarity", "limit")}
    return Hit(name, what, (name,), evidence, remedy=remedy)


@rule("likeness", "warning", "A generated picture shows somebody else than the reference.")
def likeness(data: Data) -> Iterator[Hit]:
    """As measured by an identity instrument of the judge, if one is installed."""
    for name, record in data.settings.get("_pictures", {}).items():
        if found := hit(name, record):
            yield found
