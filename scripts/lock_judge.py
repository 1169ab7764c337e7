"""Write a lock file of what judges the previews of a base's characters: instruments, versions, digests."""

from __future__ import annotations

from charloom.core import files
from charloom.core.errors import cli
from charloom.judge import locking
from charloom.workflow import jobs


def main() -> None:
    arguments = jobs.parser(__doc__).parse_args()
    log = jobs.Log(arguments.log, f"judge of {arguments.settings['name']}")
    lock = locking.lock(arguments.settings, arguments.store, log)
    files.write_json(arguments.output, lock)
    log(f"instruments: {', '.join(lock['instruments']) or 'none but sharpness and contrast'}")
    for name, one in lock["missing"].items():
        log.quietly(f"without {name}: {one['why']}; {one['install']}")
    log.quietly(f"kept until {arguments.output} is deleted, whatever is installed in the meantime")


if __name__ == "__main__":
    cli(main)
