"""A process of a tiny run: what the training script does, for tests. ``rank_worker.py <json of what to train>``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from train_helpers import job_of, quiet

from charloom.core.store import Store
from charloom.engine.options import EngineOptions
from charloom.train import job as jobs
from charloom.train import loop, meeting, ranks
from charloom.train import state as states


def main() -> None:
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    device = asked.get("device", "cpu")
    rank = meeting.told()
    silent = rank is not None and rank[0] > 0
    if seconds := asked.get("saves_for"):
        real = states.write
        states.write = lambda *state: time.sleep(seconds) or real(*state)
    job = job_of(
        Path(asked["manifest"]),
        asked["recipe"],
        meeting.unread_folder() if silent else Path(asked["log"]),
        device=device,
        ranks=ranks.joined(torch.device(device)),
        engine=EngineOptions(deterministic=True),
        make_engine=dying(rank, asked["dies"]) if "dies" in asked else jobs.build_engine,
    )
    loop.train(job, Store(asked["store"]), asked["until"], quiet, quiet)


def dying(rank, when):
    """An engine with which rank ``when[0]`` is killed at its ``when[1]``-th batch."""

    def build(*arguments):
        engine = jobs.build_engine(*arguments)
        accumulate, count = engine.accumulate, iter(range(10**6))

        def counting(inputs):
            if rank and rank[0] == when[0] and next(count) == when[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            return accumulate(inputs)

        engine.accumulate = counting
        return engine

    return build


if __name__ == "__main__":
    meeting.run(main)
