"""Verify the checkpoint to ship: is it intact, does it fit the base, and what can load it?"""

from __future__ import annotations

import json
from pathlib import Path

from charloom.core import files
from charloom.core.errors import UserError, cli
from charloom.core.layout import Results
from charloom.train.keys import CHECKPOINT, checkpoint_key
from charloom.workflow import jobs, strengths


def main() -> None:
    parser = jobs.parser(__doc__)
    parser.add_argument("validation", type=files.read_json, help="validation.json")
    parser.add_argument("--results", type=Results, required=True, help="folder of the character's results")
    parser.add_argument("--lock", type=files.read_json, required=True, help="lock file of the base")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, arguments.settings["name"])
    wanted = arguments.settings["checkpoint"]
    step = strengths.chosen_step(arguments.validation, wanted)
    chosen = arguments.results.checkpoint(step)
    if not chosen.is_file():
        there = ", ".join(path.stem for path in arguments.results.checkpoints()) or "none"
        raise UserError(f"checkpoint: step {step} is not among {there}; set checkpoint: auto or one of these")
    from charloom.lora.verify import verify
    from charloom.zimage.shapes import module_shapes

    config = Path(arguments.lock["root"]) / "transformer" / "config.json"  # missing if the hub cache was cleared
    shapes = module_shapes(files.read_json(config)) if config.is_file() else None
    report = verify(chosen, shapes, own=True)
    for line in str(report).splitlines():
        log.quietly(line)
    if not report.ok:
        raise UserError(f"{chosen}: {report.problems[0]}; or set checkpoint: to another step")
    run = str(json.loads(report.metadata.get("charloom.provenance", "{}")).get("run_key", ""))
    if run and arguments.store.differs(CHECKPOINT, checkpoint_key(run, step), ".safetensors", report.sha256):
        raise UserError(f"{chosen}: is damaged, it is not what was trained; delete it and run again, which restores it")
    by = "validation" if wanted == "auto" else "hand"
    files.write_json(arguments.output, {"step": step, "by": by, **report.record()})


if __name__ == "__main__":
    cli(main)
