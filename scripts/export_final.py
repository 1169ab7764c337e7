"""Write the LoRA to ship: the tensors of the checkpoint that was verified, and a header for readers."""

from __future__ import annotations

import os

from charloom.base import locks
from charloom.core import files, headers
from charloom.core.canonical import file_digest
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.lora import finished
from charloom.workflow import history, jobs
from charloom.workflow.arguments import value


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("verification", type=files.read_json, help="verification.json")
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument("--drawn", type=value, help="how its previews are drawn, for the record in the store, JSON")
    arguments = parser.parse_args()
    about = arguments.settings
    log = jobs.Log(arguments.log, about["name"])
    step = arguments.verification["step"]
    chosen = arguments.results.checkpoint(step)
    if file_digest(chosen) != arguments.verification["sha256"]:
        raise UserError(f"{chosen}: is not what was verified; delete it and run again, which restores it")
    sample = arguments.results.sample(step, about["sample"]["name"]) if about["sample"] else None
    if sample is None or not sample.is_file():
        log(f"no thumbnail in the file: step {step} drew no sample prompt with the trigger")
        sample = None
    about = {**about, "shift": locks.shift(arguments.lock)}
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    header = finished.header(headers.metadata(chosen), headers.tensors_sha256(chosen), about, sample, epoch)
    output = arguments.output
    with files.whole(output) as temporary:
        headers.with_metadata(chosen, temporary, header)
    if arguments.drawn:
        history.remember(arguments.store, arguments.results, output, step, arguments.lock, arguments.drawn)
    by = arguments.verification["by"]
    log(f"step {step}, chosen by {by}: {output} ({output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli(main)
