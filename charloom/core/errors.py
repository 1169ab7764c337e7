"""Mistakes that a user can make and fix, reported in one line.

Everything that is not a :class:`UserError` is a bug in charloom and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from charloom.core import garbage

STOPPED = "stopped: "
"""How the last line of a job that was stopped on request begins."""

_DISK = {
    errno.ENOSPC: "the disk is full; free some space (charloom store says what takes it) and run again, "
    "everything finished is kept",
    errno.EDQUOT: "your share of the disk is used up; free some space and run again, everything finished is kept",
    errno.EFBIG: "files may not grow that large here; raise the limit (ulimit -f), or use another disk",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EROFS: "the disk is read-only; use a folder that can be written to",
    errno.EACCES: "permission denied; change the owner or the permissions of the file and its folder",
    errno.EPERM: "permission denied; change the owner or the permissions of the file and its folder",
}
# Some libraries report only the text of a system error, not its number.
_WORDS = {
    "no space left": errno.ENOSPC,
    "os error 28)": errno.ENOSPC,
    "quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
}


LONGEST = 2000
"""Characters of a line of a message, at most."""
# Control characters except tab and line feed, Unicode line separators, and marks that reorder text.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class UserError(Exception):
    """Work cannot go on because of something the user wrote or left out.

    The message says what is wrong, where (file and key), and what to do about it, in one line;
    :meth:`several` joins the lines of several.
    """

    @classmethod
    def several(cls, problems: list[str]) -> UserError:
        """One error for several one-line ``problems``, so that all are reported together."""
        return cls("\n".join(problems))

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """``text`` for a terminal: control characters are escaped, and lines longer than :data:`LONGEST` are cut.

    Messages quote what others wrote: a name in a file may contain escape sequences, or be megabytes long.
    """
    lines = [
        line if len(line) <= LONGEST else f"{line[:LONGEST]}… ({len(line):,} characters)" for line in text.split("\n")
    ]
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), "\n".join(lines))


class Killed(UserError):
    """A child process was killed outright (SIGKILL), for example because main memory ran out."""


class Stopped(Exception):
    """Work ended on request, with everything saved. The message says in one line how to continue."""


def disk_problem(error: BaseException, path: object = None) -> str | None:
    """One line for an error, or one of its causes, that means the disk cannot be written to; None for any other.

    ``path`` is named if the error names no file.
    """
    for one in _chain(error):
        number = one.errno if isinstance(one, OSError) else None
        if number not in _DISK:
            number = next((code for words, code in _WORDS.items() if words in str(one).lower()), None)
        if number in _DISK:
            where = path or getattr(one, "filename", None)
            if isinstance(where, bytes):
                where = os.fsdecode(where)
            return f"{where}: {_DISK[number]}" if where else _DISK[number]
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def cli(main: Callable[[], None]) -> NoReturn:
    """Run a command-line script: a :class:`UserError` becomes ``error: ...`` lines and exit status 1.

    A :class:`Stopped` becomes a ``stopped: ...`` line, with the same status.
    """
    garbage.while_loading()
    try:
        main()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stopped:
        # Not an error, but the job's file is not there either.
        print(f"{STOPPED}{stopped}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has exited (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def reason(error: BaseException) -> str:
    """The first line of an error of another library, or its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
