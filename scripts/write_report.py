"""Write the page about a character: one file to open, with everything in it, and its charts as pictures."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.report import charts, comparison, curves, pictures
from charloom.report.gather import gather
from charloom.report.grid import save_picture
from charloom.report.page import page
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--comparison", type=Path, required=True, help="picture of all checkpoints side by side")
    parser.add_argument("--scores-plot", type=Path, required=True, help="chart of the scores by checkpoint")
    parser.add_argument("--loss-plot", type=Path, required=True, help="chart of the loss, also on held-out images")
    parser.add_argument("--threads", type=int, default=1, help="pictures scaled at a time")
    arguments = parser.parse_args()
    pictures.set_threads(arguments.threads)
    log = jobs.Log(arguments.log, arguments.settings["name"])
    material = gather(arguments.results, arguments.settings)
    files.write_text(arguments.output, page(material))
    save_picture(comparison.grid(material), arguments.comparison)
    charts.save_png(curves.scores(material), arguments.scores_plot, "No samples were scored.")
    charts.save_png(curves.loss(material), arguments.loss_plot, "The trainer logged no loss.")
    log(f"report: {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli(main)
