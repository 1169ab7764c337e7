"""Make one image of a character: draw it, or take it from the user's folder."""

from __future__ import annotations

import os

from charloom import jobs, sources
from charloom.arguments import path
from charloom.errors import cli


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--user-file", type=path, help="the user's image; nothing for one that is drawn")
    arguments = parser.parse_args()
    inputs = [str(arguments.user_file)] if arguments.user_file else []
    output = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        sources.get(arguments.settings["source"]).make(arguments.settings, inputs, temporary)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    cli(main)
