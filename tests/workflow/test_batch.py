"""A batch of characters: Snakemake stays out of the way of the one job that trains, and exits when it is done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import small_project

NAMES = ("mara", "mira", "mora", "mura", "myra", "maro")

# While the first character trains, the others wait for the same core and 130 jobs have ended.
WORKER = """#!{python} -S
import os, sys, time
if sys.argv[1].endswith("train_segment.py"):
    open("training", "a").close()
    end = time.monotonic() + 60
    while not os.path.exists("measured") and time.monotonic() < end:
        time.sleep(0.05)
made = sys.argv[sys.argv.index("--output") if "--output" in sys.argv else 0 :]  # what stands before it is read
for flag, value in zip(made, made[1:]):
    if flag in ("--output", "--comparison", "--html", "--txt", "--record", "--validation", "--table",
                "--scores-plot", "--loss-plot", "--strip"):
        with open(value, "w") as file:
            file.write(value)
open("last", "w").close()
"""


def wait_for(condition, process: subprocess.Popen, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def test_a_batch_leaves_the_cores_to_its_jobs_and_exits_at_once(tmp_path: Path) -> None:
    folder = small_project.add_code(small_project.make(tmp_path))
    for name in NAMES[1:]:
        person = {**small_project.CHARACTER, "trigger": f"{name}1"}
        small_project.write_yaml(folder / f"config/characters/{name}.yaml", person)
    worker = folder / "worker"
    worker.write_text(WORKER.format(python=sys.executable))
    worker.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(folder),
        "CHARLOOM_PYTHON": str(worker),
    }
    targets = [f"results/{name}/checkpoints/step-000100.safetensors" for name in NAMES]
    with open(folder / "said", "w") as said:
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *targets]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
    try:
        wait_for((folder / "training").exists, process)
        time.sleep(1.0)  # what is due after the last job has ended
        watched = psutil.Process(process.pid)
        before = watched.cpu_times()
        time.sleep(3.0)
        after = watched.cpu_times()
        share = (after.user + after.system - before.user - before.system) / 3.0
        (folder / "measured").touch()
        assert process.wait(120) == 0, (folder / "said").read_text()
        delay = time.time() - (folder / "last").stat().st_mtime
    finally:
        process.kill()
    assert share < 0.03
    assert delay < 5.0
