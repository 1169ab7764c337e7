"""Lines and bars on a terminal, drawn by rich; plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, TextIO

from . import words
from .state import Line, Run

LOOK = 0.5
"""Seconds between two reads of the trainers' progress."""


class Plain:
    """Plain lines as they come, without bars."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, lines: list[Line]) -> None:
        """Write lines; characters that the stream cannot encode become question marks."""
        for line in lines:
            try:
                print(line.text, file=self._stream, flush=True)
            except UnicodeEncodeError:
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                print(line.text.encode(encoding, "replace").decode(encoding), file=self._stream, flush=True)

    def start(self, run: Run) -> None:
        """There are no bars to show."""

    def stop(self) -> None:
        """There are no bars to remove."""


class Live(Plain):
    """Lines with bars below them: for the whole run, each training, and the previews."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live: Any = None
        self._run: Run | None = None
        self._looked = 0.0
        self._trainings: list[Any] = []

    def write(self, lines: list[Line]) -> None:
        """Write lines above the bars."""
        from rich.text import Text

        for line in lines:
            self._console.print(Text(line.text, style=line.style))

    def start(self, run: Run) -> None:
        """Show the bars from now on."""
        if self._live is None:
            from rich.live import Live as Moving

            self._run = run
            self._live = Moving(
                console=self._console, get_renderable=self.bars, refresh_per_second=4, transient=True,
                redirect_stdout=False, redirect_stderr=True,
            )  # fmt: skip
            self._live.start()

    def stop(self) -> None:
        """Take the bars away; the lines stay."""
        if self._live is not None:
            with contextlib.suppress(Exception):
                self._live.stop()
            self._live = None

    def bars(self) -> Any:
        """The bars as they are now."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        run = self._run
        assert run is not None, "start() comes first"
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked, self._trainings = now, run.trainings()
        rows: list[tuple[str, float, float, str, list[str]]] = []
        left, more = run.left()
        took = words.seconds(now - run.began)
        rest = (
            f"{words.seconds(left)}{' or more' if more else ''} left" if left or not more else "time left unknown yet"
        )
        rows.append(("all", run.done, run.total, f"{run.done}/{run.total} jobs", [took, rest]))
        for name, told in self._trainings:
            parts = [f"loss {told.smoothed:.4f}" if told.smoothed is not None else "first step ..."]
            if told.doing:
                parts.append(told.doing)
            elif told.eta is not None:
                parts.append(f"{words.seconds(told.eta)} left")
            if told.seconds_per_step:
                parts.append(words.speed(told.seconds_per_step))
            if told.previews_done:
                parts.append(f"{told.previews_done} previews")
            rows.append((name, told.step, told.steps, f"step {told.step}/{told.steps}", parts))
        stage = run.stages.get(words.PREVIEWS)
        if stage and stage.running:
            rows.append(("previews", stage.done, stage.total, f"{stage.done}/{stage.total}", []))
        busy = [rule.replace("_", " ") for rule, one in list(run.stages.items()) if one.running]
        # Whatever does not fit is left out, the least important first; names and numbers are never cut.
        width = self._console.width
        bar = 20 if width >= 100 else 10
        room = width - bar - 3 - max(len(row[0]) for row in rows) - max(len(row[3]) for row in rows)
        table = Table.grid(padding=(0, 1))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for name, done, total, count, parts in rows:
            while parts and len(", ".join(parts)) > room:
                parts = parts[:-1]
            table.add_row(name, ProgressBar(total=max(total, 1), completed=done, width=bar), count, ", ".join(parts))
        if busy and not self._trainings:
            table.add_row("now", "", "", ", ".join(busy[:2]) + (" ..." if busy[2:] else ""))
        return table


def silence(stream: TextIO) -> None:
    """Discard everything that is still written to ``stream``, whoever writes it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def of(stream: TextIO, color: bool = True) -> Plain:
    """The display for a stream: with bars on a terminal that can move its cursor."""
    if color and getattr(stream, "isatty", lambda: False)():
        with contextlib.suppress(ImportError):
            made = Live(stream)
            if made._console.is_terminal and not made._console.is_dumb_terminal:
                return made
    return Plain(stream)
