"""Write the captions that are made from the captioner's texts, beside the present ones, and statistics of captions."""

from __future__ import annotations

from charloom.core import files
from charloom.core.errors import cli
from charloom.core.layout import Results
from charloom.dataset import captions, proposals
from charloom.workflow import describing, jobs


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    arguments = parser.parse_args()
    settings, results = arguments.settings, arguments.results
    own = settings["own"]
    raw = {name: describing.text_of(results.raw_caption(name)) for name in own}
    present = {name: captions.read(results.caption(name)) for name in settings["names"]}
    made = {
        name: proposals.propose(name, raw[name], present[name], {**settings["shared"], **own[name]})
        for name in settings["waiting"]
    }
    shared = {**settings["shared"], "trigger": settings["trigger"]}
    record = proposals.record(made, present, raw, shared)
    files.write_json(arguments.output, {"character": settings["character"], "raw": raw, **record})


if __name__ == "__main__":
    cli(main)
