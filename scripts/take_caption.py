"""Copy one of the user's captions as it is trained on, with the trigger, and its siblings too."""

from __future__ import annotations

from pathlib import Path

from charloom.core.errors import cli
from charloom.workflow import jobs, own_files
from charloom.workflow.arguments import path, value


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--user-file", type=path, help="the user's caption; null if there is none")
    parser.add_argument(
        "--siblings", type=value, default=[], help=f"captions that other jobs will ask for, {jobs.JSON}"
    )
    arguments = parser.parse_args()
    settings, store, kind = arguments.settings, arguments.store, own_files.CAPTION
    with store.lock("own-captions"):
        key = own_files.make_caption(arguments.user_file, settings, store)
        if "default" not in settings:
            own_files.make_captions(map(Path, arguments.siblings), settings, store)
    store.fetch(kind.name, key, kind.suffix, arguments.output)


if __name__ == "__main__":
    cli(main)
