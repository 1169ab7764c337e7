"""Faults by the hundred on the miniature workflow, each followed by a plain call that must put everything right.

    python tests/faults/run.py --output benchmarks/results/faults.json

First a job of every rule is killed, ``--times`` times; then follows what is left to chance. Seeded (fault 17 is the
same one tomorrow) and resumable: faults in ``--output`` are not tried again, and each run that adds to them is noted
there. ``--kinds`` and ``--rules`` name some of them, ``--workers`` runs several side by side. Disks that fill up and
read-only folders need root.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
import threading
import traceback
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import asked_kinds  # noqa: E402
from fault_kinds import KINDS, Outcome, undergo  # noqa: E402
from fault_place import workplace  # noqa: E402
from fault_plan import ABOUT, EVERY, coverage, place_of, plan  # noqa: E402
from fault_project import PROJECTS, build_template  # noqa: E402
from fault_server import Server  # noqa: E402


def table(outcomes: list[dict]) -> dict[str, dict[str, int]]:
    """Counts by kind: how many, how they ended; those that the job did not live to see count as neither."""
    rows: dict[str, Counter[str]] = {}
    for one in outcomes:
        row = rows.setdefault(one["kind"], Counter())
        row.update({"faults": 1, ("failed" if one["problems"] else one["how"] if one["met"] else "not met"): 1})
    return {name: dict(row) for name, row in sorted(rows.items())}


def killed(outcomes: list[dict]) -> dict[str, int]:
    """How often a job of each rule was killed, of those that faults were about: the kill hit the job itself."""
    kinds, rows = (EVERY, "kill_job", "kill_in_flight"), Counter[str]()
    for one in outcomes:
        if one["kind"] in kinds and one["detail"]:
            rows[one["detail"].split()[0].rstrip(",")] += one["met"]
    return dict(sorted(rows.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1, help="kills of a job of every rule")
    parser.add_argument("--count", type=int, default=320, help="faults of two projects on their own")
    parser.add_argument("--asked", type=int, default=72, help="faults of the project that asks servers")
    parser.add_argument("--seed", type=int, default=0, help="of the first fault of each kind")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--rules", nargs="+", default=[], metavar="RULE", help="only faults of their jobs")
    parser.add_argument("--output", type=Path, default=Path("work/faults.json"), help="what came of each, JSON")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"outcomes": []}
    with workplace() as folder:
        server = Server(folder, asked=True)
        try:
            failed = _run(arguments, folder, server, earlier)
        finally:
            server.close()
    sys.exit(bool(failed))


def _run(arguments: argparse.Namespace, folder: Path, server: Server, earlier: dict[str, Any]) -> int:
    """Try what was not tried ``earlier``; how many have no good end."""
    templates = [build_template(folder, server, name) for name in PROJECTS]
    alone = [name for name in arguments.kinds if ABOUT.get(name) != "asking"]
    wanted = coverage(templates, arguments.times, arguments.seed) if EVERY in arguments.kinds else []
    wanted += plan(alone, arguments.count, arguments.seed)
    wanted += asked_kinds.plan(arguments.kinds, arguments.asked, arguments.seed)
    done = {(one["kind"], one["seed"]) for one in earlier["outcomes"]}
    wanted = [which for which in wanted if which not in done]
    if unknown := {*arguments.rules} - {rule for one in templates for rule in one.rules}:
        sys.exit(f"no fault is about {', '.join(sorted(unknown))}; rules are named as in rules/")
    if arguments.rules:
        wanted = [which for which in wanted if place_of(templates, *which)[1] in arguments.rules]
    new: list[dict] = []
    lock, over = threading.Lock(), threading.Event()

    def one(which: tuple[str, int]) -> None:
        name, seed = which
        try:
            outcome = undergo(templates, folder / f"{name}-{seed}", name, seed)
        except Exception:
            outcome = Outcome(name, seed, how="harness", problems=[traceback.format_exc()])
        with lock:
            if over.is_set():  # ended by whoever ended the run
                return
            new.append(asdict(outcome))
            print(f"{name} {seed}: {outcome.detail}: {outcome.how} ({outcome.seconds} s)", flush=True)
            for problem in outcome.problems:
                print(f"  PROBLEM {problem}", flush=True)
            _write(arguments.output, earlier, new)

    try:
        with ThreadPool(arguments.workers) as pool:  # whose threads end with the run, whatever they wait for
            pool.map(one, wanted, chunksize=1)
    finally:
        over.set()
    known = [*earlier["outcomes"], *new]
    print(json.dumps({"table": table(known), "killed": killed(known)}, indent=1))
    failed = [one for one in known if one["problems"]]
    print(f"{len(known)} faults, {len(failed)} without a good end")
    return len(failed)


def _write(path: Path, earlier: dict[str, Any], new: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("snakemake", "torch", "diffusers", "safetensors")}
    this = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()}, {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions},
    }
    outcomes = [*earlier["outcomes"], *new]
    value = {
        "runs": [*earlier.get("runs", []), {**this, "faults": _seeds(new)}],
        "table": table(outcomes),
        "killed": killed(outcomes),
        "outcomes": sorted(outcomes, key=lambda one: (one["kind"], one["seed"])),
    }
    path.write_text(json.dumps(value, indent=1) + "\n")


def _seeds(outcomes: list[dict]) -> dict[str, dict[str, Any]]:
    """How many there are of each kind, and with which seeds."""
    found: dict[str, list[int]] = {}
    for one in sorted(outcomes, key=lambda one: (one["kind"], one["seed"])):
        found.setdefault(one["kind"], []).append(one["seed"])
    return {kind: {"faults": len(seeds), "seeds": _ranges(seeds)} for kind, seeds in found.items()}


def _ranges(seeds: list[int]) -> str:
    """``0-61, 1000, 1004`` for sorted seeds."""
    runs = [[seed for _, seed in run] for _, run in groupby(enumerate(seeds), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if run[1:] else f"{run[0]}" for run in runs)


if __name__ == "__main__":
    main()
