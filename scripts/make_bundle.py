"""Pack the LoRA, everything it was made from and everything that comes with it into one file."""

from __future__ import annotations

import os
from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.core.layout import Results
from charloom.deliver import archive, bundle
from charloom.workflow import jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument(
        "--extras", type=Path, nargs="*", default=[], help="further files; a gallery's page brings it along"
    )
    arguments = parser.parse_args()
    about = arguments.settings
    log = jobs.Log(arguments.log, about["name"])
    contents = bundle.members(arguments.results, about, arguments.lock, arguments.extras)
    with files.whole(arguments.output) as temporary:
        archive.write(temporary, contents, os.environ.get("SOURCE_DATE_EPOCH", ""))
    log(f"{len(contents)} files: {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli(main)
