"""Score what a checkpoint draws without the trigger and at many sampler steps: does it leak, is it still Turbo?"""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.workflow import jobs
from charloom.workflow.arguments import path
from charloom.workflow.scores import Judgement, device_of


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--weights", type=path, help="weights of the judge, if it has any")
    parser.add_argument("--judge", type=path, help="judge.json of the character, for the judge auto")
    parser.add_argument("--step", type=int, required=True, help="step of the checkpoint")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "drift")
    judge = files.read_json(arguments.judge) if arguments.judge else None
    judgement = Judgement(arguments.results, arguments.settings, arguments.weights, judge)
    device = device_of(judge, arguments.device, arguments.threads, log)
    made = judgement.drift(arguments.step, arguments.store, device)
    files.write_json(arguments.output, made)
    for line in made["notes"]:
        log(line)
    log.quietly(f"step {arguments.step}: {len(made['rows'])} values")


if __name__ == "__main__":
    cli(main)
