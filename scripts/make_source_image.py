"""Make one image of a character: draw it, or take it from the user's folder."""

from __future__ import annotations

from charloom import files, jobs, sources
from charloom.arguments import path
from charloom.errors import cli


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--user-file", type=path, help="the user's image; nothing for one that is drawn")
    arguments = parser.parse_args()
    inputs = [str(arguments.user_file)] if arguments.user_file else []
    with files.whole(arguments.output) as temporary:
        sources.get(arguments.settings["source"]).make(arguments.settings, inputs, temporary)


if __name__ == "__main__":
    cli(main)
