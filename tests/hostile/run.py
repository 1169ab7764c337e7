"""Hostile input by the thousand: fixed attacks on every way in, then Hypothesis for as long as is wanted.

    python tests/hostile/run.py --seconds 600 --output benchmarks/results/hostile.json

Each input may be taken or refused by one line; a traceback, a file outside of the folder, a connection, a pickle or a
control character in what is said is a fault. Run it under ``unshare -n`` to have no network at all.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [
    *(str(Path(__file__).resolve().parents[1] / name) for name in ("", "deliver")),
    str(Path(__file__).resolve().parent),
]

import bundles  # noqa: E402
import hostile_inputs as inputs  # noqa: E402
import hostile_servers  # noqa: E402
import hostile_surfaces as surfaces  # noqa: E402
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
KEYS = st.text(max_size=8) | st.sampled_from(["steps", "lr", "rank", "path", "prompt", "name", "type", "folder_path"])
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


def valid_files(folder: Path) -> dict[str, bytes]:
    """A valid file for each surface, to damage."""
    bundle = bundles.made(folder / "valid").read_bytes()
    lora = inputs.tensors(inputs.pair({"format": "pt"}))
    return {
        "config": inputs.as_yaml(inputs.CHARACTER),
        "caption": "a photo of m4ra, smiling, café\n".encode(),
        "lora": lora,
        "convert": lora,
        "import": inputs.as_yaml(inputs.JOB),
        "bundle": bundle,
        "picture": next(inputs.pictures())[1],
        "server": hostile_servers.reply(
            {"choices": [{"message": {"content": "a photo"}}], "data": [], "prompt_id": "1"}
        ),
    }


def hypotheses(name: str, seconds: float, valid: dict[str, bytes], watch: surfaces.Watch) -> tuple[int, list[str]]:
    """Random inputs for ``seconds``; how many there were, and what was wrong."""
    tried, wrong, until = 0, [], time.monotonic() + seconds

    @settings(
        max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(st.integers(0, 2**64), st.binary(max_size=64), TREES)
    def one(seed, noise, tree):
        nonlocal tried
        if time.monotonic() > until:
            return
        chance = random.Random(seed)
        data = surfaces.random_input(name, chance, valid)
        if name in ("config", "import") and chance.random() < 0.3:
            whole = {**inputs.CHARACTER, chance.choice(list(inputs.CHARACTER)): tree}
            job = {
                **inputs.JOB["config"]["process"][0],
                chance.choice(["network", "train", "datasets", "sample"]): tree,
            }
            data = inputs.as_yaml(
                whole if name == "config" else {**inputs.JOB, "config": {"name": "mara", "process": [job]}}
            )
        elif chance.random() < 0.1:
            data = noise
        tried += 1
        if (problem := surfaces.attempt(name, data, watch)) and len(wrong) < 50:
            wrong.append(f"{data[:300]!r}: {problem}")

    while time.monotonic() < until:
        one()
    return tried, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of random inputs for each surface")
    parser.add_argument("--surfaces", nargs="+", choices=sorted(surfaces.SURFACES), default=sorted(surfaces.SURFACES))
    parser.add_argument("--output", type=Path, default=Path("work/hostile.json"), help="counts, JSON")
    arguments = parser.parse_args()
    watch, table, faults = surfaces.Watch(), {}, 0
    with tempfile.TemporaryDirectory() as folder:
        valid = valid_files(Path(folder))
        fixed = inputs.by_surface(valid["bundle"], Path(folder))
        for name in arguments.surfaces:
            found = []
            for label, data in fixed[name]:
                if problem := surfaces.attempt(name, data, watch):
                    found.append(f"{label}: {problem}")
            tried, wrong = hypotheses(name, arguments.seconds, valid, watch) if name in valid else (0, [])
            for problem in (*found, *wrong):
                print(f"{name}: {problem}\n", flush=True)
            faults += len(found) + len(wrong)
            table[name] = {
                "fixed": len(fixed[name]),
                "random": tried,
                "seconds": arguments.seconds,
                "faults": len(found) + len(wrong),
            }
            print(f"{name}: {table[name]}", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{sum(row['fixed'] + row['random'] for row in table.values())} inputs, {faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
