"""Choose the checkpoint to ship by its scores, with reasons."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.judge import choice, table
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--scores", type=Path, required=True, help="folder with the scores of every sampled step")
    parser.add_argument("--validation", type=Path, required=True, help="file for the choice and its reasons")
    parser.add_argument("--table", type=Path, required=True, help="file for the long table of scores")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, arguments.settings["character"])
    settings = arguments.settings
    paths = [arguments.scores / f"step-{step:06d}.json" for step in settings["steps"]]
    rows = table.from_scores(table.read_scores(paths))
    table.write_csv(rows, arguments.table)
    result = choice.choose(rows, settings["candidates"] or [settings["last"]], keep=settings["keep"])
    files.write_json(arguments.validation, result)
    lines = choice.explain(result).splitlines()
    log(lines[0])
    for line in lines[1:]:
        log.quietly(line)


if __name__ == "__main__":
    cli(main)
