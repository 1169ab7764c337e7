"""The workflow on a real Slurm of one node, started here: what a cluster does to jobs, and the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import small_project
import yaml
from slurm_cluster import Cluster, missing
from small_project import edit, write_yaml

from charloom.train import progress

ROOT = small_project.ROOT
RECIPE = {
    "network": {"rank": 4, "alpha": 4},
    "train": {"steps": 240, "lr": 1.0e-3},
    "save": {"every": 120, "keep": "all"},
    "sample": {"every": 240, "steps": 1, "strengths": []},
    "data": {"resolutions": [64]},
}
TARGETS = ["results/mara/checkpoints/step-000240.safetensors", "results/mara/scores/step-000240.json"]
MEMORY = 3000
"""MB that every job of the tiny run may take."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"not run: {missing()}"),
    pytest.mark.skipif(
        not find_spec("snakemake_executor_plugin_slurm"), reason="not run: pip install snakemake-executor-plugin-slurm"
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.stop()


def project(folder: Path, tiny_base: Path) -> Path:
    """One character of one picture and one prompt, on the tiny base; and the shipped profile with small numbers."""
    small_project.make(folder)
    shutil.rmtree(folder / small_project.BASE["path"])
    shutil.copytree(tiny_base, folder / small_project.BASE["path"])
    recipe = {**small_project.BASE["recipe"], "sample": {"width": 64, "height": 64}, "training_adapter": "none"}
    write_yaml(folder / "config/bases/mini.yaml", {**small_project.BASE, "adapters": {}, "recipe": recipe})
    edit(folder / "config/config.yaml", recipe=RECIPE, device="cpu")
    character, whole = folder / "config/characters/mara.yaml", small_project.CHARACTER
    images = {"source": "paperdoll", "count": 1}
    edit(character, shots=whole["shots"][:1], sample_prompts=whole["sample_prompts"][:1], images=images)
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    profile["set-threads"] = dict.fromkeys(profile["set-threads"], 1)
    for asked in profile["set-resources"].values():
        asked |= {"mem_mb": MEMORY, "runtime": 5}
    profile |= {"config": ["run_ahead=1"], "latency-wait": 20, "seconds-between-status-checks": 1}
    profile |= {"slurm-init-seconds-before-status-checks": 1, "slurm-status-command": "squeue", "local-cores": 1}
    write_yaml(folder / "cluster/config.yaml", profile)
    return folder


def start(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": paths, "CHARLOOM_TERMINAL": "plain", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), *TARGETS, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env={**environment, **own}, text=True, **pipes)


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

    def run(self) -> None:
        while not self.over.wait(0.2):
            for line in self.cluster.ask("squeue", "-h", "--states=all", "-o", "%i|%T|%k").splitlines():
                number, state, what = line.split("|")
                self.seen[number] = what, state
                self.act(number, state, what)

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


class Harsh(Administrator):
    """Drains the node and gives it back, takes memory away from a training, and cancels the next in the middle."""

    def act(self, number: str, state: str, what: str) -> None:
        node = self.cluster.node
        if state == "PENDING" and "encode" in what:
            self.once("drained job waits")
        if "drained job waits" in self.done:
            self.once("resumed", "scontrol", "update", f"NodeName={node}", "State=RESUME")
        now = progress.read(self.training)
        if "train_segment" in what and what.endswith("000240") and state == "RUNNING" and now and now.step > 130:
            self.once("cancelled", "scancel", number)


def test_what_happens_on_clusters_changes_no_byte(cluster, tmp_path, tiny_base):
    there, here = project(tmp_path / "there", tiny_base), project(tmp_path / "here", tiny_base)
    profile = there / "cluster/config.yaml"
    asked = yaml.safe_load(profile.read_text())["set-resources"]
    asked["train_segment"]["mem_mb"] = f"400 if attempt == 1 and wildcards.step == '000120' else {MEMORY}"
    edit(profile, **{"set-resources": asked})
    cluster.ask("scontrol", "update", f"NodeName={cluster.node}", "State=DRAIN", "Reason=test")
    administrator = Harsh(cluster, there)
    administrator.start()
    with start(there, cluster.environment, "--profile", "cluster") as run:
        said, _ = run.communicate(timeout=1800)
    administrator.over.set()
    administrator.join()
    assert run.returncode == 0, said[-6000:] + cluster.said()
    assert administrator.done == ["drained job waits", "resumed", "cancelled"]
    # The siblings of a stage were one job, and each stage ran once.
    assert administrator.states("encode-mara") == ["COMPLETED"], administrator.seen
    assert administrator.states("judge-mara") == ["COMPLETED"]
    first, second = (administrator.states(f"train_segment_wildcards_mara_{step}") for step in ("000120", "000240"))
    # Slurm without cgroups kills what takes too much memory, and calls the job failed.
    assert first == ["FAILED", "COMPLETED"], administrator.seen
    assert "exceeded memory limit" in (cluster.folder / "slurmd.log").read_text()
    assert second[-1] == "COMPLETED" and second[0] in ("CANCELLED", "FAILED"), administrator.seen
    log = (there / "results/mara/logs/train_segment/000120.log").read_text()
    assert "previews are drawn after training" in log
    assert progress.read(there / "results/mara/training").first > 120  # the second went on in the middle
    with start(here, dict(os.environ), "--cores", "1") as run:
        said, _ = run.communicate(timeout=1800)
    assert run.returncode == 0, said[-6000:]
    assert digests(there) == digests(here)


class Impatient(Administrator):
    """Lets a training's time end early: Slurm's own time-out follows."""

    def act(self, number: str, state: str, what: str) -> None:
        now = progress.read(self.training)
        if "train_segment" in what and state == "RUNNING" and now and now.step > 1:
            self.once("time-out", "scontrol", "update", f"JobId={number}", "EndTime=now")


def test_a_job_that_times_out_goes_on_where_it_was(cluster, tmp_path, tiny_base):
    """Slurm looks at time limits twice a minute."""
    folder = project(tmp_path / "there", tiny_base)
    edit(folder / "config/config.yaml", recipe={**RECIPE, "train": {"steps": 20000}, "save": {"every": 20000}})
    administrator = Impatient(cluster, folder)
    administrator.start()
    wanted = "results/mara/checkpoints/step-020000.safetensors"
    with start(folder, cluster.environment, wanted, "--profile", "cluster", "--omit-from", *TARGETS) as run:
        while "time-out" not in administrator.done or len(administrator.states("train_segment")) < 2:
            assert run.poll() is None, run.stdout.read()[-6000:]
            time.sleep(0.5)
        first = administrator.states("train_segment")[0]
        deadline = time.monotonic() + 120
        while not ((now := progress.read(administrator.training)) and now.first > 0):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        run.terminate()
        run.communicate(timeout=120)
    administrator.over.set()
    assert first == "TIMEOUT" and now.first > 1


@pytest.mark.skipif(
    not find_spec("snakemake_storage_plugin_fs"), reason="not run: pip install snakemake-storage-plugin-fs"
)
@pytest.mark.skipif(not shutil.which("rsync"), reason="not run: no rsync")
def test_files_may_travel_through_a_storage(cluster, tmp_path, tiny_base):
    """As on machines that share no folder with this one, but for the store."""
    there, here = project(tmp_path / "there", tiny_base), project(tmp_path / "here", tiny_base)
    profile, bucket = there / "cluster/config.yaml", tmp_path / "bucket"
    bucket.mkdir()
    shared = ["persistence", "software-deployment", "sources", "source-cache"]
    storage = {"default-storage-provider": "fs", "default-storage-prefix": str(bucket), "shared-fs-usage": shared}
    edit(profile, config=["run_ahead=1", f"store={tmp_path / 'store'}"], **storage)
    for folder, environment, how in (
        (there, cluster.environment, ["--profile", "cluster"]),
        (here, dict(os.environ), ["--cores", "1"]),
    ):
        with start(folder, environment, *how) as run:
            said, _ = run.communicate(timeout=1800)
        assert run.returncode == 0, said[-6000:]
    made = {path: digest for path, digest in digests(bucket).items() if "/step-000240" in path}
    assert made and made.items() <= digests(here).items()
