"""Atomic writes: a file is either complete or as it was before. Also helpers for paths and disks.

A temporary file beside the target is written first and replaces the target at the end.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from charloom.core import drives
from charloom.core.errors import UserError, disk_problem

_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*([.:].*)?", re.IGNORECASE | re.DOTALL)


def on_any_system(name: str) -> bool:
    """Whether a file can have this name on every system: Windows reserves ``nul.png`` and ``COM1`` for devices, and
    drops dots and spaces at the end."""
    return not (_DEVICE.fullmatch(name) or name.endswith((".", " ")) or re.search(r'[\x00-\x1f<>:"/\\|?*]', name))


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` expanded (unchanged if there is no such user), and in WSL ``C:\\…`` too."""
    return Path(os.path.expanduser(drives.mounted(str(path))))


@contextlib.contextmanager
def whole(target: str | Path, *, mode: int | None = None, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes ``target`` when the block ends without an error.

    ``mode`` sets the permissions of the file; without ``sync`` its bytes may reach the disk after its name, which is
    good enough for copies. Missing folders are created.

    Raises:
        UserError: the disk is full or may not be written to.
    """
    target = Path(target)
    # Short, because file names have a maximal length; random, because hosts may share a disk. With this extension it
    # is never taken for a picture or a caption.
    temporary = target.with_name(f".{target.name[:40]}.{os.urandom(4).hex()}.tmp")
    try:
        folder_of(target)
        yield temporary
        if sync:
            flush(temporary)
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, target)
    except UserError:
        raise
    except Exception as error:
        if problem := disk_problem(error, _culprit(error, temporary, target)):
            raise UserError(problem) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def need_room(folder: Path, size: int) -> None:
    """Make sure that ``size`` more bytes fit on the disk of a folder, before something is paid for that has to be
    saved.

    Raises:
        UserError: they do not.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    if shutil.disk_usage(there).free < size:
        raise UserError(disk_problem(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder) or "")


def existing(path: Path) -> Path:
    """The nearest existing parent of ``path``, or itself; the root if the whole drive is missing."""
    there = path.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    return there


class Disk(NamedTuple):
    """What is to be written to one disk: for what, a folder on the disk, GB needed and GB free."""

    what: str
    folder: Path
    needed: float
    free: float


def disks(needs: Iterable[tuple[str, Path, float]]) -> list[Disk]:
    """The disks of ``needs``, which are (name, folder, GB); needs on the same disk are added up."""
    found: dict[int, Disk] = {}
    for what, path, needed in needs:
        there = existing(path)
        device = there.stat().st_dev
        if one := found.get(device):
            found[device] = one._replace(what=f"{one.what} and {what}", needed=one.needed + needed)
        else:
            found[device] = Disk(what, there, needed, shutil.disk_usage(there).free / 1e9)
    return list(found.values())


def folder_of(target: Path) -> None:
    """Make the folder of ``target``.

    Raises:
        UserError: there is a file in its place, or in place of a parent.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(path for path in target.parents if path.exists() or path.is_symlink())
        raise UserError(f"{target}: cannot be written because {file} is not a folder; choose another place") from None


def _culprit(error: Exception, temporary: Path, target: Path) -> Path:
    """The file that an error is about, which may also be the unreadable source of a copy."""
    about = error.filename if isinstance(error, PermissionError) else None
    return target if about is None or Path(os.fsdecode(about)) == temporary else Path(os.fsdecode(about))


def aside(path: Path, folder: Path) -> Path:
    """Move a file into ``folder`` on the same disk, with the time before its name; returns the new path."""
    folder.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{stamp}{f'-{number}' if number else ''}-{path.name}" for number in itertools.count())
    target = next(folder / name for name in names if not os.path.lexists(folder / name))
    os.replace(path, target)
    return target


def flush(path: Path) -> None:
    """Flush to the disk: a power failure must not leave a truncated file under the final name."""
    with open(path, "r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # file systems without fsync
                raise


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a small text file as UTF-8, whole or not at all; ``sync`` as for :func:`whole`."""
    with whole(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def changed(path: Path) -> float:
    """When a file was written, in seconds since the epoch; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty if it cannot be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
