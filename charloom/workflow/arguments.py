"""Values on the command lines of the jobs: never longer for more files, and safe whatever the user's files are called.

Linux passes no command of more than 128 KiB, Windows none of 32. A long slice of the settings therefore goes through a
file that is named by its content (``@work/settings/<digest>.json``), so that the argument still changes with it. Paths
of the user's are written as JSON, which is ASCII whatever they hold and begins with no dash. Standard library only.
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
"""Characters of a value that is written out."""


def shortened(text: str, write: bool) -> str:
    """``text`` (JSON) itself, or a reference to the file that holds it, which is written if ``write`` says so."""
    if len(text) <= LONGEST:
        return text
    path = WORK.settings / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if write and not path.is_file():
        files.write_text(path, text)
    return f"@{path.as_posix()}"


def value(text: str) -> Any:
    """The value that an argument stands for: JSON, or ``@`` and the name of a file of JSON.

    Raises:
        UserError: there is no such file any more.
    """
    if not text.startswith("@"):
        return json.loads(text)
    try:
        return json.loads(Path(text[1:]).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{text[1:]}: is gone; run snakemake again, which writes it anew") from None


def written(path: str | Path | None) -> str:
    """A path as an argument; ``null`` where there is none, because an empty word would be lost on a command line."""
    return json.dumps(str(path) if path else None)


def path(text: str) -> Path | None:
    """The path that an argument stands for: as :func:`written` gives it, or plain, as people type it."""
    if text == "null":
        return None
    return Path(json.loads(text) if text.startswith('"') else text)
