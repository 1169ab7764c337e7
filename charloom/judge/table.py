"""The long table of a character's scores: one row per value, as in ``scores.csv``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from charloom.core.errors import UserError
from charloom.core.layout import step_name

COLUMNS = ("character", "step", "prompt", "seed", "strength", "metric", "value", "backend", "weights")


def read_scores(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read the score documents in ``paths`` (see ``backend.score``), sorted by step.

    Raises:
        UserError: a file is missing or is not a score document.
    """
    documents = []
    for path in paths:
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            document["step"], document["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is not a score file ({error}); delete it and it will be rebuilt") from None
        documents.append(document)
    return sorted(documents, key=lambda d: d["step"])


def from_scores(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all score documents, sorted by step and otherwise in order."""
    rows = []
    for document in sorted(documents, key=lambda d: d["step"]):
        shared = {key: document[key] for key in ("character", "step", "backend", "weights")}
        rows += [{column: {**shared, **row}[column] for column in COLUMNS} for row in document["rows"]]
    return rows


def of_one_judge(documents: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The documents of the judge that scored most of them (the latest if tied), and a line for each of the others.

    Values of two judges cannot be compared; a checkpoint that only another judge scored counts as not scored.
    """
    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for document in documents:
        by.setdefault((document["backend"], document["weights"]), []).append(document)
    if len(by) < 2:
        return list(documents), []
    most = max(by.values(), key=lambda found: (len(found), found[-1]["step"]))
    return most, [
        f"The scores of step {document['step']} are another judge's ({_who(document)}, not {_who(most[0])}) and were "
        f"left out; delete scores/{step_name(document['step'])}.json to have it scored again."
        for found in by.values()
        if found is not most
        for document in found
    ]


def _who(document: dict[str, Any]) -> str:
    return f"{document['backend']} {document['weights'][:12]}".strip()


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the table as CSV with a header line; lines end in ``\\n`` on every system."""
    import pandas as pd

    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(path, index=False, na_rep="nan", lineterminator="\n")
