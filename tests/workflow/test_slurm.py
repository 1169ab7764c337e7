"""The workflow on a real Slurm of one node, started here: what a cluster does to jobs, and the same bytes.

The default run sends one short training through sbatch; `pytest -m slow tests/workflow/test_slurm.py` does the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import pytest
import small_project
import yaml
from slurm_cluster import Cluster, missing
from small_project import edit, write_yaml

from charloom.train import progress

ROOT = small_project.ROOT
MEMORY = 3000
"""MB that every job of the tiny run may take."""
TOO_LITTLE = 250
"""MB in which torch can be imported and nothing be trained."""

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"not run: {missing()}"),
    pytest.mark.skipif(
        not find_spec("snakemake_executor_plugin_slurm"), reason="not run: pip install snakemake-executor-plugin-slurm"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    try:
        made = Cluster(tmp_path_factory.mktemp("slurm"))
    except (RuntimeError, OSError) as error:  # a container without cgroups, a host name that Slurm does not take
        if os.environ.get("CHARLOOM_SLURM"):  # where it has to run
            raise
        pytest.skip(f"not run: Slurm does not start here: {error}")
    yield made
    made.stop()


def recipe(steps: int, every: int) -> dict[str, Any]:
    return {
        "network": {"rank": 4, "alpha": 4},
        "train": {"steps": steps, "lr": 1.0e-3},
        "save": {"every": every, "keep": "all"},
        "sample": {"every": steps, "steps": 1, "strengths": []},
        "data": {"resolutions": [64]},
    }


def project(folder: Path, tiny_base: Path, steps: int, every: int, **asked: dict[str, Any]) -> Path:
    """One character of one picture and one prompt, on the tiny base; and the shipped profile with small numbers.
    ``asked`` are resources of rules."""
    small_project.make(folder)
    shutil.rmtree(folder / small_project.BASE["path"])
    shutil.copytree(tiny_base, folder / small_project.BASE["path"])
    of_base = {**small_project.BASE["recipe"], "sample": {"width": 64, "height": 64}, "training_adapter": "none"}
    write_yaml(folder / "config/bases/mini.yaml", {**small_project.BASE, "adapters": {}, "recipe": of_base})
    edit(folder / "config/config.yaml", recipe=recipe(steps, every), device="cpu")
    character, whole = folder / "config/characters/mara.yaml", small_project.CHARACTER
    images = {"source": "paperdoll", "count": 1}
    edit(character, shots=whole["shots"][:1], sample_prompts=whole["sample_prompts"][:1], images=images)
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    profile["set-threads"] = dict.fromkeys(profile["set-threads"], 1)
    for rule, own in profile["set-resources"].items():
        own |= {"mem_mb": MEMORY, "runtime": 5, **asked.get(rule, {})}
    profile |= {"config": ["run_ahead=1"], "latency-wait": 20, "seconds-between-status-checks": 1}
    profile |= {"slurm-init-seconds-before-status-checks": 1, "slurm-status-command": "squeue", "local-cores": 1}
    write_yaml(folder / "cluster/config.yaml", profile)
    return folder


@contextlib.contextmanager
def running(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Snakemake at work in a folder; what it says is in :func:`said`. Ended at the end."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": paths, "CHARLOOM_TERMINAL": "plain", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), *arguments]
    with open(folder / "said.txt", "wb") as file:
        run = subprocess.Popen(command, cwd=folder, env={**environment, **own}, stdout=file, stderr=file)
    try:
        yield run
    finally:
        # After SIGTERM Snakemake starts nothing more, and waits for what runs.
        run.terminate()
        if run.poll() is None and "SLURM_CONF" in environment:
            subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        run.wait(timeout=120)


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text(errors="replace")[-6000:]


def digests(folder: Path) -> dict[str, str]:
    kinds = ("checkpoints/*", "samples/*/*.png", "latents/*", "embeddings/*", "scores/*")
    files = [path for kind in kinds for path in sorted((folder / "results/mara").glob(kind))]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


class Administrator(threading.Thread):
    """Watches the queue while a workflow runs, and does to it what administrators and clusters do."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(daemon=True)
        self.cluster, self.training = cluster, folder / "results/mara/training"
        self.seen: dict[str, tuple[str, str]] = {}
        self.done: list[str] = []
        self.over = threading.Event()

    def __enter__(self) -> Self:
        self.before = {number for number, *_ in self.queue()}  # of other tests
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(0.2):
            for number, state, what in self.queue():
                if number not in self.before:
                    self.seen[number] = what, state
                    self.act(number, state, what)

    def queue(self) -> list[list[str]]:
        """Number, state and comment of every job, past ones included."""
        said = self.cluster.ask("squeue", "-h", "--states=all", "-o", "%i|%T|%k")
        return [line.split("|") for line in said.splitlines()]

    def act(self, number: str, state: str, what: str) -> None:
        raise NotImplementedError

    def states(self, words: str) -> list[str]:
        """How the jobs of a rule or group ended, in order."""
        return [state for what, state in self.seen.values() if words in what]

    def once(self, what: str, *command: str) -> None:
        if what not in self.done:
            self.done.append(what)
            if command:
                self.cluster.ask(*command)


class Draining(Administrator):
    """Gives the drained node back once a job has waited for it."""

    def act(self, number: str, state: str, what: str) -> None:
        if state == "PENDING" and "encode" in what:
            self.once("drained job waits")
        if "drained job waits" in self.done:
            self.once("resumed", "scontrol", "update", f"NodeName={self.cluster.node}", "State=RESUME")


def test_a_run_through_sbatch_gives_the_same_bytes(cluster, tmp_path, tiny_base):
    """The node is drained at first, and the training gets too little memory."""
    steps = 40
    targets = [f"results/mara/checkpoints/step-{steps:06d}.safetensors", f"results/mara/scores/step-{steps:06d}.json"]
    little = {"train_segment": {"mem_mb": f"{TOO_LITTLE} if attempt == 1 else {MEMORY}"}}
    there = project(tmp_path / "there", tiny_base, steps, steps, **little)
    here = project(tmp_path / "here", tiny_base, steps, steps)
    cluster.ask("scontrol", "update", f"NodeName={cluster.node}", "State=DRAIN", "Reason=test")
    with (
        Draining(cluster, there) as administrator,
        running(there, cluster.environment, *targets, "--profile", "cluster") as run,
        running(here, dict(os.environ), *targets, "--cores", "1") as local,
    ):
        assert local.wait(timeout=1200) == 0, said(here)
        assert run.wait(timeout=1200) == 0, said(there) + cluster.said()
    assert administrator.done == ["drained job waits", "resumed"]
    # The siblings of a stage were one job, and each stage ran once.
    assert administrator.states("encode-mara") == ["COMPLETED"], administrator.seen
    assert administrator.states("judge-mara") == ["COMPLETED"]
    # Slurm without cgroups kills what takes too much memory, and calls the job failed.
    assert administrator.states("train_segment_wildcards_mara") == ["FAILED", "COMPLETED"], administrator.seen
    # With the preparation of the base that is all that was submitted: no job waits for another one of its stage.
    assert len(administrator.seen) == 5, administrator.seen
    assert "exceeded memory limit" in (cluster.folder / "slurmd.log").read_text()
    log = (there / f"results/mara/logs/train_segment/{steps:06d}.log").read_text()
    assert "previews are drawn after training" in log
    assert len(digests(there)) == 8 and digests(there) == digests(here)


class Cancelling(Administrator):
    """Cancels the second training in the middle."""

    def act(self, number: str, state: str, what: str) -> None:
        now = progress.read(self.training)
        if "train_segment" in what and what.endswith("001200") and state == "RUNNING" and now and now.step > 610:
            self.once("cancelled", "scancel", number)


@pytest.mark.slow
def test_a_cancelled_training_goes_on_in_the_middle(cluster, tmp_path, tiny_base):
    there, here = (project(tmp_path / name, tiny_base, 1200, 600) for name in ("there", "here"))
    target = "results/mara/checkpoints/step-001200.safetensors"
    with (
        Cancelling(cluster, there) as administrator,
        running(there, cluster.environment, target, "--profile", "cluster") as run,
        running(here, dict(os.environ), target, "--cores", "1") as local,
    ):
        assert local.wait(timeout=1200) == 0, said(here)
        assert run.wait(timeout=1200) == 0, said(there) + cluster.said()
    assert administrator.done == ["cancelled"]
    first, second = (administrator.states(f"train_segment_wildcards_mara_{step}") for step in ("000600", "001200"))
    assert first == ["COMPLETED"]
    assert len(second) == 2 and second[0] in ("CANCELLED", "FAILED") and second[1] == "COMPLETED", administrator.seen
    assert progress.read(there / "results/mara/training").first > 600
    assert digests(there) == digests(here)


class Impatient(Administrator):
    """Lets a training's time end early: Slurm's own time-out follows."""

    def act(self, number: str, state: str, what: str) -> None:
        now = progress.read(self.training)
        if "train_segment" in what and state == "RUNNING" and now and now.step > 1:
            self.once("time-out", "scontrol", "update", f"JobId={number}", "EndTime=now")


@pytest.mark.slow
def test_a_job_that_times_out_goes_on_where_it_was(cluster, tmp_path, tiny_base):
    """Slurm looks at time limits twice a minute. The training is far longer than that, and never ends."""
    folder = project(tmp_path / "there", tiny_base, 40000, 40000)
    target = "results/mara/checkpoints/step-040000.safetensors"
    with (
        Impatient(cluster, folder) as administrator,
        running(folder, cluster.environment, target, "--profile", "cluster") as run,
    ):
        deadline = time.monotonic() + 1200
        while not ((now := progress.read(administrator.training)) and now.first > 1):
            assert run.poll() is None and time.monotonic() < deadline, said(folder) + cluster.said()
            time.sleep(0.2)
    assert administrator.states("train_segment")[0] == "TIMEOUT", administrator.seen


@pytest.mark.slow
@pytest.mark.skipif(
    not find_spec("snakemake_storage_plugin_fs"), reason="not run: pip install snakemake-storage-plugin-fs"
)
@pytest.mark.skipif(not shutil.which("rsync"), reason="not run: no rsync")
def test_files_may_travel_through_a_storage(cluster, tmp_path, tiny_base):
    """As on machines that share no folder with this one, but for the store."""
    there, here = (project(tmp_path / name, tiny_base, 40, 20) for name in ("there", "here"))
    target = "results/mara/scores/step-000040.json"
    profile, bucket = there / "cluster/config.yaml", tmp_path / "bucket"
    bucket.mkdir()
    shared = ["persistence", "software-deployment", "sources", "source-cache"]
    storage = {"default-storage-provider": "fs", "default-storage-prefix": str(bucket), "shared-fs-usage": shared}
    edit(profile, config=["run_ahead=1", f"store={tmp_path / 'store'}"], **storage)
    with (
        running(there, cluster.environment, target, "--profile", "cluster") as run,
        running(here, dict(os.environ), target, "--cores", "1") as local,
    ):
        assert local.wait(timeout=1200) == 0, said(here)
        assert run.wait(timeout=1200) == 0, said(there) + cluster.said()
    made = {path: digest for path, digest in digests(bucket).items() if "/step-000040" in path}
    assert made and made.items() <= digests(here).items()
