"""Values on the command lines of jobs: limited in length, and safe for any file name.

Linux limits an argument to 128 KiB, Windows a whole command to 32 KiB. A long slice of the settings therefore goes
into a file named by its content (``@work/settings/<digest>.json``), so that the argument still changes with the
settings. User paths are written as JSON, which is ASCII and never starts with a dash. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import UserError
from charloom.core.layout import WORK

LONGEST = 8000
"""Longest value (characters) that is passed directly."""


def shortened(text: str, write: bool) -> str:
    """``text`` (JSON), or a reference to a file with it, which is written if ``write`` is true."""
    if len(text) <= LONGEST:
        return text
    path = WORK.settings / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if write and not path.is_file():
        files.write_text(path, text)
    return f"@{path.as_posix()}"


def value(text: str) -> Any:
    """The value of an argument: JSON, or ``@`` and the name of a JSON file.

    Raises:
        UserError: the file is gone.
    """
    if not text.startswith("@"):
        return json.loads(text)
    try:
        return json.loads(Path(text[1:]).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{text[1:]}: is gone; run snakemake again, which rewrites it") from None


def written(path: str | Path | None) -> str:
    """A path as an argument; ``null`` for none, because a command line drops an empty word."""
    return json.dumps(str(path) if path else None)


def path(text: str) -> Path | None:
    """The path of an argument, as :func:`written` gives it or as typed by hand."""
    if text == "null":
        return None
    return Path(json.loads(text) if text.startswith('"') else text)


def code_of(scripts: Path) -> str:
    """The folder with the package of these ``scripts``: their clone, or where this package is installed."""
    return str(scripts.parent if (scripts.parent / "charloom").is_dir() else Path(__file__).parents[2])
