"""Faults of the project that asks others: somebody waits for an answer and is killed, or the answer goes wrong."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time

import fault_shop
from fault_kinds import about
from fault_plan import EVERY, OTHERS
from fault_project import Project

OFTEN = {"kill_job": 8, "disk_full": 8, "flipped_store": 4, "truncated_file": 4, "kill_in_flight": 2, "server_fails": 2}
"""Kinds that come several times in a round, so that two rounds have each rule's job meet a kill and a full disk."""
LEFT_OUT = ("flipped_result", "flipped_state", EVERY)
"""Kinds about files that are made as in the other projects, and the one that has a plan of its own."""
MOODS = ("401", "429", "503", "cut", "gone")


def plan(kinds: list[str], count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Kinds and their seeds, in turn."""
    turn = [name for name in kinds if name not in LEFT_OUT for _ in range(OFTEN.get(name, 1))]
    nexts = {name: itertools.count(OTHERS + seed) for name in turn}
    return [(name, next(nexts[name])) for name in itertools.islice(itertools.cycle(turn), count)]


def _asks(project: Project) -> str:
    """Make sure that the rule asks; what it asks for."""
    project.undo({project.rule}, store=True)
    return fault_shop.CAPTION if project.rule == "caption_image" else fault_shop.PICTURE


def _moods(project: Project, *moods: str) -> None:
    (project.template.server.shop / f"{project.key}.mood").write_text(" ".join(moods))


@about("asking")
def kill_in_flight(project: Project, chance: random.Random) -> str:
    """SIGKILL of a job that waits for an answer: it was asked for, and comes to nobody."""
    kind = _asks(project)
    number = chance.randint(1, 2) if project.rule == "generate_picture" else 1
    _moods(project, *["well"] * (number - 1), "late")
    started = project.start()
    until = time.monotonic() + 60
    while len(project.asked(kind)) < number and time.monotonic() < until:
        time.sleep(0.005)
    if len(project.asked(kind)) < number:
        raise AssertionError("nothing was asked for")
    time.sleep(delay := chance.uniform(0, fault_shop.HELD / 2))
    for pid in project.pids(project.rule):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run = project.wait(started)
    return f"{project.rule} {delay:.2f} s after request {number}: Snakemake ended with {run.code}"


@about("asking")
def server_fails(project: Project, chance: random.Random) -> str:
    """One answer is a refusal of the key, a request to wait, an error, half an answer or none."""
    kind = _asks(project)
    _moods(project, mood := chance.choice(MOODS))
    run = project.run()
    if not project.asked(kind):
        raise AssertionError("nothing was asked for")
    return f"{project.rule}, {mood}: Snakemake ended with {run.code}"
