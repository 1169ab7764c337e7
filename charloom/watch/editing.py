"""Changes one value in a character's file and keeps every other byte: comments, order, line ends."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import UserError


def digest(data: bytes) -> str:
    """A digest that differs between versions of a file."""
    return sha256(data).hexdigest()


def rewrite(path: Path, edit: Callable[[bytes, str], bytes], seen: str | None = None) -> str:
    """Replace the file by what ``edit`` returns for its bytes (and name); returns the digest of the new file.

    ``seen`` is the :func:`digest` of the file on which the user based a decision, if that matters.

    Raises:
        UserError: the file is missing, has changed in the meantime, or cannot be edited safely. It is then left
            untouched.
    """
    path = path.resolve()  # a link stays a link
    data = _read(path)
    changed = UserError(f"{path.name} has changed in the meantime and was not edited; look again, then choose")
    if seen is not None and digest(data) != seen:
        raise changed
    new = edit(data, path.name)
    if new == data:
        return digest(data)
    if _read(path) != data:
        raise changed
    with files.whole(path, mode=path.stat().st_mode & 0o777) as temporary:
        temporary.write_bytes(new)
    return digest(new)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({error.strerror}); give yourself the right to") from None


def edited(
    data: bytes,
    name: str,
    by_hand: str,
    change: Callable[[Any], None],
    ways: Callable[[str, Any], Iterable[str]],
) -> bytes:
    """The file's bytes after a change.

    ``change`` changes the parsed document; ``ways`` returns candidates for the new text, best first. The last resort is
    the whole document written by ruamel.yaml, if that changes a single line. A candidate is used only if ruamel.yaml
    parses it to the changed document. ``by_hand`` is what the user would have to write.

    Raises:
        UserError: the file is not a YAML mapping, or cannot be edited without changing anything else.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name}: is not UTF-8; {by_hand} by hand") from None
    before = parsed(text, name)
    wanted = copy.deepcopy(before)
    change(wanted)
    # Keep the line ends of the file: Python would write different ones on Windows.
    for new in ways(text, before):
        if parsed(new, name, broken_is_none=True) == wanted:
            return new.encode("utf-8")
    new = _dumped(wanted).replace("\r\n", "\n").replace("\n", newline_of(text))
    if parsed(new, name, broken_is_none=True) == wanted and _one_line(text, new):
        return new.encode("utf-8")
    raise UserError(f"{name}: cannot be edited without changing more; {by_hand} by hand")


def _one_line(old: str, new: str) -> bool:
    """Whether at most one line of ``old`` differs in ``new``, or one is added, and no comment is lost."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    while before and after and before[0] == after[0]:
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    return len(before) <= 1 and len(after) <= 1 and not any("#" in line for line in before)


def newline_of(text: str) -> str:
    """How the lines of a file end."""
    return "\r\n" if "\r\n" in text else "\n"


def _yaml() -> Any:
    try:
        from ruamel.yaml import YAML
    except ImportError:
        raise UserError("choosing needs ruamel.yaml: pip install 'charloom[watch]'") from None
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def parsed(text: str, name: str, *, broken_is_none: bool = False) -> Any:
    """Parse the document, with positions and comments.

    Raises:
        UserError: it is not a YAML mapping, unless ``broken_is_none``.
    """
    yaml = _yaml()
    try:
        found = yaml.load(text)
    except Exception as error:  # ruamel.yaml's errors have no other common base class
        if broken_is_none:
            return None
        raise UserError(f"{name}: is not valid YAML ({str(error).splitlines()[0]}); correct it first") from None
    if not isinstance(found, Mapping) and not broken_is_none:
        raise UserError(f"{name}: is not a character file; correct it with charloom lint")
    return found


def _dumped(document: Any) -> str:
    """Write the whole document with ruamel.yaml, which keeps comments but not every line break."""
    out = io.StringIO()
    _yaml().dump(document, out)
    return out.getvalue()
