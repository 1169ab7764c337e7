"""Get the checkpoint of a step: from the store, or by training on from the last stored state."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.errors import cli
from charloom.core.layout import Results
from charloom.engine.options import EngineOptions
from charloom.train.keys import METRICS
from charloom.workflow import jobs, training
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
    parser.add_argument(
        "--siblings", type=value, default={"steps": [], "prompts": {}}, help="previews to draw on the way, JSON"
    )
    parser.add_argument("--init", type=path, help="LoRA to start from")
    parser.add_argument("--engine", type=value, default={}, help="how the GPU is used, JSON")
    arguments = parser.parse_args()
    store, slice_ = arguments.store, arguments.settings
    log = jobs.Log(arguments.log, slice_["header"]["title"])
    settings = training.settings_of(slice_, every=arguments.every, last=arguments.last)
    run = training.key(settings, slice_, arguments.manifest, arguments.record, arguments.init)
    log.quietly(f"run {run}")
    results = Results(arguments.manifest.parent)

    def make() -> None:
        log(f"training to step {arguments.until}; loading torch and the base")
        device = jobs.torch_device(arguments.device, arguments.threads, lock=arguments.lock)

        from charloom.train.loop import TrainJob, train
        from charloom.workflow import prepared, samples

        siblings = arguments.siblings
        if arguments.step % arguments.every and arguments.step != arguments.last:
            # A step that is asked for by hand, or by `charloom try`, and is none of the run's own.
            siblings = {**siblings, "steps": [*siblings["steps"], arguments.step]}
        options = EngineOptions.from_values(arguments.engine)
        drawing = samples.WhileTraining(
            samples.Previews(results.root, arguments.lock, store),
            siblings,
            store,
            device,
            log,
            options,
            results.newest_previews,
        )
        job = TrainJob(
            settings=settings,
            run_key=run,
            manifest=arguments.manifest,
            load_model=lambda dtype, device: prepared.load(arguments.lock, arguments.transformer, dtype, device),
            log_dir=results.training,
            title=slice_["header"]["title"],
            trigger=slice_["header"]["trigger"],
            device=str(device),
            holdout=arguments.manifest if files.read_json(arguments.manifest).get("holdout") else None,
            engine=options,
            on_checkpoint=drawing,
            init=arguments.init,
            provenance={
                "base": arguments.lock["name"],
                "base_digest": arguments.record["digest"],
                **({"init_sha256": file_digest(arguments.init)} if arguments.init else {}),
            },
        )
        train(job, store, arguments.until, on_progress=lambda progress: log(str(progress)), log=log)
        # A pruned store may hold the last step and lack this one.
        train(job, store, arguments.step, on_progress=lambda progress: log(str(progress)), log=log)

    key = training.entry(run, arguments.step)
    jobs.serve(store, training.KIND, key, ".safetensors", arguments.output, f"train-{run[:32]}", make)
    # Even if nothing was trained: the curve on disk may be from a run with other settings.
    if not store.fetch(METRICS, training.entry(run, arguments.last), ".jsonl", results.metrics):
        store.fetch(METRICS, key, ".jsonl", results.metrics)


if __name__ == "__main__":
    cli(main)
