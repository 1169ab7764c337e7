"""``charloom draw``: pictures of a character for any prompts, with everything loaded once."""

from __future__ import annotations

import math
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from charloom.cli.drawing import Lora, Loras, Manner, Table, untrained
from charloom.cli.naming import known
from charloom.config import project
from charloom.config.character import Character
from charloom.core import words
from charloom.core.errors import UserError
from charloom.core.files import expanded
from charloom.core.layout import WORK, results
from charloom.core.store import Store

SIDES = 64, 4096
"""Shortest and longest side of a picture in pixels."""
LARGEST_SEED = 2**63 - 1
"""The largest that torch accepts."""
MANY = 20
"""From this many pictures on, blocks are compiled on a GPU unless told otherwise; a few are faster without."""
HELP = """\
a line is a prompt, with {trigger}; commands:
  /seed 5 (or next)   /count 4   /steps 36   /strength 0.8   /size 1920x1088
  /checkpoint 2000 (or final)   /style ink=0.8 (or none)   /show   /quit"""


def size(text: str) -> tuple[int, int]:
    """``1024`` or ``1920x1088`` in pixels.

    Raises:
        UserError: no such size, or sides that are not multiples of 16.
    """
    found = re.fullmatch(r"(\d{1,5})(?:\s*[xX×]\s*(\d{1,5}))?", text.strip())
    if not found:
        raise UserError(f"--size {text}: give pixels as 1024 or 1920x1088")
    sides = int(found[1]), int(found[2] or found[1])
    if any(side % 16 or not SIDES[0] <= side <= SIDES[1] for side in sides):
        near = "x".join(str(min(SIDES[1], max(SIDES[0], round(side / 16) * 16))) for side in sides)
        raise UserError(
            f"--size {text}: sides must be multiples of 16 from {SIDES[0]} to {SIDES[1]}; take {near}, the nearest"
        )
    return sides


def filled(text: str, character: Character) -> str:
    """A prompt with the trigger filled in.

    Raises:
        UserError: it is empty, or the placeholder is misspelt.
    """
    tidy = words.tidy(text)
    if not tidy:
        raise UserError("the prompt is empty; write what to draw, with {trigger} for the character")
    if meant := words.misspelt_placeholder(tidy):
        raise UserError(f"{meant} would be drawn literally; did you mean {words.PLACEHOLDER}?")
    return tidy.replace(words.PLACEHOLDER, character.trigger)


def numbers(text: str, what: str) -> list[int]:
    """Steps with commas between them.

    Raises:
        UserError: something else.
    """
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"{what} {text}: give steps with commas between them, e.g. 2000,2500,3000") from None


def changed(how: Manner, command: str, loras: Loras) -> Manner:
    """``how`` as changed by a line such as ``/seed 5``.

    Raises:
        UserError: there is no such command, or its value is wrong.
    """
    try:
        name, *values = shlex.split(command[1:]) or [""]
    except ValueError:
        raise UserError(f"{command}: a quotation mark is not closed; close it") from None
    value = values[0] if values else ""
    try:
        if name == "seed":
            if value != "next" and not 0 <= int(value) <= LARGEST_SEED:
                raise UserError(f"/seed {value}: give next, or a number from 0 to {LARGEST_SEED}")
            return replace(how, seed=None if value == "next" else int(value))
        if name in ("count", "steps"):
            if (number := int(value)) < 1:
                raise UserError(f"/{name} {value}: give a number of 1 or more")
            return replace(how, **{name: number})
        if name == "strength":
            if not (number := float(value)) >= 0 or math.isinf(number):
                raise UserError(f"/strength {value}: give a number of 0 or more")
            return replace(how, strength=number)
        if name == "size":
            width, height = size(value)
            return replace(how, width=width, height=height)
        if name == "style":
            return replace(how, styles=() if value == "none" else tuple(loras.style(one) for one in values))
    except ValueError:
        raise UserError(f"/{name} {value}: give a number") from None
    raise UserError(f"/{name}: no such command; use one of these:\n{HELP}")


def shown(how: Manner, table: Table) -> str:
    """The settings in a line."""
    parts = [table.loras[0].name, f"{how.width}x{how.height}", f"{how.steps} steps", f"strength {how.strength:g}"]
    parts += [f"seed {'next' if how.seed is None else how.seed}", f"count {how.count}"]
    return ", ".join(parts + [f"{one.name} at {strength:g}" for one, strength in how.styles])


def warn(text: str, character: Character, say: Callable[[str], None]) -> None:
    """Warn if a prompt for the character's own LoRA lacks the trigger."""
    if not character.shown_by(text):
        lost = "be in another style" if character.is_style else "show somebody else"
        say(f"note: no {words.PLACEHOLDER} in the prompt, so it may {lost}: {text[:60]}")


def repl(table: Table, how: Manner, loras: Loras, lines: Iterable[str], own: bool = True) -> None:
    """Draw what is typed, until the end of ``lines`` or ``/quit``. A mistake prints a line and loses nothing."""
    for line in lines:
        text = line.strip()
        try:
            if text in ("/quit", "/exit", "/q"):
                return
            if text in ("/help", "/?"):
                table.say(HELP)
            elif text == "/show":
                table.say(shown(how, table))
            elif text.startswith("/checkpoint"):
                step = text.removeprefix("/checkpoint").strip()
                one = loras.newest() if step == "final" else loras.checkpoint(numbers(step, "/checkpoint")[0])
                table.loras, own = [one], True
            elif text.startswith("/"):
                how = changed(how, text, loras)
            elif text:
                prompt = filled(text, table.character)
                if own and table.loras[0].path:
                    warn(prompt, table.character, table.say)
                table.draw([prompt], how)
        except UserError as error:
            table.say(f"error: {error}")


def typed() -> Iterator[str]:
    """Lines of standard input; on a terminal with a prompt and a history."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    try:
        import readline  # noqa: F401 (gives input() its history)
    except ImportError:
        pass
    while True:
        try:
            yield input("draw> ")
        except EOFError:
            print()
            return


def seeded(given: int | None) -> int | None:
    """A seed that torch accepts; checked here because the help would print an option's ``max``."""
    if given is not None and given > LARGEST_SEED:
        raise typer.BadParameter(f"is larger than {LARGEST_SEED}")
    return given


def draw(
    name: Annotated[str, typer.Argument(help="a character")],
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT …", help='what to draw, with {trigger}; "…" around each')
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="file with a prompt on each line; # starts a comment")] = None,
    interactive: Annotated[bool, typer.Option("--repl", help="type prompts, one per line; /help lists more")] = False,
    steps: Annotated[int | None, typer.Option(min=1, max=200, help="sampler steps; the previews' by default")] = None,
    strength: Annotated[float, typer.Option(min=0.0, help="strength of the LoRA; 1 is full")] = 1.0,
    seed: Annotated[
        int | None, typer.Option(min=0, callback=seeded, help="seed of the first picture; by default a new one")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="pictures of each prompt, seed after seed")] = 1,
    size_: Annotated[str | None, typer.Option("--size", help="1024 or 1920x1088; the previews' by default")] = None,
    style: Annotated[
        list[str] | None, typer.Option(help="a style on top: ink, ink=0.8 or file.safetensors=0.8; may be repeated")
    ] = None,
    checkpoint: Annotated[int | None, typer.Option(min=0, help="draw with this step; 0 is the base alone")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="steps side by side in one picture, e.g. 2000,2500,3000; 0 is the base alone")
    ] = None,
    lora: Annotated[Path | None, typer.Option(help="draw with this LoRA, of any trainer, instead")] = None,
    sheet: Annotated[bool, typer.Option("--sheet", help="also put all pictures on one, with labels")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder; results/NAME/drawn by default")] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help=f"compile on a GPU; if left out, from {MANY} pictures on"),
    ] = None,
) -> None:
    """Draw a character now: with the finished LoRA, or the newest checkpoint. Nothing is ever overwritten."""
    name = known(name)
    _check_options(prompt or [], interactive, sheet, checkpoint, checkpoints, lora)
    workflow = project.as_last_run(Path(), name)
    character = workflow.character(name)
    base = workflow.bases[character.base]
    texts = [filled(text, character) for text in [*(prompt or ()), *_lines(prompts)]]
    if not texts and not interactive:
        raise UserError('there is no prompt; add one, e.g. "a medium shot photo of {trigger}, city street", or --repl')
    sample = character.recipe["sample"]
    width, height = size(size_) if size_ else (sample["width"], sample["height"])
    import logging

    # Not above: it imports safetensors, and charloom doctor is to name a package that is missing.
    from charloom.base import locks
    from charloom.workflow import studio as studios

    # It warns of what nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    store, say = Store(workflow.store), _say
    made = [WORK.lock(base.name), results(name).final, *results(name).checkpoints()]
    if (checkpoint, checkpoints, lora) == (None, None, None) and not any(path.is_file() for path in made):
        raise untrained(character)
    lock = studios.lock_of(base)
    with ExitStack() as stack:
        loras = Loras(workflow, character, store, lock, Path(stack.enter_context(tempfile.TemporaryDirectory())), say)
        columns = _columns(loras, checkpoint, checkpoints, lora)
        how = Manner(
            width,
            height,
            steps or sample["steps"],
            sample["guidance"],
            strength,
            seed,
            count,
            tuple(loras.style(one) for one in style or ()),
        )
        for text in texts:
            if columns[0].path and not lora:
                warn(text, character, say)
        from charloom.workflow import gallery_slices

        many = len(texts) * count * len(columns) >= MANY
        studio = studios.Studio(
            character,
            base,
            store,
            workflow.device,
            lambda line: print(f"  {line}", file=sys.stderr),
            stay=interactive,
            compiled=(interactive or many) if compiled is None else compiled,
        )
        table = Table(
            character,
            {**gallery_slices.about(character, base), "shift": locks.shift(lock)},
            studio,
            columns,
            output or results(name).root / "drawn",
            say,
        )
        drawn = table.draw(texts, how) if texts else []
        if len(columns) > 1:
            say(f"{table.compare(drawn)}  side by side")
        if sheet and drawn:
            say(f"{table.sheet(drawn)}  all on one")
        if interactive:
            say(f"{shown(how, table)}; /help for commands")
            repl(table, how, loras, typed(), own=not lora)


def _check_options(
    prompt: Sequence[str],
    interactive: bool,
    sheet: bool,
    checkpoint: int | None,
    checkpoints: str | None,
    lora: Path | None,
) -> None:
    """Refuse options that contradict each other, and a prompt that lacks its quotes."""
    if len(prompt) > 1 and all(map(_one_word, prompt)):
        together = shlex.quote(" ".join(prompt))
        raise UserError(f"{len(prompt)} prompts of one word each; put quotes around the prompt: {together}")
    if sum(one is not None for one in (checkpoint, checkpoints, lora)) > 1:
        raise UserError("--checkpoint, --checkpoints and --lora: give one of them")
    if interactive and checkpoints is not None:
        raise UserError(
            "--repl: draws with one checkpoint at a time; leave the steps out and change it there by /checkpoint N"
        )
    if sheet and checkpoints is not None:
        raise UserError("--sheet: --checkpoints puts the pictures on one already; leave --sheet out")


def _columns(loras: Loras, checkpoint: int | None, checkpoints: str | None, lora: Path | None) -> list[Lora]:
    """What to draw with: several checkpoints are columns of one picture."""
    if checkpoints is not None:
        return [loras.checkpoint(step) for step in numbers(checkpoints, "--checkpoints")]
    if checkpoint is not None:
        return [loras.checkpoint(checkpoint)]
    return [loras.file(expanded(lora)) if lora else loras.newest()]


def _one_word(prompt: str) -> bool:
    """Whether a prompt is a single word; a sentence in Chinese, which has no spaces, is not."""
    return prompt.replace(words.PLACEHOLDER, "").isascii() and not re.search(r"\s", prompt.strip())


def _say(line: str) -> None:
    print(line, flush=True)


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = (sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")).splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; correct the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); save it as UTF-8") from None
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
