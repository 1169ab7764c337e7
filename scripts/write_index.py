"""Write the page of all characters, which leads to their reports."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.report.index import index
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "all characters")
    files.write_text(arguments.output, index(arguments.results, arguments.settings["characters"]))
    log(f"index: {arguments.output}")


if __name__ == "__main__":
    cli(main)
