"""Make one image of a character: draw it, or copy it from the user's folder."""

from __future__ import annotations

import sys

from charloom.core import files
from charloom.core.errors import cli
from charloom.dataset import sources
from charloom.workflow import jobs
from charloom.workflow.arguments import path


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--user-file", type=path, help="the user's image; null if the image is drawn")
    arguments = parser.parse_args()
    inputs = [str(arguments.user_file)] if arguments.user_file else []
    with files.whole(arguments.output) as temporary:
        sources.get(arguments.settings["source"]).make(arguments.settings, inputs, temporary)
    if arguments.user_file:
        print(f"taken: {arguments.user_file.name}", file=sys.stderr)


if __name__ == "__main__":
    cli(main)
