"""Draw a sample prompt with a checkpoint; if it is not stored, draw all prompts with all existing checkpoints."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.engine.options import EngineOptions
from charloom.workflow import jobs, samples
from charloom.workflow.arguments import value


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument("--step", type=int, required=True, help="step of the checkpoint; 0 is the base alone")
    parser.add_argument("--prompt", required=True, help="name of the prompt: 01, 02, ...")
    parser.add_argument(
        "--siblings", type=value, default={"steps": [], "prompts": {}}, help="what to draw on a miss, JSON"
    )
    parser.add_argument("--engine", type=value, default={}, help="how the GPU is used, JSON")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "samples")
    previews = samples.Previews(arguments.results, arguments.lock, arguments.store)
    own = previews.wanted(arguments.step, arguments.prompt, arguments.settings)
    if own is None:
        raise UserError(
            f"{arguments.results}: checkpoint or embedding of step {arguments.step} is missing; make it first"
        )

    def make() -> None:
        options = EngineOptions.from_values(arguments.engine)
        device = jobs.torch_device(arguments.device, arguments.threads, options.limit, arguments.lock)
        # The step may be none that a run draws: one that is asked for by hand, or by `charloom try`.
        steps = sorted({arguments.step, *arguments.siblings["steps"]})
        others = [one for one in previews.all({**arguments.siblings, "steps": steps}) if one.key != own.key]
        samples.make(previews, [own, *others], arguments.store, device, log, options)

    lock = f"sample-{arguments.results.name}"
    jobs.serve(arguments.store, samples.KIND, own.key, ".png", arguments.output, lock, make)


if __name__ == "__main__":
    cli(main)
