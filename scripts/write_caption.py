"""Write a caption: the user's own if there is one, else the captioner's, else by the grammar, else the default."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.dataset import captions
from charloom.workflow import describing, jobs
from charloom.workflow.arguments import path


def described(output: Path, settings: dict[str, Any], otherwise: str) -> str:
    """The caption that the captioner's text makes, if it passes the check."""
    from charloom.dataset import proposals  # with numpy, which takes longer to load than a caption to write

    # <results>/dataset/<name>.txt, where the name may have a folder.
    root = next(folder for folder in output.parents if folder.name == "dataset")
    name = output.relative_to(root).with_suffix("").as_posix()
    raw = describing.text_of(Results(root.parent).raw_caption(name))
    made = proposals.propose(name, raw, otherwise or "", settings)
    for problem in made.problems:
        print(f"{name}: the captioner's text is not taken: {problem}", file=sys.stderr)
    return made.text if made.good else otherwise


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument(
        "--user-file", type=path, help="the user's caption, which takes precedence; null if there is none"
    )
    arguments = parser.parse_args()
    text = arguments.settings.get("caption")
    own = captions.read(arguments.user_file) if arguments.user_file else ""
    if own:
        text = captions.completed(own, arguments.settings["trigger"]) if "trigger" in arguments.settings else own
    elif arguments.settings.get("captioner"):
        text = described(arguments.output, arguments.settings["captioner"], text or arguments.settings.get("default"))
    elif arguments.user_file:
        text = ""  # an empty file does not stand for the plan's caption
    text = text or arguments.settings.get("default")
    if not text:
        where = f"{arguments.user_file}: is empty" if arguments.user_file else f"{arguments.output}: has no text"
        raise UserError(f"{where}; write a caption, or set default_caption")
    files.write_text(arguments.output, text + "\n")


if __name__ == "__main__":
    cli(main)
