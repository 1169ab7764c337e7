"""Try the locked instruments on a character's own images, and write which of them judge its checkpoints and why."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.workflow import jobs, scores


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("--results", type=Path, required=True, help="folder of the character's results")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the judge")
    parser.add_argument("--base-samples", type=Path, nargs="*", default=[], help="previews of the base alone")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, "judge")
    device = scores.device_of({"lock": arguments.lock}, arguments.device, arguments.threads, log)
    made = scores.study(
        arguments.results, arguments.lock, arguments.settings, arguments.base_samples, arguments.store, device
    )
    files.write_json(arguments.output, made)
    for line in [*made["why"], *made["remedies"], *made["notes"]]:
        log(line)


if __name__ == "__main__":
    cli(main)
