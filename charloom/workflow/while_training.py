"""Draws previews in the process that trains, as each checkpoint is saved.

So nothing has to be started or compiled a second time. What is drawn, and under which key it is stored, is decided by
:mod:`charloom.workflow.samples`.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core import files
from charloom.core.errors import Stopped, UserError, reason
from charloom.core.store import Store
from charloom.workflow import strengths
from charloom.workflow.samples import KIND, Painter, Previews, Wanted, precision_of

START = 20.0
"""Seconds that ``sample_strength`` needs on a GPU before its first picture. A sweep that takes no longer is drawn while
the model is here, though another checkpoint may turn out to be the one to ship."""


class WhileTraining:
    """Draws each checkpoint's previews, as a callback of :func:`charloom.train.loop.train`.

    What cannot be drawn here is left to ``sample_checkpoint``, with one log line; training goes on in any case.

    Args:
        previews: the character's previews.
        siblings: what is wanted: ``steps`` and ``prompts`` (name to settings); perhaps a ``sweep`` of strengths
            (``step``, ``strengths``, ``prompts``) of the checkpoint that is likely to be chosen.
        newest: folder that shows the newest checkpoint's previews.
    """

    def __init__(
        self,
        previews: Previews,
        siblings: dict[str, Any],
        store: Store,
        device: Any,
        log: Callable[[str], None],
        newest: Path,
    ) -> None:
        self.previews, self.siblings, self.store = previews, siblings, store
        self.device, self.log, self.newest = device, log, newest
        self._painter: Painter | None = None
        self._borrowed: Any = None
        self._reading: Reading | None = None
        self._waiting: list[Wanted] = []
        self._each = float("inf")  # seconds for a picture, once some were drawn
        self._off = not siblings["prompts"]

    def __call__(self, step: int, checkpoint: Path | None, engine: Any, asked: Callable[[], bool]) -> None:
        """Draw the previews of ``checkpoint``, which ``engine`` has just trained; None is the bare base.

        Once ``asked()`` is true, the training is to end, and the remaining previews are left out.
        """
        if asked() or self._off or step not in self.siblings["steps"]:
            return
        try:
            wanted = self.previews.of(step, self.siblings["prompts"], checkpoint)
            missing = self._missing(wanted)
            if checkpoint is None and engine.cuda:
                # Together with the first checkpoint's: preparing to draw takes as long as many steps.
                self._waiting = missing
                engine.when_settled = lambda: self._read_ahead(engine)
                return
            missing, self._waiting = self._waiting + missing, []
            # The sweep by itself: on the CPU, pictures of a batch may depend on each other in the last bit.
            if parts := [part for part in (missing, self._sweep(step, checkpoint, wanted)) if part]:
                self._draw(parts, engine, asked)
            for one in wanted:
                self.store.fetch(KIND, one.key, ".png", self.newest / f"{one.prompt}.png")
        except Stopped:
            self.log(f"stopped while drawing; the other previews of step {step} come with the next run")
            return
        except Exception as error:
            # A preview is never worth a training run.
            self._off = True
            self.release()
            self.log(f"previews are drawn after training: {reason(error)}")
        with contextlib.suppress(OSError, UserError):
            files.write_json(self.newest / "step.json", {"step": None if self._off else step})

    def _missing(self, wanted: list[Wanted]) -> list[Wanted]:
        return [one for one in wanted if not self.store.has(KIND, one.key, ".png")]

    def _sweep(self, step: int, checkpoint: Path | None, previews: list[Wanted]) -> list[Wanted]:
        """The pictures of the strength sweep besides ``previews``, if this is its checkpoint and they do not take long.

        How long they take is known from the pictures that this process has drawn; before any, the sweep is left out.
        """
        sweep = self.siblings.get("sweep")
        if not sweep or step != sweep["step"]:
            return []
        drawn = {one.key for one in previews}  # at its own strength a prompt's picture is its preview
        wanted = self._missing(strengths.all_wanted(self.previews, step, sweep, checkpoint))
        wanted = [one for one in wanted if one.key not in drawn]
        return wanted if len(wanted) * self._each <= START else []

    def release(self) -> None:
        """Release everything: the engine moves the weights or is done, or nothing more is drawn."""
        if self._reading:
            self._reading.end()
        self._painter = self._borrowed = self._reading = None
        gc.collect()  # compiled blocks refer to themselves

    def _draw(self, parts: list[list[Wanted]], engine: Any, asked: Callable[[], bool]) -> None:
        from charloom.engine.previews import room_for

        every = [one for part in parts for one in part]
        precision = precision_of(every[0].settings)
        engine.make_room(max(room_for(one.settings["width"], one.settings["height"]) for one in every))
        if self._painter is None:
            self._painter = self._new_painter(precision, engine)
        painter, began = self._painter, time.monotonic()
        painter.vae.to(self.device)
        with self._borrowed.in_place() if self._borrowed else contextlib.nullcontext():
            for part in parts:
                painter.draw(part, asked)
        if self._borrowed:
            painter.adapters.remove()
            painter.vae.to("cpu")
        self._each = (time.monotonic() - began) / len(every)

    def _new_painter(self, precision: str, engine: Any) -> Painter:
        from charloom.engine import borrow
        from charloom.engine import previews as previewing

        lock, model = self.previews.lock, None
        # Compiling may have failed in the meantime.
        options = replace(engine.options, compile=engine.compiled)
        if engine.cuda:
            refuse(engine)
            if self._reading:
                model, waiting = self._reading.result()
                self._reading = None
            else:
                model, waiting = self._reader(precision, engine, self.device)(lambda: True)
            self._borrowed = borrow.Borrowed(model, waiting, engine.model)
            engine.before_restart = self.release
            previewing.ready(model, self.device, options)
        return Painter(lock, self.store, self.device, self.log, options, precision, model)

    def _read_ahead(self, engine: Any) -> None:
        """Read the plain weights during the first steps, which leave the CPU idle once everything is compiled."""
        import torch

        with contextlib.suppress(Exception):  # reported when something is to be drawn
            refuse(engine)
            engine.before_restart = self.release
            precision = precision_of(next(iter(self.siblings["prompts"].values())))
            # Not on the GPU, where the trainer may be recording a CUDA graph.
            self._reading = Reading(self._reader(precision, engine, torch.device("cpu")))

    def _reader(self, precision: str, engine: Any, device: Any) -> Callable[[Callable[[], bool]], tuple[Any, Any]]:
        """What reads the plain weights while they are wanted; checks first that they fit the trained model's places.

        Quantised by ``device``; for :class:`charloom.engine.borrow.Borrowed`.
        """
        import torch

        from charloom.engine import borrow
        from charloom.engine import previews as previewing

        lock = self.previews.lock
        root, single = locks.locate(lock, "transformer", self.store), locks.single_file(lock, self.store)
        model = previewing.empty_transformer(root, precision)
        borrow.places(model, engine.model)

        def read(wanted: Callable[[], bool]) -> tuple[Any, Any]:
            weights = previewing.stream(model, root, single, device, torch.bfloat16)
            return model, borrow.in_main_memory(model, weights, wanted=wanted)

        return read


class Reading:
    """``read(wanted)`` in a thread; ``wanted()`` is false once nobody waits for its result."""

    def __init__(self, read: Callable[[Callable[[], bool]], Any]) -> None:
        self._ended = threading.Event()
        self._made: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(read,))
        self._thread.start()

    def _run(self, read: Callable[[Callable[[], bool]], Any]) -> None:
        try:
            self._made = read(lambda: not self._ended.is_set())
        except Exception as error:
            self._error = error

    def result(self) -> Any:
        """What was read, once the thread has ended; no reference is kept here."""
        self._thread.join()
        if self._error:
            raise self._error
        made, self._made = self._made, None
        return made

    def end(self) -> None:
        """Wait until the thread has ended, and forget what it read: in this thread, because memory is unpinned."""
        self._ended.set()
        with contextlib.suppress(Exception):
            self.result()


def refuse(engine: Any) -> None:
    """Raise CannotBorrow if the trained model has no room for plain weights."""
    import torch

    from charloom.engine import borrow

    if engine.swap:
        raise borrow.CannotBorrow("some blocks live in main memory")
    if engine.model.all_x_embedder["2-1"].weight.dtype != torch.bfloat16:
        raise borrow.CannotBorrow("training computes in fp32, previews in bf16")
