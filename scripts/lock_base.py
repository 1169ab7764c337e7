"""Name every file of a base model by its digest in a small lock file, fetching it from the hub if need be."""

from __future__ import annotations

import os
from pathlib import Path

from charloom.base import files as basefiles
from charloom.base import locks
from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.workflow import jobs


def main() -> None:
    arguments = jobs.parser(__doc__).parse_args()
    log = jobs.Log(arguments.log, f"base {arguments.settings['name']}")
    if "repo" in arguments.settings and os.environ.get("CHARLOOM_DEVICE") != "cpu":
        check_torch(arguments.settings["name"])
    lock = locks.lock(arguments.settings, arguments.store, log)
    basefiles.check_layout(Path(lock["root"]), single_file=locks.SINGLE_FILE in lock)
    files.write_json(arguments.output, lock)
    log.quietly(f"{len(lock['files'])} files, {locks.size(lock) / 1e6:.1f} MB, in {lock['root']}")
    if "revision" in lock:
        log.quietly(f"{lock['repo']} at {lock['revision']}; stays so until {arguments.output} is deleted")


def check_torch(name: str) -> None:
    """Fail before gigabytes are fetched for a torch that could not use them on any machine."""
    import torch

    if not (torch.version.cuda or torch.version.hip or torch.backends.mps.is_built()):
        raise UserError(
            f"base {name} wants a GPU and torch {torch.__version__} is a build for CPUs alone: install another, or set "
            "device: cpu if you mean it"
        )


if __name__ == "__main__":
    cli(main)
