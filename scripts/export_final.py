"""Write the LoRA to ship: the tensors of the chosen checkpoint, if they pass verification, and a header for readers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from charloom.base import locks
from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.train.keys import CHECKPOINT, checkpoint_key
from charloom.workflow import history, jobs
from charloom.workflow.arguments import value


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("validation", type=files.read_json, help="validation.json")
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    parser.add_argument("--drawn", type=value, help="how its previews are drawn, for the record in the store, JSON")
    arguments = parser.parse_args()
    about = arguments.settings
    log = jobs.Log(arguments.log, about["name"])
    wanted = about["checkpoint"]
    step = arguments.validation["step"] if wanted == "auto" else wanted
    chosen = arguments.results.checkpoint(step)
    if not chosen.is_file():
        there = ", ".join(path.stem for path in arguments.results.checkpoints()) or "none"
        raise UserError(f"checkpoint: step {step} is not among {there}; set checkpoint: auto or one of these")
    from charloom.core.tensors import read_safetensors, write_safetensors
    from charloom.lora import finished
    from charloom.lora.verify import verify
    from charloom.zimage.shapes import module_shapes

    config = Path(arguments.lock["root"]) / "transformer" / "config.json"  # the hub cache may have been cleared
    shapes = module_shapes(files.read_json(config)) if config.is_file() else None
    report = verify(chosen, shapes, own=True)
    for line in str(report).splitlines():
        log.quietly(line)
    if not report.ok:
        raise UserError(f"{chosen}: {report.problems[0]}; or set checkpoint: to another step")
    tensors, trained = read_safetensors(chosen)
    run = str(json.loads(trained.get("charloom.provenance", "{}")).get("run_key", ""))
    if run and arguments.store.differs(CHECKPOINT, checkpoint_key(run, step), ".safetensors", report.sha256):
        raise UserError(f"{chosen}: is damaged, it is not what was trained; delete it and run again, which restores it")
    sample = arguments.results.sample(step, about["sample"]["name"]) if about["sample"] else None
    if sample is None or not sample.is_file():
        log(f"no thumbnail in the file: step {step} drew no sample prompt with the trigger")
        sample = None
    about = {**about, "shift": locks.shift(arguments.lock)}
    header = finished.header(trained, tensors, about, sample, os.environ.get("SOURCE_DATE_EPOCH", ""))
    output = arguments.output
    with files.whole(output) as temporary:
        write_safetensors(temporary, tensors, header)
    if arguments.drawn:
        history.remember(arguments.store, arguments.results, output, step, arguments.lock, arguments.drawn)
    by = "by validation" if wanted == "auto" else "by hand"
    log(f"step {step}, chosen {by}: {output} ({output.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    cli(main)
