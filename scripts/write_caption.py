"""Write one caption: the user's own if there is one, the one that the grammar gives, or the default."""

from __future__ import annotations

from pathlib import Path

from charloom import captions, files, jobs
from charloom.errors import UserError, cli


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("handwritten", nargs="?", type=Path, help="the user's caption, which wins")
    arguments = parser.parse_args()
    text = arguments.settings.get("caption")
    if arguments.handwritten:
        text = captions.read(arguments.handwritten)
    text = text or arguments.settings.get("default")
    if not text:
        where = f"{arguments.handwritten}: is empty" if arguments.handwritten else f"{arguments.output}: has no text"
        raise UserError(f"{where}; write a caption, or set default_caption")
    files.write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    cli(main)
