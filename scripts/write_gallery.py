"""Write the page of a gallery, beside its pictures."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.report.gallery import page
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, arguments.settings["name"])
    files.write_text(arguments.output, page(arguments.results, arguments.settings))
    log(f"gallery: {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli(main)
