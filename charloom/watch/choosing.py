"""Writes ``checkpoint:`` into a character's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charloom.watch import editing

KEY = "checkpoint"


def choose(path: Path, checkpoint: int | str, seen: str) -> str:
    """Write ``checkpoint`` (a step, or ``auto``) into the character file; returns the digest of the new file.

    ``seen`` is the :func:`digest` of the file on which the user based the decision.

    Raises:
        UserError: the file is missing, has changed in the meantime, or cannot be edited safely. It is then left
            untouched.
    """
    return editing.rewrite(path, lambda data, name: edited(data, checkpoint, name), seen)


def edited(data: bytes, checkpoint: int | str, name: str) -> bytes:
    """The file's bytes with another checkpoint.

    Raises:
        UserError: the file is not a YAML mapping, or cannot be edited without changing anything else.
    """

    def change(document: Any) -> None:
        document[KEY] = checkpoint

    by_hand = f"write {KEY}: {checkpoint} into it"
    return editing.edited(data, name, by_hand, change, lambda text, before: _ways(text, before, checkpoint))


def _ways(text: str, before: Any, checkpoint: int | str) -> list[str]:
    """Candidates for the new text: the value replaced in place, or a line added at the end."""
    if KEY not in before:
        newline = editing.newline_of(text)
        rest = text if text.endswith(("\n", "\r")) or not text else text + newline
        head, brace, tail = text.rpartition("}")  # of a mapping in braces
        return [f"{rest}{KEY}: {checkpoint}{newline}", f"{head}, {KEY}: {checkpoint}{brace}{tail}"]
    if before[KEY] is None:
        row, column = before.lc.key(KEY)
        lines = text.splitlines(keepends=True)
        head, colon, tail = lines[row][column:].partition(":")
        return ["".join([*lines[:row], f"{lines[row][:column]}{head}{colon} {checkpoint}{tail}", *lines[row + 1 :]])]
    row, column = before.lc.value(KEY)
    lines = text.splitlines(keepends=True)
    line, old = lines[row] if row < len(lines) else "", before[KEY]
    ways = []
    for spelt in {str(old), f'"{old}"', f"'{old}'"}:
        if line[column:].startswith(spelt):
            changed = line[:column] + str(checkpoint) + line[column + len(spelt) :]
            ways.append("".join([*lines[:row], changed, *lines[row + 1 :]]))
    return ways
