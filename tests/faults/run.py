"""Faults by the hundred on the miniature workflow, each followed by a plain call that must put everything right.

    python tests/faults/run.py --output benchmarks/results/faults.json

Seeded (fault 17 is the same one tomorrow) and resumable: faults in ``--output`` are not tried again. ``--kinds`` names
some of them, ``--workers`` runs several side by side. Disks that fill up and read-only folders need root.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import asked_kinds  # noqa: E402
from fault_kinds import ABOUT, KINDS, OTHERS, Outcome, plan, undergo  # noqa: E402
from fault_project import ASKED, PROJECTS, build_template  # noqa: E402
from fault_server import Server  # noqa: E402


def table(outcomes: list[dict]) -> dict[str, dict[str, int]]:
    """Counts by kind: how many, how they ended; those that the job did not live to see count as neither."""
    rows: dict[str, Counter[str]] = {}
    for one in outcomes:
        row = rows.setdefault(one["kind"], Counter())
        row.update({"faults": 1, ("failed" if one["problems"] else one["how"] if one["met"] else "not met"): 1})
    return {name: dict(row) for name, row in sorted(rows.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=320, help="faults of two projects on their own")
    parser.add_argument("--asked", type=int, default=72, help="faults of the project that asks servers")
    parser.add_argument("--seed", type=int, default=0, help="of the first fault of each kind")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--output", type=Path, default=Path("work/faults.json"), help="what came of each, JSON")
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text())["outcomes"] if arguments.output.is_file() else []
    done = {(one["kind"], one["seed"]) for one in known}
    alone = [name for name in arguments.kinds if ABOUT.get(name) != "asking"]
    wanted = plan(alone, arguments.count, arguments.seed)
    wanted += asked_kinds.plan(arguments.kinds, arguments.asked, arguments.seed)
    wanted = [which for which in wanted if which not in done]
    asked = {seed >= OTHERS for _, seed in wanted}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.workers) as pool:
        server = Server(Path(folder), asked=True in asked)
        try:
            templates = [build_template(Path(folder), server, name) for name in PROJECTS if (name == ASKED) in asked]

            def one(which: tuple[str, int]) -> None:
                name, seed = which
                try:
                    outcome = undergo(templates, Path(folder, f"{name}-{seed}"), name, seed)
                except Exception:
                    outcome = Outcome(name, seed, how="harness", problems=[traceback.format_exc()])
                known.append(asdict(outcome))
                print(f"{name} {seed}: {outcome.detail}: {outcome.how} ({outcome.seconds} s)", flush=True)
                for problem in outcome.problems:
                    print(f"  PROBLEM {problem}", flush=True)
                _write(arguments.output, known)

            list(pool.map(one, wanted))
        finally:
            server.close()
    failed = [one for one in known if one["problems"]]
    print(json.dumps(table(known), indent=1))
    print(f"{len(known)} faults, {len(failed)} without a good end")
    sys.exit(bool(failed))


def _write(path: Path, outcomes: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("snakemake", "torch", "diffusers", "safetensors")}
    value = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()}, {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions},
        "table": table(outcomes),
        "outcomes": sorted(outcomes, key=lambda one: (one["kind"], one["seed"])),
    }
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
