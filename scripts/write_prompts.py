"""Write the prompt sheet of a character, as a page to copy from and as plain text."""

from __future__ import annotations

import argparse
from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.dataset import prompts
from charloom.report import prompt_sheet
from charloom.workflow import jobs
from charloom.workflow.arguments import value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=value, required=True, help=f"the rule's slice of the settings, {jobs.JSON}")
    parser.add_argument("--html", type=Path, required=True, help="the page to write")
    parser.add_argument("--txt", type=Path, required=True, help="the text file to write")
    arguments = parser.parse_args()
    sheet = prompts.sheet(arguments.settings)
    files.write_text(arguments.html, prompt_sheet.as_html(sheet))
    files.write_text(arguments.txt, prompts.as_text(sheet))


if __name__ == "__main__":
    cli(main)
