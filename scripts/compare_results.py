"""Write the page that compares a finished character with its previous result, of another base or other settings."""

from __future__ import annotations

from functools import partial

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.report import versus
from charloom.workflow import history, jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    arguments = parser.parse_args()
    about, store = arguments.settings, arguments.store
    log = jobs.Log(arguments.log, about["name"])
    found = list(history.records(store))
    now = history.of_file(found, about["character"], arguments.results.final)
    if now is None:
        raise UserError(
            f"{arguments.results.final}: the store has no record of it; "
            f"snakemake --forcerun export_final {arguments.results.final}"
        )
    before = history.earlier(found, now.facts)
    page = versus.page(now.facts, before.facts if before else None, partial(history.picture, store))
    files.write_text(arguments.output, page)
    if before is None:
        log(f"no earlier result is stored, so {arguments.output} compares nothing yet")
    else:
        log(f"base {before.facts['base']['name']}, step {before.facts['step']} against step {now.facts['step']}")


if __name__ == "__main__":
    cli(main)
