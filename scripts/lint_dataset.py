"""Check a data set before training: errors stop the workflow, warnings are listed."""

from __future__ import annotations

from charloom.core import files, tokens
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.dataset import lint
from charloom.workflow import jobs, likeness, lint_slices, looking


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--threads", type=int, default=1, help="images read at a time")
    arguments = parser.parse_args()
    settings, store, results = arguments.settings, arguments.store, arguments.results
    log = jobs.Log(arguments.log, settings["character"])
    if settings.get("captioned"):
        found = files.read_json(results.proposals)
        settings |= {"_raw": found["raw"], "_waiting": [one["name"] for one in found["pictures"]]}
    settings |= {"_pictures": likeness.records(results, [shot["name"] for shot in settings["shots"]])}
    names, detectors = lint.names(settings), lint_slices.detectors(settings)
    work = {
        name: lambda name=name: looking.kept_facts(results.image(name), store, detectors=detectors) for name in names
    }
    items, unread = lint.made(results, settings, looking.gathered(work, arguments.threads))
    # The tokenizer is not an input: until it is downloaded, token counts are estimates, which are never errors.
    checked = lint.check(items, settings, tokens.counter(settings.get("base", {})), unread)
    record = lint.as_record(checked.findings, checked.allowed)
    for finding in checked.findings:
        log(str(finding))
    for line in looking.broken.values():
        log(line)
    allowed = f", {len(checked.allowed)} allowed" if checked.allowed else ""
    log(f"{len(names)} images checked: {record['errors']} errors, {record['warnings']} warnings{allowed}")
    errors = [f"{settings['character']}: {f.where}: {f.message}" for f in checked.findings if f.level == "error"]
    if errors:
        raise UserError.several(errors)
    files.write_json(arguments.output, record)


if __name__ == "__main__":
    cli(main)
