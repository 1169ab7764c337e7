"""Make one image of a character: draw it, or take it from the user's folder."""

from __future__ import annotations

from charloom import files, jobs, sources
from charloom.errors import cli


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("inputs", nargs="*", help="files that the image is made from")
    arguments = parser.parse_args()
    with files.whole(arguments.output) as temporary:
        sources.get(arguments.settings["source"]).make(arguments.settings, arguments.inputs, temporary)


if __name__ == "__main__":
    cli(main)
