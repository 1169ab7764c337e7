"""``charloom stop`` and ``ship``: stop a training from another terminal, or take a checkpoint as the result."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from charloom.config import project, yaml
from charloom.config.character import Character
from charloom.core import files, last_run
from charloom.core.errors import UserError
from charloom.core.layout import WORK, results
from charloom.core.store import Store
from charloom.train import progress, stopping
from charloom.workflow import studio

PATIENCE = 120.0
"""Seconds to wait for a trainer to stop: its step, a step of its sampler, and writing the state."""
SHIP = re.compile(r"^ship:[ \t]*[^#\r\n]*?(?=[ \t]*(#.*)?\r?$)", re.MULTILINE)


def stop(root: Path, name: str, say: Callable[[str], None], patience: float = PATIENCE) -> None:
    """Ask the trainer of a character to stop, and wait until it has.

    Raises:
        UserError: nothing is being trained.
    """
    folder = results(name, root).training
    told = progress.read(folder)
    if not (told and running(told)) and progress.started(folder):
        _stop_before_first_step(folder, name, say, patience)
        return
    if told is not None and told.state == progress.WAITING:
        raise UserError(
            f"{name}: step {told.step} of {told.steps} is saved, and the next job of this training has not begun; to "
            f"stop here, press Ctrl-C where snakemake runs; to go on, run {last_run.again(root, name, name)}"
        )
    if told is None or not running(told):
        how = f" (the last one {ending(told)})" if told else ""
        raise UserError(f"{name}: no training is running{how}; start one: {last_run.again(root, name, name)}")
    stopping.request(folder)
    say(f"{name}: asked to stop at step {told.step} of {told.steps} ...")
    ends = time.monotonic() + patience
    while told and running(told) and time.monotonic() < ends:
        time.sleep(0.1)
        told = progress.read(folder) or told
    if running(told):
        doing = "drawing" if told.doing else "in its step"
        say(f"{name}: still {doing}, at step {told.step}; it stops as soon as that is done")
    else:
        say(f"{name}: {ending(told)}")


def _stop_before_first_step(folder: Path, name: str, say: Callable[[str], None], patience: float) -> None:
    before = progress.read(folder)
    stopping.request(folder)
    say(f"{name}: asked to stop; it is loading torch and the base, and ends after its first step ...")
    ends = time.monotonic() + patience
    while progress.started(folder) and time.monotonic() < ends:
        time.sleep(0.1)
    told = progress.read(folder)
    if progress.started(folder):
        say(f"{name}: still loading; it ends after its first step")
    elif told is None or (before is not None and told.started == before.started):
        say(f"{name}: it ended before its first step; its log says why")
    else:
        say(f"{name}: {ending(told)}")


def running(told: progress.Progress) -> bool:
    """Whether the trainer is running, as far as that is known; on a cluster it may be on another machine."""
    if told.state != progress.RUNNING:
        return False
    import psutil

    return time.time() - told.updated < 600 or psutil.pid_exists(told.pid)


def ending(told: progress.Progress) -> str:
    """How a training has ended, in words."""
    where = f"at step {told.step} of {told.steps}"
    if told.state == progress.STOPPED:
        return f"stopped after step {told.step} of {told.steps}; all is saved: run snakemake again to go on"
    if told.state == progress.FAILED:
        return f"failed {where}: {told.problem}"
    if told.state == progress.RUNNING:
        return f"was killed {where}; run snakemake again to go on from the last checkpoint"
    return f"finished {where}" if told.state == progress.FINISHED else f"waits for snakemake {where}"


def ship(root: Path, name: str, step: int | None, say: Callable[[str], None]) -> None:
    """Write into the character's file that a checkpoint is good, and stop the trainer if it runs.

    Raises:
        UserError: there is no such checkpoint, or the file has an unusual layout.
    """
    workflow = project.as_last_run(root, name, ready=False)
    character = workflow.character(name)
    there = saved(root, character, Store(root / workflow.store))
    if not there:
        first = character.saved_steps[0]
        raise UserError(f"{name}: there is no checkpoint yet; wait for the first, at step {first}")
    if step is not None and step not in there:
        raise UserError(f"{name}: there is no checkpoint of step {step}; use one of {', '.join(map(str, there))}")
    chosen = there[-1] if step is None else step
    path = root / character.label
    write_ship(path, character.label, chosen)
    say(f"{character.label}: ship: {chosen}. Nothing is trained after that step; remove the line to train on.")
    told = progress.read(results(name, root).training)
    if told and running(told) and told.step < told.steps:
        stop(root, name, say)
    say(f"To make the file and the report: {last_run.again(root, name, name)}")


def saved(root: Path, character: Character, store: Store) -> list[int]:
    """Steps of the checkpoints that exist, including those of a trainer that is still running ahead."""
    lock = files.read_mapping(root / WORK.lock(character.base))
    found = set(studio.checkpoints(character, store, lock, root))
    if told := progress.read(results(character.id, root).training):
        found |= {step for step in (*character.saved_steps, told.saved) if 0 < step <= told.saved}
    return sorted(found)


def write_ship(path: Path, label: str, step: int) -> None:
    """Set ``ship:`` in a character's file; every other byte stays, comments included.

    Raises:
        UserError: that would change something else in the file.
    """
    before = yaml.read_yaml(path, label)
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"ship: {step}"
    if SHIP.search(text):
        new = SHIP.sub(line, text, count=1)
    else:
        new = text + ("" if text.endswith("\n") or not text else end)
        new += f"{line}    # good enough: written by charloom ship; remove it to train on{end}"
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(new, encoding="utf-8", newline="")
        if dict(yaml.read_yaml(part, label)) != {**before, "ship": step}:
            raise UserError(f"{label}: has an unusual layout; add the line 'ship: {step}' yourself")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
