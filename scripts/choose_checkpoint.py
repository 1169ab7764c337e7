"""Choose the checkpoint to ship by its scores, with reasons."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.core.layout import step_name
from charloom.judge import choice, summary, table
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--scores", type=Path, required=True, help="folder with the scores of every sampled step")
    parser.add_argument("--drift", type=Path, help="folder with what is known of drift")
    parser.add_argument("--validation", type=Path, required=True, help="file for the choice and its reasons")
    parser.add_argument("--table", type=Path, required=True, help="file for the long table of scores")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, arguments.settings["character"])
    settings = arguments.settings
    paths = [arguments.scores / f"{step_name(step)}.json" for step in settings["steps"]]
    documents, notes = table.of_one_judge(table.read_scores(paths))
    drift = table.read_scores(arguments.drift / f"{step_name(step)}.json" for step in settings.get("drift", ()))
    same = [one for one in drift if documents and one["weights"] == documents[-1]["weights"]]
    rows = table.from_scores([*documents, *same])
    table.write_csv(rows, arguments.table)
    calibrated = documents[-1].get("limits", {}) if documents else {}
    limits = summary.limits_of(calibrated, settings.get("limits", {}))
    notes += dict.fromkeys(line for one in documents for line in one.get("notes", ()))
    candidates = settings["candidates"] or [settings["last"]]
    result = choice.choose(rows, candidates, keep=settings["keep"], limits=limits, notes=notes)
    for key in ("instruments", "remedies", "coverage"):
        if documents and key in documents[-1]:
            result[key] = documents[-1][key]
    files.write_json(arguments.validation, result)
    lines = choice.explain(result).splitlines()
    log(lines[0])
    for line in lines[1:]:
        log.quietly(line)


if __name__ == "__main__":
    cli(main)
