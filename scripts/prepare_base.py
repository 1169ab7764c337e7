"""Merge the training adapter into the transformer of a base, and quantise the result."""

from __future__ import annotations

from pathlib import Path

from charloom.core import files
from charloom.core.errors import cli
from charloom.workflow import jobs, prepared


def main() -> None:
    parser = jobs.parser(__doc__, heavy=True)
    parser.add_argument("lock", type=files.read_json, help="lock file of the base")
    parser.add_argument("--record", type=Path, required=True, help="file for a record of what was merged")
    arguments = parser.parse_args()
    log = jobs.Log(arguments.log, f"base {arguments.lock['name']}")
    device = jobs.torch_device(arguments.device, arguments.threads, alone=False)
    device = device if device.type == "cuda" else "cpu"  # Apple's GPUs have neither float64 nor float8
    record = prepared.make(arguments.lock, arguments.settings, arguments.output, arguments.store, log, device)
    if merged := record["merged"]:
        log(f"merged {merged['modules']} modules, norm of the change {merged['delta_norm']:.4g}")
    files.write_json(arguments.record, record)


if __name__ == "__main__":
    cli(main)
