"""Write a caption: the user's own if there is one, else by the grammar, else the default."""

from __future__ import annotations

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.dataset import captions
from charloom.workflow import jobs
from charloom.workflow.arguments import path


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument(
        "--user-file", type=path, help="the user's caption, which takes precedence; null if there is none"
    )
    arguments = parser.parse_args()
    text = arguments.settings.get("caption")
    if arguments.user_file:
        text = captions.read(arguments.user_file)
    text = text or arguments.settings.get("default")
    if not text:
        where = f"{arguments.user_file}: is empty" if arguments.user_file else f"{arguments.output}: has no text"
        raise UserError(f"{where}; write a caption, or set default_caption")
    files.write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    cli(main)
