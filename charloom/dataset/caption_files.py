"""The user's caption files, for ``charloom captions`` and the pages: where each belongs, and how to write it safely.

A caption is the file beside the picture of an extra set, or ``config/captions/<character>/<shot>.txt``. No edit is
lost: a newer text is not overwritten, and former texts are lines of ``.history.jsonl`` in the latter folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from charloom.config.character import Character
from charloom.core import files, words
from charloom.core.errors import UserError
from charloom.dataset import captions

HISTORY = ".history.jsonl"


class Changed(UserError):
    """Somebody else has written the caption in the meantime; ``text`` is what it says now."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(f"{path}: has changed since you read it; look at it again, then save")
        self.text = text


def place(character: Character, name: str, root: Path = Path(".")) -> Path:
    """The file that the caption of a picture is, or would be, read from."""
    part, image = character.part_of(name)
    if part:
        return part.caption_file(image) or part.files[image].with_suffix(".txt")
    own = folder(character, root) / f"{image}.txt"
    found = character.caption_file(character.shot(image), root)
    return found if found is not None and found.parent == own.parent else own


def folder(character: Character, root: Path = Path(".")) -> Path:
    """The folder of a character's own captions and their history."""
    return root / "config" / "captions" / character.id


def version(path: Path) -> str:
    """A tag that changes with the content of a caption file; empty if there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def save(
    character: Character, name: str, text: str, *, by: str, root: Path = Path("."), expected: str | None = None
) -> Path:
    """Write the caption of a picture; returns its file.

    ``by`` is recorded in the history (``captioner``, ``you``). With ``expected``, the :func:`version` that was read, a
    newer text is not overwritten.

    Raises:
        Changed: the file has changed since then.
        UserError: the text has no words or is not text, or the file cannot be written.
    """
    text, path = words.tidy(text), place(character, name, root)
    if not text:
        raise UserError(f"{path}: a caption without words; delete the file to have one composed")
    if half := re.search("[\ud800-\udfff]", text):
        raise UserError(f"{path}: the caption contains half a character (U+{ord(half[0]):04X}); delete it, then save")
    if expected is not None and version(path) != expected:
        raise Changed(path, captions.read(path) if path.is_file() else "")
    before = captions.read(path) if path.is_file() else None
    entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "picture": name, "by": by, "before": before, "after": text}
    log = folder(character, root) / HISTORY
    log.parent.mkdir(parents=True, exist_ok=True)
    # The history first: one line too many is better than a lost caption.
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    files.write_text(path, text + "\n")
    return path


def history(character: Character, name: str | None = None, root: Path = Path(".")) -> list[dict[str, Any]]:
    """The changes of a picture's caption, or of all captions, oldest first. Damaged lines are left out."""
    path, found = folder(character, root) / HISTORY, []
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and (name is None or entry.get("picture") == name):
            found.append(entry)
    return found
