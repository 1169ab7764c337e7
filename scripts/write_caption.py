"""Write one caption: the user's own if there is one, the one that the grammar gives, or the default."""

from __future__ import annotations

from charloom import jobs
from charloom.arguments import path
from charloom.captions import tidy
from charloom.errors import UserError, cli


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--user-file", type=path, help="the user's caption, which wins; nothing if there is none")
    arguments = parser.parse_args()
    text = arguments.settings.get("caption")
    if arguments.user_file:
        try:
            text = tidy(arguments.user_file.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            raise UserError(f"{arguments.user_file}: is not UTF-8 text; save it as UTF-8") from None
    text = text or arguments.settings.get("default")
    if not text:
        raise UserError(f"{arguments.user_file}: is empty; write a caption, or set default_caption")
    jobs.write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    cli(main)
