"""Name every file of a base model by its digest in a small lock file, fetching it from the hub if need be."""

from __future__ import annotations

from pathlib import Path

from charloom import basefiles, bases, jobs
from charloom.errors import cli


def main() -> None:
    arguments = jobs.parser(__doc__).parse_args()
    log = jobs.Log(arguments.log, f"base {arguments.settings['name']}")
    lock = bases.lock(arguments.settings, arguments.store, log)
    basefiles.check_layout(Path(lock["root"]), single_file=bases.SINGLE_FILE in lock)
    size = sum(facts["size"] for facts in lock["files"].values())
    jobs.write_json(arguments.output, lock)
    log.quietly(f"{len(lock['files'])} files, {size / 1e6:.1f} MB, in {lock['root']}")
    if "revision" in lock:
        log.quietly(f"{lock['repo']} at {lock['revision']}; stays so until {arguments.output} is deleted")


if __name__ == "__main__":
    cli(main)
