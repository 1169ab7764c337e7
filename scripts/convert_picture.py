"""Convert one of the user's pictures to the one that is trained on, and its siblings too."""

from __future__ import annotations

from pathlib import Path

from charloom.core.errors import UserError, cli
from charloom.workflow import jobs, own_files
from charloom.workflow.arguments import path, value


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--user-file", type=path, required=True, help="the user's picture")
    parser.add_argument(
        "--siblings", type=value, default=[], help=f"pictures that other jobs will ask for, {jobs.JSON}"
    )
    parser.add_argument("--threads", type=int, default=1, help="pictures read at a time")
    arguments = parser.parse_args()
    settings, store, kind = arguments.settings, arguments.store, own_files.PICTURE
    if arguments.user_file is None:
        raise UserError(f"{arguments.output}: its picture is no longer in the folder; run snakemake again")
    with store.lock("own-pictures"):  # one process makes the pictures of all its siblings
        everyone = dict.fromkeys([arguments.user_file, *map(Path, arguments.siblings)])
        own_files.make_pictures(everyone, settings, store, arguments.threads)
        key = own_files.make_picture(arguments.user_file, settings, store)  # or what is wrong with it
    store.fetch(kind.name, key, kind.suffix, arguments.output)


if __name__ == "__main__":
    cli(main)
