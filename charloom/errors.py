"""Mistakes that a user can make and repair, told in one line.

Everything that is not a :class:`UserError` is a bug in charloom and keeps its traceback. This
module must not know what any of the mistakes is about.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something the user wrote, or forgot, stops the work.

    The message says what is wrong, where (file and key), and what to do about it, in one line;
    :meth:`several` joins the lines of many.
    """

    @classmethod
    def several(cls, problems: list[str]) -> UserError:
        """One error out of many one-line ``problems``, so that all of them are reported together."""
        return cls("\n".join(problems))


def cli(main: Callable[[], None]) -> NoReturn:
    """Run a command-line script: a :class:`UserError` becomes ``error: ...`` lines and exit status 1."""
    try:
        main()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)
