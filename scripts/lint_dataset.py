"""Check a data set before it is trained on: errors stop the workflow, warnings are listed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from charloom import jobs, lint
from charloom.canonical import digest, file_digest
from charloom.errors import UserError, cli
from charloom.recipes import RECIPES

KIND = "image-facts"


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--dataset", type=Path, required=True, help="folder with images and captions")
    parser.add_argument("--threads", type=int, default=1, help="images read at a time")
    arguments = parser.parse_args()
    settings, store = arguments.settings, arguments.store
    log = jobs.Log(arguments.log, settings["character"])

    def facts_of(image: Path) -> dict:
        key = digest({"image": file_digest(image), "recipe": RECIPES["lint"]})
        if not store.has(KIND, key, ".json"):
            with store.put(KIND, key, ".json") as path:
                jobs.write_json(path, lint.facts(image))
        return jobs.read_json(store.path(KIND, key, ".json"))

    images = [arguments.dataset / f"{shot['name']}.png" for shot in settings["shots"]]
    with ThreadPoolExecutor(max(1, arguments.threads)) as pool:
        known = dict(zip(images, pool.map(facts_of, images), strict=True))
    findings = lint.lint(arguments.dataset, settings, known.__getitem__)
    record = lint.as_record(findings)
    for finding in findings:
        log(str(finding))
    log(f"{len(images)} images checked: {record['errors']} errors, {record['warnings']} warnings")
    errors = [f"{arguments.dataset}: {f.where}: {f.what}" for f in findings if f.level == "error"]
    if errors:
        raise UserError.several(errors)
    jobs.write_json(arguments.output, record)


if __name__ == "__main__":
    cli(main)
