"""Check a data set before training: errors stop the workflow, warnings are listed."""

from __future__ import annotations

from charloom.core import files, tokens
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.dataset import lint
from charloom.workflow import jobs, likeness, lint_files


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--threads", type=int, default=1, help="images read at a time")
    arguments = parser.parse_args()
    settings, store, results = arguments.settings, arguments.store, arguments.results
    log = jobs.Log(arguments.log, settings["character"])
    names = lint.names(settings)
    work = {name: lambda name=name: lint_files.kept_facts(results.image(name), store) for name in names}
    items, unread = lint.made(results, settings, lint_files.gathered(work, arguments.threads))
    unread += likeness.findings(results, names)
    # The tokenizer is no input: until it is downloaded, token counts are estimates, which are never errors.
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
