"""Get the checkpoint of a step: from the store, or by training from the last stored state.

With ``--gpus`` above 1 that many processes train together, each of them running this script again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from charloom.base import locks
from charloom.core import files, garbage
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.engine.options import EngineOptions
from charloom.train import meeting, progress, stopping
from charloom.train.keys import METRICS
from charloom.workflow import devices, jobs, launch, training
from charloom.workflow.arguments import path, value


def parsed() -> argparse.Namespace:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("manifest", type=Path, help="dataset.json")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument("--transformer", type=Path, required=True, help="prepared transformer")
    parser.add_argument("--record", type=files.read_json, required=True, help="record of the prepared transformer")
    parser.add_argument("--step", type=int, required=True, help="step of the checkpoint to write")
    parser.add_argument(
        "--until", type=int, required=True, help="step to which this start of the trainer may run ahead"
    )
    parser.add_argument("--every", type=int, required=True, help="optimizer steps between checkpoints")
    parser.add_argument("--last", type=int, required=True, help="last step of the run")
    parser.add_argument("--attempt", type=int, default=1, help="above 1 if Snakemake tries the job again")
    parser.add_argument(
        "--siblings", type=value, default={"steps": [], "prompts": {}}, help="previews to draw on the way, JSON"
    )
    parser.add_argument("--init", type=path, help="LoRA to start from")
    parser.add_argument("--engine", type=value, default={}, help="how the GPU is used, JSON")
    gpus = int(os.environ.get(jobs.GPUS, "1"))
    parser.add_argument("--gpus", type=int, default=gpus, help="GPUs for this one training, if a step has the samples")
    return parser.parse_args()


class Segment:
    """One start of the trainer; with several GPUs, this process's part of it (``rank``: number, count)."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.slice, self.store = arguments, arguments.settings, arguments.store
        self.rank = meeting.told()
        self.silent = self.rank is not None and self.rank[0] > 0
        title = self.slice["header"]["title"]
        self.log = jobs.Log(None if self.silent else arguments.log, title, mode="a" if self.rank else "w")
        shift = locks.shift(arguments.lock)
        self.settings = training.settings_of(self.slice, every=arguments.every, last=arguments.last, shift=shift)
        self.run = training.key(self.settings, self.slice, arguments.manifest, arguments.record, arguments.init)
        self.results = Results(arguments.manifest.parent)
        self.trial = int(os.environ.get(training.UNTIL, "0"))

    def serve(self) -> None:
        """Put the checkpoint in place, and the curve; trains if they are not stored."""
        self.log.quietly(f"run {self.run}")
        given, key = self.arguments, training.entry(self.run, self.arguments.step)
        jobs.serve(
            self.store, training.KIND, key, ".safetensors", given.output, training.lock(self.run), self.make_noticed
        )
        # Even if nothing was trained: the curve on disk may be from a run with other settings.
        if not self.store.fetch(METRICS, training.entry(self.run, given.last), ".jsonl", self.results.metrics):
            self.store.fetch(METRICS, key, ".jsonl", self.results.metrics)

    def make_noticed(self) -> None:
        """Train, and remember that this process trains, so that the next start knows if this one was killed."""
        stopping.begin(self.results.training, self.arguments.attempt)
        count = min(self.arguments.gpus, self.settings.train.draws_per_step)
        with progress.noticed(self.results.training) as killed:
            if killed:
                os.environ[training.APART] = "1"
                self.log("the last start was killed without a word: to save memory, previews are drawn after training")
            if count > 1:
                self.make_together(count)
            else:
                self.make()

    def make_together(self, count: int) -> None:
        """Train in ``count`` processes, on a GPU each if there are GPUs."""
        places = devices.lease(self.arguments.device, count, self.log)
        self.log(f"training on {count} GPUs" if places else f"training in {count} processes")
        os.environ[devices.LEASED] = "1"
        try:
            launch.run(launch.again(), count, places, self.log.quietly)
        except UserError as error:
            progress.failed(self.results.training, str(error))
            raise

    def make(self) -> None:
        """Train in this process."""
        given = self.arguments
        self.report(f"training to step {given.until}; loading torch and the base")
        device = jobs.torch_device(given.device, given.threads, lock=given.lock)

        from charloom.engine import compile as compiling
        from charloom.train.loop import train

        self.log.quietly(f"torch loaded, on {device}")
        options = EngineOptions.from_values(given.engine)
        if device.type == "cuda" and options.compile:
            compiling.start_workers()  # while the base is loaded
        drawing = self.drawing(device)
        job = self.job(device, options, drawing)
        garbage.loaded()  # this process stays for hours
        try:
            train(job, self.store, given.until, on_progress=self.report, log=self.report)
        finally:
            drawing.release()
        # A pruned store may hold the last step and lack this one.
        train(job, self.store, given.step, on_progress=self.report, log=self.report)

    def drawing(self, device: Any) -> Any:
        """What draws previews after each checkpoint."""
        from charloom.workflow import samples
        from charloom.workflow.while_training import WhileTraining

        given, siblings = self.arguments, self.arguments.siblings
        # Steps that are asked for by hand, or by `charloom try`, which asks for a row whether or not a run draws it.
        by_hand = given.step % given.every and given.step != given.last
        asked = {step for step in (by_hand and given.step, self.trial) if step}
        siblings = {**siblings, "steps": sorted({*siblings["steps"], *asked})}
        previews = samples.Previews(self.results.root, given.lock, self.store)
        return WhileTraining(previews, siblings, self.store, device, self.log, self.results.newest_previews)

    def job(self, device: Any, options: EngineOptions, drawing: Any) -> Any:
        """All that the trainer has to know."""
        from charloom.train import ranks
        from charloom.train.job import TrainJob

        given, header = self.arguments, self.slice["header"]
        return TrainJob(
            settings=self.settings,
            run_key=self.run,
            manifest=given.manifest,
            load_model=self.load_model,
            log_dir=meeting.unread_folder() if self.silent else self.results.training,
            title=header["title"],
            trigger=header["trigger"],
            device=str(device),
            holdout=given.manifest if files.read_json(given.manifest).get("holdout") else None,
            engine=options,
            on_checkpoint=None if self.silent or os.environ.get(training.APART) else drawing,
            init=given.init,
            provenance={
                "base": given.lock["name"],
                "base_digest": given.record["digest"],
                **({"init_sha256": file_digest(given.init)} if given.init else {}),
            },
            ranks=ranks.joined(device),
            trial=self.trial,
        )

    def load_model(self, dtype: Any, device: Any) -> Any:
        """The prepared transformer."""
        from charloom.workflow import prepared

        model = prepared.load(self.arguments.lock, self.arguments.transformer, dtype, device)
        self.log.quietly("base loaded")
        return model

    def report(self, line: object) -> None:
        """A line for the user, from one rank only."""
        if not self.silent:
            self.log(str(line))


def main() -> None:
    segment = Segment(parsed())
    if segment.rank:
        segment.make()
    else:
        segment.serve()


if __name__ == "__main__":
    meeting.run(main)
