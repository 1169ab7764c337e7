"""What each instrument of ``judge: auto`` that comes in a package costs per picture on this machine.

    python benchmarks/judge_cost.py [--threads 2] [--output benchmarks/results/judge_cost.json]

Pictures of 512 pixels, as judging reads them: a portrait that scikit-image carries, turned a little each time, and a
picture without a face. Wall time and CPU time of this process, loading excluded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PICTURES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    import numpy as np
    import torch
    from PIL import Image
    from skimage import data

    from charloom.core.store import Store
    from charloom.judge import locking
    from charloom.judge.backend import Picture
    from charloom.judge.memory import Memory
    from charloom.judge.panel import Panel

    torch.set_num_threads(arguments.threads)
    subjects = {"with a face": data.astronaut(), "without": data.coffee()[:400, :512]}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        lock = locking.lock({"name": "cost", "models": {}}, Store(folder))
    for name, entry in lock["instruments"].items():
        for what, pixels in subjects.items():
            panel = Panel(lock, Memory())
            turned = [np.asarray(Image.fromarray(pixels).rotate(angle)) for angle in range(PICTURES)]
            pictures = [Picture(str(i), "", one) for i, one in enumerate(turned)]
            panel.looks(name, pictures[:2])
            wall, cpu = time.perf_counter(), time.process_time()
            panel.looks(name, pictures)
            took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            took = {key: round(value / PICTURES, 4) for key, value in took.items()}
            lines.append({"instrument": name, "picture": what, **took, **entry["versions"]})
            print(json.dumps(lines[-1]), flush=True)
    made = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "lines": lines,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
