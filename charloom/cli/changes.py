"""Says in words what changed in the settings of a rule, from the reason that Snakemake gives for running it.

Snakemake prints the recorded and the current values of ``params``. For a rule of this workflow these are a slice of the
settings (JSON, or ``@`` and the name of a JSON file) and a token for the contents of a user's file.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from charloom.core.errors import UserError
from charloom.workflow import arguments

_LITERAL = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_LONGEST = 40
"""Longest value (characters) that is shown."""

FILE_CHANGED, FILE_NEW, FILE_GONE = "its file changed", "its file is new", "its file is gone"
TEXT_CHANGED = "its text changed"
"""A prompt that is composed, or follows the class or the trigger."""


class _Text(str):
    """A setting that is a text; a token for a file's contents is none."""


def causes(reason: str) -> list[str]:
    """Each changed knob as ``network.rank 16 → 32``, :data:`FILE_CHANGED` and the like; empty if unknown."""
    start = reason.find("before: ") + len("before: ")
    before, end = _values(reason, start)
    # The recorded values may contain any text, so look for the current ones only after them.
    now, _ = _values(reason, reason.find("now: ", end) + len("now: "))
    sides = [before, now]
    settings = [[value for value in side if isinstance(value, dict)] for side in sides]
    texts = [[value for value in side if isinstance(value, _Text)] for side in sides]
    files = [[value for value in side if not isinstance(value, dict | _Text)] for side in sides]
    found = [TEXT_CHANGED] if any(texts) else []
    if any(files):
        found.append(_of_files(*files))
    if all(len(one) == 1 for one in settings):
        before, now = (dict(_leaves(one[0])) for one in settings)
        keys = [key for key in {**before, **now} if before.get(key, "–") != now.get(key, "–")]
        if {FILE_NEW, FILE_GONE} & set(found):
            keys = [key for key in keys if key in before and key in now]  # what holds without a file, or with one
        found += [_described(key, before.get(key, "–"), now.get(key, "–")) for key in sorted(keys)]
    elif any(settings):
        return []
    return [words for words in dict.fromkeys(found) if words]


def _values(reason: str, position: int) -> tuple[list[Any], int]:
    """The comma-separated values from ``position`` on, and where they end."""
    found: list[Any] = []
    while match := _LITERAL.match(reason, position):
        found.append(_value(ast.literal_eval(match[0])))
        position = match.end()
        if reason[position : position + 1] != ",":
            break
        position += 1
    return found, position


def _value(text: str) -> Any:
    try:
        value = arguments.value(text)
        return _Text(value) if isinstance(value, str) else value
    except (ValueError, UserError):
        return text


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a slice by its dotted key, as written in the user's files."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            is_recipe = not key and name in ("recipe", "recipe_settings") and isinstance(part, dict)
            yield from _leaves(part, "" if is_recipe else f"{key}.{name}" if key else name)
    else:
        yield key, value


def _described(key: str, before: Any, now: Any) -> str:
    if key in ("recipe", "number"):
        return "charloom makes it differently now"
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        changed = [(a, b) for a, b in zip(before, now, strict=True) if a != b]
        if len(changed) == 1 and all(isinstance(one, dict) for one in changed[0]):
            (old, new), place = changed[0], [a == b for a, b in zip(before, now, strict=True)].index(False) + 1
            inside = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            return ", ".join(
                _described(f"{key}[{place}].{name}", old.get(name, "–"), new.get(name, "–")) for name in inside
            )
    shown = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in (before, now)]
    return f"{key} {shown[0]} → {shown[1]}" if max(map(len, shown)) <= _LONGEST else f"{key} changed"


def _of_files(before: list[Any], now: list[Any]) -> str:
    if before in ([], [""]) and any(now):
        return FILE_NEW
    return FILE_CHANGED if any(now) else FILE_GONE
