"""Writing ``checkpoint:`` into a character's file. Every other byte of the file stays: comments, order, line ends."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import UserError

KEY = "checkpoint"


def digest(data: bytes) -> str:
    """What tells two versions of a file apart."""
    return sha256(data).hexdigest()


def choose(path: Path, checkpoint: int | str, seen: str) -> str:
    """Write ``checkpoint`` (a step, or ``auto``) into the character file; returns the digest of what was written.

    ``seen`` is the :func:`digest` of the file that the user decided on.

    Raises:
        UserError: the file is missing, has changed meanwhile, or cannot be edited safely. It is untouched then.
    """
    path = path.resolve()  # a link stays a link
    data = _read(path)
    if digest(data) != seen:
        raise UserError(f"{path.name} has changed meanwhile and was not touched; look again, then choose")
    new = edited(data, checkpoint, path.name)
    if new == data:
        return seen
    if _read(path) != data:
        raise UserError(f"{path.name} has changed meanwhile and was not touched; look again, then choose")
    with files.whole(path, mode=path.stat().st_mode & 0o777) as temporary:
        temporary.write_bytes(new)
    return digest(new)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror})") from None


def edited(data: bytes, checkpoint: int | str, name: str) -> bytes:
    """The file's bytes with another checkpoint.

    ruamel.yaml says where the value stands, and afterwards whether the new text means what it should.

    Raises:
        UserError: the file is no YAML mapping, or its text cannot be edited so that nothing else changes.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name}: is not UTF-8; write {KEY}: {checkpoint} into it by hand") from None
    before = _parsed(text, name)
    wanted = {**before, KEY: checkpoint}
    # The line ends of the file are kept: Python would write others on Windows.
    for new in _ways(text, before, checkpoint):
        if _parsed(new, name, broken_is_none=True) == wanted:
            return new.encode("utf-8")
    raise UserError(f"{name}: cannot be edited without changing more; write {KEY}: {checkpoint} into it by hand")


def _ways(text: str, before: Any, checkpoint: int | str) -> list[str]:
    """Texts that may be what is wanted: the value replaced in its place, or a line at the end, or all written anew."""
    newline = "\r\n" if "\r\n" in text else "\n"
    ways = []
    if KEY in before:
        row, column = before.lc.value(KEY)
        lines = text.splitlines(keepends=True)
        line, old = lines[row] if row < len(lines) else "", before[KEY]
        for spelt in {str(old), f'"{old}"', f"'{old}'"}:
            if line[column:].startswith(spelt):
                changed = line[:column] + str(checkpoint) + line[column + len(spelt) :]
                ways.append("".join([*lines[:row], changed, *lines[row + 1 :]]))
    else:
        rest = text if text.endswith(("\n", "\r")) or not text else text + newline
        ways.append(f"{rest}{KEY}: {checkpoint}{newline}")
    return [*ways, _dumped(before, checkpoint)]


def _yaml() -> Any:
    try:
        from ruamel.yaml import YAML
    except ImportError:
        raise UserError("choosing needs ruamel.yaml: pip install 'charloom[watch]'") from None
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _parsed(text: str, name: str, *, broken_is_none: bool = False) -> Any:
    from collections.abc import Mapping

    yaml = _yaml()
    try:
        found = yaml.load(text)
    except Exception as error:  # ruamel.yaml's own errors have no common ancestor but this
        if broken_is_none:
            return None
        raise UserError(f"{name}: is no valid YAML ({str(error).splitlines()[0]}); mend it first") from None
    if not isinstance(found, Mapping) and not broken_is_none:
        raise UserError(f"{name}: is no character file")
    return found


def _dumped(before: Any, checkpoint: int | str) -> str:
    """The whole document written by ruamel.yaml, which keeps comments but not every line break."""
    import copy

    changed = copy.deepcopy(before)
    changed[KEY] = checkpoint
    out = io.StringIO()
    _yaml().dump(changed, out)
    return out.getvalue()
