"""Arrange the previews of a checkpoint in one labelled picture."""

from __future__ import annotations

from pathlib import Path

from charloom.core.errors import cli
from charloom.report.grid import Cell, checkpoint_grid, save_picture, short
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="folder with one preview per prompt")
    parser.add_argument("--step", type=int, required=True, help="step of the checkpoint")
    arguments = parser.parse_args()
    settings = arguments.settings
    cells = [
        Cell(prompt["name"], short(prompt["text"], settings["trigger"]), arguments.samples / f"{prompt['name']}.png")
        for prompt in settings["prompts"]
    ]
    title = f"{settings['name']}, step {arguments.step}" if arguments.step else f"{settings['name']}, before training"
    save_picture(checkpoint_grid(cells, title=title), arguments.output)


if __name__ == "__main__":
    cli(main)
