"""Check a data set before it is trained on: errors stop the workflow, warnings are listed."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files, tokens
from charloom.core.errors import UserError, cli
from charloom.dataset import lint
from charloom.workflow import jobs, lint_files


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--dataset", type=Path, required=True, help="folder with images and captions")
    parser.add_argument("--threads", type=int, default=1, help="images read at a time")
    arguments = parser.parse_args()
    settings, store, dataset = arguments.settings, arguments.store, arguments.dataset
    log = jobs.Log(arguments.log, settings["character"])
    names = lint.names(settings)
    work = {name: lambda name=name: lint_files.kept_facts(dataset / f"{name}.png", store) for name in names}
    items, unread = lint.made(dataset, settings, lint_files.gathered(work, arguments.threads))
    # Not an input: where the tokenizer is not here yet, lengths are estimated, and an estimate stops nothing.
    findings = lint.in_order(unread + lint.lint(items, settings, tokens.counter(settings.get("base", {}))))
    record = lint.as_record(findings)
    for finding in findings:
        log(str(finding))
    log(f"{len(names)} images checked: {record['errors']} errors, {record['warnings']} warnings")
    errors = [f"{settings['character']}: {f.where}: {f.what}" for f in findings if f.level == "error"]
    if errors:
        raise UserError.several(errors)
    files.write_json(arguments.output, record)


if __name__ == "__main__":
    cli(main)
