"""Write one caption: the user's own if there is one, or the one that the grammar gives."""

from __future__ import annotations

from pathlib import Path

from charloom import jobs
from charloom.captions import tidy
from charloom.errors import UserError, cli


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("handwritten", nargs="?", type=Path, help="the user's caption, which wins")
    arguments = parser.parse_args()
    text = arguments.settings["caption"]
    if arguments.handwritten:
        try:
            text = tidy(arguments.handwritten.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise UserError(f"{arguments.handwritten}: is not UTF-8 text; save it as UTF-8") from None
        if not text:
            raise UserError(f"{arguments.handwritten}: is empty; write a caption or delete the file")
    jobs.write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    cli(main)
