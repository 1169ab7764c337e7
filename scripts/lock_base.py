"""Write the digests of a base model's files to a lock file; downloads the base from the hub if necessary."""

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
    if "repo" in arguments.settings and os.environ.get(jobs.DEVICE) != "cpu":
        check_torch(arguments.settings["name"])
    lock = locks.lock(arguments.settings, arguments.store, log)
    basefiles.check_layout(Path(lock["root"]), single_file=locks.SINGLE_FILE in lock)
    files.write_json(arguments.output, lock)
    log.quietly(f"{len(lock['files'])} files, {locks.size(lock) / 1e6:.1f} MB, in {lock['root']}")
    if "revision" in lock:
        log.quietly(f"{lock['repo']} at {lock['revision']}; pinned until {arguments.output} is deleted")


def check_torch(name: str) -> None:
    """Fail before gigabytes are downloaded for a torch build that cannot use a GPU at all."""
    import torch

    if not (torch.version.cuda or torch.version.hip or torch.backends.mps.is_built()):
        raise UserError(
            f"base {name} needs a GPU and torch {torch.__version__} is a CPU-only build: where there is a GPU, "
            "`pip uninstall -y torch` and install it as pytorch.org says; else rent one (docs/cluster.md), or set "
            "device: cpu and wait for days"
        )


if __name__ == "__main__":
    cli(main)
