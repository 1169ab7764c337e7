"""Write the page about a character: one file to open, with everything in it."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.report import page as html
from charloom.report import scores
from charloom.report.gather import gather
from charloom.report.grid import save_picture
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--comparison", type=Path, help="picture of all checkpoints side by side")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, arguments.settings["name"])
    material = gather(arguments.results, arguments.settings)
    files.write_text(arguments.output, html.page(material))
    if arguments.comparison:
        save_picture(scores.comparison(material), arguments.comparison)
    log(f"report: {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli(main)
