"""The long table of all scores of a character: one row per value, as written to ``scores.csv``.

Rows are plain dicts, so that light scripts read and write them without pandas; :func:`frame` gives the
data frame for analysis. Knows nothing of what the metrics mean.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("character", "step", "prompt", "seed", "strength", "metric", "value", "backend", "weights")
_KINDS = {"step": int, "seed": int, "strength": float, "value": float}


def from_scores(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all score documents (see ``backend.score``), by step and otherwise in their order."""
    rows = []
    for document in sorted(documents, key=lambda d: d["step"]):
        shared = {key: document[key] for key in ("character", "step", "backend", "weights")}
        rows += [{column: {**shared, **row}[column] for column in COLUMNS} for row in document["rows"]]
    return rows


def read_scores(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The score documents in ``paths``, by step.

    Raises:
        UserError: a file is missing or is no score document.
    """
    documents = []
    for path in paths:
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            document["step"], document["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is no score file ({error}); delete it so that it is made again") from None
        documents.append(document)
    return sorted(documents, key=lambda d: d["step"])


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The table as CSV with a header line; ``\\n`` ends lines on every system."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that :func:`write_csv` wrote, with their types."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{key: _KINDS.get(key, str)(value) for key, value in row.items()} for row in csv.DictReader(file)]


def frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The table as a data frame with typed columns, for analysis and charts."""
    import pandas as pd

    kinds = {column: {int: "int64", float: "float64"}.get(_KINDS.get(column), "string") for column in COLUMNS}
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(kinds)


def write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The table as Parquet; needs ``pyarrow``, which charloom does not require.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        frame(rows).to_parquet(path, index=False)
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow; pip install pyarrow, or write CSV") from None
