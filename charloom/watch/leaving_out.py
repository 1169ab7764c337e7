"""Writes ``images.exclude:`` into a character's file, to leave pictures out or bring them back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from charloom.config.excluding import KEY
from charloom.core.errors import UserError
from charloom.watch import editing


def leave_out(path: Path, names: Sequence[str], out: bool) -> str:
    """Leave pictures out (or bring them back); returns the digest of the new file.

    Other changes to the file are kept, so it does not matter which version the user has seen.

    Raises:
        UserError: the file is missing, is being changed, or cannot be edited safely. It is then left untouched.
    """
    return editing.rewrite(path, lambda data, name: edited(data, names, out, name))


def edited(data: bytes, names: Sequence[str], out: bool, file: str) -> bytes:
    """The file's bytes with pictures left out, or brought back.

    Raises:
        UserError: the file is not a character file, or cannot be edited without changing anything else.
    """
    wanted: list[str] = []

    def change(document: Any) -> None:
        images = document.get("images")
        if not isinstance(images, Mapping):
            raise UserError(f"{file}: has no images; correct it first")
        before = [str(name) for name in images.get(KEY) or ()]
        wanted[:] = [name for name in before if out or name not in names]
        wanted.extend(name for name in dict.fromkeys(names) if out and name not in before)
        if wanted:
            images[KEY] = list(wanted)  # type: ignore[index]
        elif KEY in images:
            del images[KEY]  # type: ignore[attr-defined]

    by_hand = f"write {KEY} under its images"
    return editing.edited(data, file, by_hand, change, lambda text, before: _ways(text, before, wanted))


def _ways(text: str, before: Any, wanted: Sequence[str]) -> Iterator[str]:
    """Yield candidates for the new text; each leaves the rest unchanged."""
    images = before["images"]
    # Line ends of Unix or Windows only: YAML does not know the other ones at which Python would split.
    lines = re.split(r"(?<=\n)", text)
    written = f"{KEY}: {_flow(wanted)}"
    if KEY not in images:
        for key in sorted(images, key=lambda key: key != "source"):
            yield from _behind(lines, images, key, written, editing.newline_of(text))
        return
    row, column = images.lc.key(KEY)
    rest = "".join(lines[row:])
    inline = re.compile(rf"(.{{{column}}}{KEY}[ \t]*:[ \t]*)\[[^\]#]*\]([^\n]*\n?)", re.DOTALL)
    if found := inline.match(rest):
        if not wanted:
            head, tail = found[1][:column], found[2]
            if not head.strip() and not tail.strip():
                yield "".join(lines[:row]) + rest[found.end() :]
            yield "".join(lines[:row]) + re.sub(r",\s*$", "", head) + tail + rest[found.end() :]
        yield "".join(lines[:row]) + found[1] + _flow(wanted) + found[2] + rest[found.end() :]
        return
    if isinstance(images[KEY], list):
        yield from _block(lines, row, images[KEY], wanted)


def _behind(lines: list[str], images: Any, key: Any, written: str, end_of_line: str) -> Iterator[str]:
    """The new key on its own line after ``key`` and its value; within {...}, right after them."""
    row, column = images.lc.value(key)
    if row >= len(lines):
        return
    line, value = lines[row], str(images[key])
    indent = " " * images.lc.key(key)[1]
    above = line if line.endswith("\n") else line + end_of_line
    yield "".join([*lines[:row], above, f"{indent}{written}{end_of_line}", *lines[row + 1 :]])
    for spelt in (value, f'"{value}"', f"'{value}'"):
        if line[column:].startswith(spelt):
            end = column + len(spelt)
            yield "".join([*lines[:row], f"{line[:end]}, {written}{line[end:]}", *lines[row + 1 :]])


def _block(lines: list[str], row: int, items: Any, wanted: Sequence[str]) -> Iterator[str]:
    """A list with one item per line."""
    rows = [items.lc.item(number)[0] for number in range(len(items))]
    kept = {row for row, item in zip(rows, items, strict=True) if str(item) in wanted}
    out = [line for number, line in enumerate(lines) if number not in rows or number in kept]
    if not wanted:
        yield "".join(line for number, line in enumerate(lines) if number not in rows and number != row)
        return
    last = lines[rows[-1]]
    dash = last[: len(last) - len(last.lstrip())] + "- "
    end = "\r\n" if last.endswith("\r\n") else "\n"
    more = [f"{dash}{name}{end}" for name in wanted if name not in [str(item) for item in items]]
    if more:
        if not last.endswith("\n"):
            lines = [*lines[: rows[-1]], last + end, *lines[rows[-1] + 1 :]]
        yield "".join([*lines[: rows[-1] + 1], *more, *lines[rows[-1] + 1 :]])
    yield "".join(out)


def _flow(names: Sequence[str]) -> str:
    """A list in brackets. Names are quoted where needed: digits alone would be a number, and ``null`` nothing."""
    plain = [name if re.match(r"[a-z]", name) and name not in _WORDS else f'"{name}"' for name in names]
    return f"[{', '.join(plain)}]"


_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
