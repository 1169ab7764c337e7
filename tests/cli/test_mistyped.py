"""Mistyped commands: one line on standard error, with a remedy, and exit status 2."""

from __future__ import annotations

import importlib.metadata

import pytest
import typer
from cli_helpers import call

from charloom.cli import mistyped
from charloom.cli.main import DATA_SET, MACHINE, START, TRAIN, USE, app

LINES = {
    "lint mara leyla": "charloom lint takes one NAME, and leyla is one too many; run it once for each",
    "doctor mara": "charloom doctor takes only options; remove mara",
    "convert a b c --to kohya": "charloom convert takes IN and OUT alone; remove c",
    "new mara --clas creature": "charloom new: there is no option --clas; did you mean --class?",
    "lint mara --foo": "charloom lint: there is no option --foo; see charloom lint --help",
    "new mara --class": "--class: has no value; write it after the option",
    "lint mara --html=3": "--html: takes no value; write it without one",
    "publish mara": "charloom publish: --repo is missing; write it, as in: charloom publish mara --repo me/mara",
    "lint": "charloom lint: NAME is missing; write it, as in: charloom lint mara",
    "draw mara x --seed 9223372036854775808": "charloom draw: --seed is larger than 9223372036854775807; correct it",
    "watch --port x": "charloom watch: --port should be a valid integer; correct it",
    "--versio": "charloom: there is no option --versio; did you mean --version?",
    "lnt mara": "charloom: there is no command lnt; did you mean charloom lint?",
    "store prun": "charloom store: there is no command prun; did you mean charloom store prune?",
    "store prune --yess": "charloom store prune: there is no option --yess; did you mean --yes?",
}


@pytest.mark.parametrize("typed", LINES)
def test_a_mistyped_command_is_one_line(typed: str) -> None:
    result = call(*typed.split())
    # Older versions of typer say it in click's words.
    said = result.stderr.replace("'x' is not a valid", "should be a valid")
    assert (said, result.stdout, result.exit_code) == (f"error: {LINES[typed]}\n", "", 2)


def test_there_is_an_example_for_each_command_that_needs_something() -> None:
    commands = typer.main.get_command(app).commands
    needy = {name for name, one in commands.items() if any(param.required for param in one.params)}
    assert needy <= set(mistyped.EXAMPLES) <= set(commands)


def test_the_help_groups_all_commands() -> None:
    commands = typer.main.get_command(app).commands.values()
    assert {one.rich_help_panel for one in commands} == {START, DATA_SET, TRAIN, USE, MACHINE}


@pytest.mark.parametrize("command", ["", "lint", "draw", "store", "store prune"])
def test_the_help_shows_no_types_of_flags_and_no_endless_ranges(command: str) -> None:
    text = call(*command.split(), "--help").stdout
    assert "--help" in text and "bool" not in text.lower() and "9223372036854775807" not in text


def test_the_version_is_that_of_the_package() -> None:
    assert call("--version").stdout == f"charloom {importlib.metadata.version('charloom')}\n"
