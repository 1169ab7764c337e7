"""Score the chosen checkpoint at every strength of the sweep, recommend one, and draw the strip."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.core.layout import Results
from charloom.report.strength_strip import strip
from charloom.workflow import jobs, strengths
from charloom.workflow.arguments import path
from charloom.workflow.scores import device_of


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--validation", type=files.read_json, required=True, help="which checkpoint was chosen")
    parser.add_argument("--weights", type=path, help="weights of the judge, if it has any")
    parser.add_argument("--judge", type=path, help="judge.json of the character, for the judge auto")
    parser.add_argument("--strip", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, arguments.settings["character"])
    settings = arguments.settings
    step = strengths.chosen_step(arguments.validation, settings["checkpoint"])
    judge = files.read_json(arguments.judge) if arguments.judge else None
    sweep = strengths.Sweep(arguments.results, settings, arguments.weights, step, judge)
    key = sweep.key()

    def make() -> bool:
        device = device_of(judge, arguments.device, arguments.threads, log)
        made = sweep.make(arguments.store, device)
        for line in made["notes"]:
            log(line)
        if made["unfinished"]:
            files.write_json(arguments.output, made)
            return True
        with arguments.store.put(strengths.KIND, key, ".json") as temporary:
            files.write_json(temporary, made)
        return False

    jobs.serve(arguments.store, strengths.KIND, key, ".json", arguments.output, f"score-{arguments.results.name}", make)
    found = files.read_json(arguments.output)
    title = f"{settings['name']}, step {step}: strength of the LoRA"
    strip(found, Results(arguments.results), title, settings["trigger"], arguments.strip)
    known = found["recommended"]
    log(f"strength to use: {known:g}" if known is not None else "strength to use: not scored")
    for line in found["why"]:
        log.quietly(line)


if __name__ == "__main__":
    cli(main)
