"""Reports mistyped commands in one line with a remedy, instead of the box that typer prints."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from charloom.core.errors import UserError

USAGE = typer.BadParameter.__mro__[1]
"""The base class of the errors for mistyped commands, which typer does not export."""
EXAMPLES = {
    "new": "mara",
    "lint": "mara",
    "captions": "mara",
    "images": "mara",
    "try": "mara",
    "stop": "mara",
    "ship": "mara",
    "draw": 'mara "a photo of {trigger} reading"',
    "comfy": "mara",
    "verify": "results/mara/final.safetensors",
    "convert": "mara.safetensors mara-comfyui.safetensors --to comfyui",
    "merge": "mara.safetensors ink.safetensors --output both.safetensors",
    "unpack": "mara.zip",
    "publish": "mara --repo me/mara",
    "import-ai-toolkit": "job.yaml",
    "init": "portraits",
}
"""Example arguments of each command that needs some."""


class Group(TyperGroup):
    """Commands whose help shows no type where an option takes no value: ``--json``, not ``--json <bool>``."""

    def get_params(self, ctx: Any) -> Any:
        return _untyped(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if (found := super().get_command(ctx, cmd_name)) is not None:
            _untyped(found.get_params(ctx))
        return found


def _untyped(params: list[Any]) -> list[Any]:
    for one in params:
        if getattr(one, "is_flag", False):
            one.metavar = ""
    return params


class Commands(Group):
    """The commands of charloom: a mistyped one is answered by :func:`line`, with exit status 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # "charloom" without a command has printed its help
            raise
        print(f"error: {line(error)}", file=sys.stderr)
        raise typer.Exit(2) from None


def line(error: Any) -> UserError:
    """What is wrong with a command, and what to write instead."""
    context, kind = error.ctx, type(error).__name__
    if kind == "BadOptionUsage":
        if "does not take a value" in error.message:
            return UserError(f"{error.option_name}: takes no value; write it without one")
        return UserError(f"{error.option_name}: has no value; write it after the option")
    if context is None:
        return UserError(f"{_small(error.format_message())}; see charloom --help")
    path, command = context.command_path, context.command
    example = EXAMPLES.get(command.name, "")
    usage = f"{path} {example}" if example else f"{path} --help"
    if kind == "NoSuchOption":
        known = [option for one in command.params for option in (*one.opts, *one.secondary_opts)]
        near = difflib.get_close_matches(error.option_name, known, n=1, cutoff=0.7)
        if near:
            return UserError(f"{path}: there is no option {error.option_name}; did you mean {near[0]}?")
        return UserError(f"{path}: there is no option {error.option_name}; see {path} --help")
    if kind == "MissingParameter":
        return UserError(f"{path}: {_called(error.param)} is missing; write it, as in: {usage}")
    if kind == "BadParameter" and error.param is not None:
        what = error.message.rstrip(".").removeprefix("Input ").partition(", ")[0]
        return UserError(f"{path}: {_called(error.param)} {what}; correct it")
    if extra := re.search(r"unexpected extra argument\S* \((.*)\)", error.message):
        takes = [_called(one) for one in command.params if one.param_type_name == "argument"]
        if len(takes) == 1:
            return UserError(f"{path} takes one {takes[0]}, and {extra[1]} is one too many; run it once for each")
        what = f"takes {' and '.join(takes)} alone" if takes else "takes only options"
        return UserError(f"{path} {what}; remove {extra[1]}")
    if wrong := re.search(r"No such command '(.*?)'\.", error.message):
        near = difflib.get_close_matches(wrong[1], command.commands, n=1)
        if near:
            return UserError(f"{path}: there is no command {wrong[1]}; did you mean {path} {near[0]}?")
        return UserError(f"{path}: there is no command {wrong[1]}; see {path} --help")
    return UserError(f"{path}: {_small(error.format_message())}; see {path} --help")


def _called(param: Any) -> str:
    """An option as it is typed, an argument as the help names it."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.rstrip("_").upper())
    return str(max(param.opts, key=len))


def _small(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]
