"""Faults by the hundred on the miniature workflow, each followed by a plain call that must put everything right.

    python tests/faults/run.py --count 300 --output benchmarks/results/faults.json

Seeded (fault 17 is the same one tomorrow) and resumable: faults in ``--output`` are not tried again. ``--kinds`` names
some of them, ``--workers`` runs several side by side. Disks that fill up and read-only folders need root.
"""

from __future__ import annotations

import argparse
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

from fault_kinds import KINDS, Outcome, undergo  # noqa: E402
from fault_project import build_template  # noqa: E402
from fault_server import Server  # noqa: E402


def table(outcomes: list[dict]) -> dict[str, dict[str, int]]:
    """Counts by kind: how many, how they ended."""
    rows: dict[str, Counter[str]] = {}
    for one in outcomes:
        row = rows.setdefault(one["kind"], Counter())
        row.update({"faults": 1, ("failed" if one["problems"] else one["how"]): 1})
    return {name: dict(row) for name, row in sorted(rows.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="faults in all")
    parser.add_argument("--seed", type=int, default=0, help="of the first fault")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--output", type=Path, default=Path("work/faults.json"), help="what came of each, JSON")
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text())["outcomes"] if arguments.output.is_file() else []
    done = {(one["kind"], one["seed"]) for one in known}
    plan = [
        (arguments.kinds[index % len(arguments.kinds)], arguments.seed + index // len(arguments.kinds))
        for index in range(arguments.count)
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.workers) as pool:
        server = Server(Path(folder))
        try:
            template = build_template(Path(folder), server)

            def one(which: tuple[str, int]) -> None:
                name, seed = which
                try:
                    outcome = undergo(template, Path(folder, f"{name}-{seed}"), name, seed)
                except Exception:
                    outcome = Outcome(name, seed, how="harness", problems=[traceback.format_exc()])
                known.append(asdict(outcome))
                print(f"{name} {seed}: {outcome.detail}: {outcome.how} ({outcome.seconds} s)", flush=True)
                for problem in outcome.problems:
                    print(f"  PROBLEM {problem}", flush=True)
                _write(arguments.output, known)

            list(pool.map(one, [which for which in plan if which not in done]))
        finally:
            server.close()
    failed = [one for one in known if one["problems"]]
    print(json.dumps(table(known), indent=1))
    print(f"{len(known)} faults, {len(failed)} without a good end")
    sys.exit(bool(failed))


def _write(path: Path, outcomes: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    value = {"machine": machine, "table": table(outcomes), "outcomes": outcomes}
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
