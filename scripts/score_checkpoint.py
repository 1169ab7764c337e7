"""Score the previews of a checkpoint; if its scores are not in the store, score all checkpoints that have previews."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.workflow import jobs
from charloom.workflow.arguments import path
from charloom.workflow.scores import KIND, Judgement, device_of


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--weights", type=path, help="weights of the judge, if it has any")
    parser.add_argument("--judge", type=path, help="judge.json of the character, for the judge auto")
    parser.add_argument("--step", type=int, required=True, help="step of the checkpoint")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "scores")
    judge = files.read_json(arguments.judge) if arguments.judge else None
    judgement = Judgement(arguments.results, arguments.settings, arguments.weights, judge)
    key = judgement.key(arguments.step)
    if key is None:
        raise UserError(f"{arguments.results}: samples of step {arguments.step} are missing; draw them first")

    def make() -> bool:
        device = device_of(judge, arguments.device, arguments.threads, log)
        steps, notes = judgement.make(arguments.store, device)
        log(f"judge {arguments.settings['judge']}: steps {', '.join(map(str, steps))}")
        for line in notes:
            log(line)
        if unfinished := judgement.unfinished.get(arguments.step):
            files.write_json(arguments.output, unfinished)
        return bool(unfinished)

    jobs.serve(arguments.store, KIND, key, ".json", arguments.output, f"score-{arguments.results.name}", make)


if __name__ == "__main__":
    cli(main)
