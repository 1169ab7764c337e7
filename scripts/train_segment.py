"""Get the checkpoint of a step: from the store, or by training from the last stored state.

With ``--gpus`` above 1 that many processes train together, each of them running this script again.
"""

from __future__ import annotations

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


def main() -> None:
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
    arguments = parser.parse_args()
    store, slice_ = arguments.store, arguments.settings
    rank = meeting.told()
    silent = rank is not None and rank[0] > 0
    log = jobs.Log(None if silent else arguments.log, slice_["header"]["title"], mode="a" if rank else "w")
    shift = locks.shift(arguments.lock)
    settings = training.settings_of(slice_, every=arguments.every, last=arguments.last, shift=shift)
    run = training.key(settings, slice_, arguments.manifest, arguments.record, arguments.init)
    results = Results(arguments.manifest.parent)

    def report(line: object) -> None:
        if not silent:
            log(str(line))

    def make() -> None:
        report(f"training to step {arguments.until}; loading torch and the base")
        device = jobs.torch_device(arguments.device, arguments.threads, lock=arguments.lock)

        from charloom.engine import compile as compiling
        from charloom.train import ranks
        from charloom.train.job import TrainJob
        from charloom.train.loop import train
        from charloom.workflow import prepared, samples
        from charloom.workflow.while_training import WhileTraining

        garbage.loaded()  # this process stays for hours
        log.quietly(f"torch loaded, on {device}")
        options = EngineOptions.from_values(arguments.engine)
        if device.type == "cuda" and options.compile:
            compiling.start_workers()  # while the base is loaded
        siblings = arguments.siblings
        if arguments.step % arguments.every and arguments.step != arguments.last:
            # A step that is asked for by hand, or by `charloom try`, and is none of the run's own.
            siblings = {**siblings, "steps": [*siblings["steps"], arguments.step]}
        drawing = WhileTraining(
            samples.Previews(results.root, arguments.lock, store),
            siblings,
            store,
            device,
            log,
            results.newest_previews,
        )

        def load_model(dtype: Any, device: Any) -> Any:
            model = prepared.load(arguments.lock, arguments.transformer, dtype, device)
            log.quietly("base loaded")
            return model

        job = TrainJob(
            settings=settings,
            run_key=run,
            manifest=arguments.manifest,
            load_model=load_model,
            log_dir=meeting.unread_folder() if silent else results.training,
            title=slice_["header"]["title"],
            trigger=slice_["header"]["trigger"],
            device=str(device),
            holdout=arguments.manifest if files.read_json(arguments.manifest).get("holdout") else None,
            engine=options,
            on_checkpoint=None if silent or os.environ.get(training.APART) else drawing,
            init=arguments.init,
            provenance={
                "base": arguments.lock["name"],
                "base_digest": arguments.record["digest"],
                **({"init_sha256": file_digest(arguments.init)} if arguments.init else {}),
            },
            ranks=ranks.joined(device),
            trial=int(os.environ.get(training.UNTIL, "0")),
        )
        try:
            train(job, store, arguments.until, on_progress=report, log=report)
        finally:
            drawing.release()
        # A pruned store may hold the last step and lack this one.
        train(job, store, arguments.step, on_progress=report, log=report)

    if rank:
        make()
        return
    log.quietly(f"run {run}")
    count = min(arguments.gpus, settings.train.draws_per_step)

    def make_together() -> None:
        places = devices.lease(arguments.device, count, log)
        log(f"training on {count} GPUs" if places else f"training in {count} processes")
        os.environ[devices.LEASED] = "1"
        try:
            launch.run(launch.again(), count, places, log.quietly)
        except UserError as error:
            progress.failed(results.training, str(error))
            raise

    def make_noticed() -> None:
        stopping.begin(results.training, arguments.attempt)
        with progress.noticed(results.training) as killed:
            if killed:
                os.environ[training.APART] = "1"
                log("the last start was killed without a word: to save memory, previews are drawn after training")
            (make_together if count > 1 else make)()

    key = training.entry(run, arguments.step)
    lock = f"train-{run[:32]}"
    jobs.serve(store, training.KIND, key, ".safetensors", arguments.output, lock, make_noticed)
    # Even if nothing was trained: the curve on disk may be from a run with other settings.
    if not store.fetch(METRICS, training.entry(run, arguments.last), ".jsonl", results.metrics):
        store.fetch(METRICS, key, ".jsonl", results.metrics)


if __name__ == "__main__":
    meeting.run(main)
