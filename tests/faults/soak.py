"""Many tiny characters in one call of Snakemake: does anything grow, or stay behind?

python tests/faults/soak.py --output benchmarks/results/soak.json
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import psutil  # noqa: E402
import small_project  # noqa: E402
import yaml  # noqa: E402
from asked_project import RECIPE  # noqa: E402
from fault_place import workplace  # noqa: E402
from fault_project import Project, Template, prepare  # noqa: E402
from fault_server import Server  # noqa: E402
from small_project import edit  # noqa: E402


def batch(folder: Path, characters: int) -> Path:
    """A project with so many characters, each with pictures of its own."""
    prepare(folder, "plan")
    mara = yaml.safe_load((folder / "config/characters/mara.yaml").read_text())
    (folder / "config/characters/mara.yaml").unlink()
    edit(folder / "config/config.yaml", recipe=RECIPE)
    for number in range(characters):
        name = f"mara-{number:03d}"
        (folder / "pics" / name).mkdir()
        for shot in mara["shots"]:
            small_project.picture(
                folder / f"pics/{name}/{shot['name']}.png", (96, 80), number + len(shot["name"]) * 1000
            )
        images = {**mara["images"], "path": f"pics/{name}"}
        one = {**mara, "name": name, "trigger": f"m4ra{number:03d}", "images": images}
        text = yaml.safe_dump(one, sort_keys=False).replace("m4ra,", f"m4ra{number:03d},")
        (folder / f"config/characters/{name}.yaml").write_text(text)
    return folder


def watched(project: Project, samples: list[tuple[int, int]], done: threading.Event) -> None:
    """Note the number of jobs so far and the memory of Snakemake, in bytes, twice a second."""
    while not done.wait(0.5):
        for pid in project.pids("snakemake"):
            try:
                memory = psutil.Process(pid).memory_info().rss
            except psutil.Error:
                continue
            samples.append((len(project.pids()), memory))


def soak(place: Path, server: Server, characters: int = 50, cores: int = 3) -> dict[str, Any]:
    """Run it once; returns what was measured."""
    project = Project(Template("plan", place, server, [], "", {}), place)
    batch(project.folder, characters)
    project.notes.mkdir()
    (place / "tmp").mkdir()
    samples: list[tuple[int, int]] = []
    done = threading.Event()
    watcher = threading.Thread(target=watched, args=(project, samples, done))
    watcher.start()
    started = time.monotonic()
    try:
        targets = [f"results/mara-{number:03d}/final.safetensors" for number in range(characters)]
        run = project.run(None, *targets, "--cores", str(cores), temporary=place / "tmp", seconds=7200)
    finally:
        done.set()
        watcher.join()
    seconds = time.monotonic() - started
    if run.code:
        raise RuntimeError(run.text[-6000:])
    project.settle(5)
    alive = [pid for pid in project.pids() if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    folder = project.folder

    def memory(share: float) -> float:
        """MiB of Snakemake when this share of the jobs had been started."""
        return next(memory for jobs, memory in samples if jobs >= share * samples[-1][0]) / 2**20

    def sizes(pattern: str) -> list[int]:
        return [path.stat().st_size for path in folder.glob(pattern) if path.is_file()]

    logs = [sum(sizes(f"results/mara-{number:03d}/logs/**/*")) for number in range(characters)]
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in ("snakemake", "torch")},
        "characters": characters,
        "jobs": len(project.pids()) - 1,
        "seconds": round(seconds),
        "memory of Snakemake, MiB": {f"{share:.0%}": round(memory(share)) for share in (0.25, 0.5, 0.75, 0.99)},
        "processes left": len(alive),
        "locks left": len(list(folder.glob(".snakemake/locks/*"))) + len(list(folder.glob(".snakemake/incomplete/*"))),
        "temporary files left": len([*folder.rglob(".*.tmp"), *folder.rglob("*.tmp")])
        + len(list((place / "tmp").iterdir())),
        "logs of a character, kB": {"least": round(min(logs) / 1e3, 1), "most": round(max(logs) / 1e3, 1)},
        "log of Snakemake for a character, kB": round(sum(sizes(".snakemake/log/*")) / 1e3 / characters, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=50)
    parser.add_argument("--cores", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("work/soak.json"))
    arguments = parser.parse_args()
    with workplace() as folder:
        server = Server(folder)
        try:
            found = soak(folder / "soak", server, arguments.characters, arguments.cores)
        finally:
            server.close()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
