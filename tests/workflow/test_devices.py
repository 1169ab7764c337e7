"""Each job computes on a free GPU of its own: leases between real processes, on GPUs of a simulated driver."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_project
from cli_helpers import call

from charloom.cli import doctor
from charloom.core.errors import UserError
from charloom.workflow import devices, jobs, training

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
#include <stdlib.h>
#include <string.h>
/* A driver with the GPUs of FAKE_GPUS (letters), which honours CUDA_VISIBLE_DEVICES as NVIDIA's does: numbers or
   UUIDs, up to the first that names nothing. */
static int seen[16], count = -1;
static void fill(unsigned char *u, char c) { memset(u, c, 16); }
int cuInit(unsigned flags) {
    const char *all = getenv("FAKE_GPUS"), *some = getenv("CUDA_VISIBLE_DEVICES");
    int n = all ? strlen(all) : 0;
    count = 0;
    if (!some) { for (int i = 0; i < n; i++) seen[count++] = all[i]; return n ? 0 : 100; }
    char copy[512]; strncpy(copy, some, 511); copy[511] = 0;
    for (char *p = strtok(copy, ","); p; p = strtok(NULL, ",")) {
        int i = -1;
        if (!strncmp(p, "GPU-", 4)) { for (int k = 0; k < n; k++) if (all[k] == p[4]) i = k; }
        else if (*p >= '0' && *p <= '9') i = atoi(p);
        if (i < 0 || i >= n) break;
        seen[count++] = all[i];
    }
    return count ? 0 : 100;
}
int cuDeviceGetCount(int *n) { *n = count; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return i < count ? 0 : 101; }
int cuDeviceGetUuid(unsigned char *u, int d) { fill(u, '?'); return 0; }
int cuDeviceGetUuid_v2(unsigned char *u, int d) { fill(u, seen[d]); return 0; }
"""
JOB = """
import json, os, sys, time
from charloom.workflow import devices
places = devices.lease(sys.argv[1], int(sys.argv[2]))
print(json.dumps(places), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """A folder with a shared library that answers like a driver."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    try:
        made = subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "cuda.c"], check=False)
    except FileNotFoundError:
        pytest.skip("needs a C compiler")
    assert made.returncode == 0
    return folder


@pytest.fixture
def machine(driver, tmp_path, monkeypatch):
    """A machine with three GPUs: A, B and C."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("FAKE_GPUS", "ABC")
    monkeypatch.setenv(devices.FOLDER, str(tmp_path / "leases"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in (devices.VISIBLE, devices.SHARE, devices.LEASED):
        monkeypatch.delenv(name, raising=False)
    yield
    devices.release()


class Job:
    """A process that leases and then computes until told to end."""

    def __init__(self, name: str = "auto", count: int = 1, output: str = "", **environment: str) -> None:
        command = [sys.executable, "-c", JOB, name, str(count), output]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, text=True, **pipes)

    def places(self) -> list[str]:
        return json.loads(self.process.stdout.readline())

    def has_started(self, seconds: float = 1.0) -> bool:
        import select

        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def end(self) -> str:
        return self.process.communicate("\n", timeout=30)[1]


def test_every_job_gets_a_gpu_of_its_own_and_the_next_waits(machine):
    jobs = [Job(output="results/mara/final.safetensors") for _ in range(3)]
    held = {job.places()[0]: job.process.pid for job in jobs}
    assert sorted(held) == ["0", "1", "2"]
    waiting = [Job(), Job()]
    began = time.monotonic()
    for one in waiting:
        assert not one.has_started(max(0.1, began + devices.PATIENCE + 1.5 - time.monotonic()))
    for job in jobs:
        job.end()
    for one in waiting:
        assert one.has_started(20) and one.places()
        # Once, whichever of the two came first: who holds which GPU, for whom, and since when.
        line, *more = [line for line in one.end().splitlines() if "waiting" in line]
        assert not more and line.startswith("  waiting for a free GPU: GPU 0 is held by -c of mara, process ")
        for place, number in held.items():
            assert re.search(
                rf"GPU {place} is held by -c of mara, process {number}, since \d{{4}}-\d\d-\d\d \d\d:\d\d", line
            )


def test_a_killed_job_leaves_its_gpu_to_the_next(machine):
    first = Job("cuda:2")
    assert first.places() == ["2"]
    second, other = Job("cuda:2"), Job("auto")
    assert other.places() == ["0"]  # who waits for a certain GPU is in nobody's way
    assert not second.has_started()
    first.process.send_signal(signal.SIGKILL)
    assert second.has_started(20) and second.places() == ["2"]
    for job in (first, second, other):
        job.process.kill()
        job.process.communicate()


def test_two_that_want_several_do_not_wait_for_each_other_forever(machine):
    jobs = [Job("cuda", 2) for _ in range(3)]
    began, done = time.monotonic(), 0
    while done < 3:
        ready = [job for job in jobs if job.has_started(0.1)]
        assert len(ready) <= 1, "three GPUs are enough for one of them"
        for job in ready:
            assert len(set(job.places())) == 2
            job.end()
            jobs.remove(job)
            done += 1
        assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("visible", "name", "place"),
    [
        ("2,0", "cuda", "2"),
        ("2,0", "cuda:1", "0"),
        ("GPU-C1,GPU-B", "cuda:1", "GPU-B"),
        ("1,7,0", "cuda:0", "1"),
        ("", "auto", None),
        ("-1", "auto", None),
    ],
)
def test_what_the_user_hides_stays_hidden(machine, monkeypatch, visible, name, place):
    monkeypatch.setenv(devices.VISIBLE, visible)
    for _ in range(2):  # who asks again has it already
        assert devices.lease(name) == ([place] if place else [])


def test_one_gpu_is_one_gpu_whatever_it_is_called(machine):
    """A job that sees GPU B as number 0 holds it for one that sees it by its UUID."""
    first = Job("auto", CUDA_VISIBLE_DEVICES="1")
    assert first.places() == ["1"]
    second = Job("auto", CUDA_VISIBLE_DEVICES="GPU-B")
    assert not second.has_started()
    third = Job("auto", CUDA_VISIBLE_DEVICES="GPU-B", **{devices.SHARE: "1"})
    assert third.places() == []
    first.end()
    assert second.places() == ["GPU-B"]
    for job in (second, third):
        job.end()


def test_nothing_is_leased_without_a_gpu(machine, monkeypatch):
    assert devices.lease("cpu") == devices.lease("mps") == []
    monkeypatch.setenv("FAKE_GPUS", "")
    assert devices.lease("auto") == devices.lease("cuda") == []
    with pytest.raises(UserError, match=r"^gpus: 2, but device auto has 0 GPUs; set gpus: 1$"):
        devices.lease("auto", 2)


def test_a_small_job_runs_beside_others(machine):
    """Preparing a base must not keep a GPU from those who encode meanwhile, and takes the one that is leased last."""
    assert devices.beside("auto") == ["2"] and devices.beside("cuda:1") == ["1"] and devices.beside("cpu") == []
    first = Job("cuda:2")
    assert first.places() == ["2"] and devices.beside("cuda") == ["2"]
    first.end()


def test_asking_for_what_is_not_there_is_one_line(machine, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "0,1")
    with pytest.raises(
        UserError, match=r"^device cuda:2: this machine shows 2 GPUs, counted from cuda:0; name one of them$"
    ):
        devices.lease("cuda:2")
    with pytest.raises(UserError, match=r"^gpus: 3, but device cuda has 2 GPUs; set gpus: 2$"):
        devices.lease("cuda", 3)


@pytest.fixture
def on_four(tmp_path) -> Path:
    """A project whose training takes four GPUs."""
    folder = small_project.make(tmp_path / "project")
    recipe = {**small_project.CONFIG["recipe"], "train": {"steps": 100, "batch_size": 4}}
    small_project.edit(folder / "config/config.yaml", gpus=4, recipe=recipe)
    return folder


FEW = "gpus: 4, but device auto has 3 GPUs; set gpus: 3"


def test_too_few_gpus_stop_a_run_before_anything_is_made(machine, on_four):
    done = small_project.snakemake(on_four, "--cores", "1", small_project.TARGET, code=ROOT)
    assert done.returncode == 1 and not list(on_four.glob("results/mara/*/*"))
    assert [line for line in done.stderr.splitlines() if "gpus: 4" in line] == [f"error: mara: {FEW}"]
    # It has left the folder unlocked, and a run that trains nothing does not want them.
    done = small_project.snakemake(on_four, "--cores", "1", "results/mara/prompts.html", code=ROOT)
    assert done.returncode == 0 and "gpus: 4" not in done.stderr, done.stderr


def test_a_plan_lint_and_doctor_say_that_there_are_too_few_gpus(machine, on_four, monkeypatch, capsys):
    planned = small_project.snakemake(on_four, "-n", small_project.TARGET, code=ROOT)
    assert planned.returncode == 0 and f"note: mara: {FEW}\n" in planned.stderr
    monkeypatch.chdir(on_four)
    assert call("lint", "mara").stdout.splitlines()[-1] == f"note: {FEW}"
    assert f"training: {FEW}" in map(str, doctor.examine(on_four, hub=False))


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"gpus": 3}, {"recipe": small_project.CONFIG["recipe"]}])
def test_enough_gpus_need_no_words(machine, on_four, change):
    """The CPU has no number of them, and a step of one sample wants one."""
    small_project.edit(on_four / "config/config.yaml", **change)
    planned = small_project.snakemake(on_four, "-n", small_project.TARGET, code=ROOT)
    assert planned.returncode == 0 and "gpus: " not in planned.stderr + planned.stdout


def test_gpus_of_other_machines_are_not_counted(machine, on_four):
    """A cluster's, planned on a machine with fewer; the executor stands for one that may not be installed."""
    planned = small_project.snakemake(on_four, "-n", "--executor", "touch", small_project.TARGET, code=ROOT)
    assert planned.returncode == 0 and "gpus: " not in planned.stderr + planned.stdout


def test_characters_do_not_wait_for_each_other(tmp_path, monkeypatch):
    """Jobs of a stage share a lock with their siblings, and with nobody else's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = {}
    for script in sorted((ROOT / "scripts").glob("*.py")):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "jobs.serve":
                names[script.stem] = ast.unparse(node.args[5])
    assert len(names) == 9
    for name, lock in names.items():
        text = (ROOT / "scripts" / f"{name}.py").read_text()
        found = re.search(rf"^    {re.escape(lock)} = (f.*)$", text, re.MULTILINE)
        made = found[1] if found else lock
        whose = r"\{whose\}|\{arguments\.results(\.root)?\.name\}|^training\.lock\(self\.run\)$"
        assert re.search(whose, made), (name, lock)
    assert training.lock("1" * 64) != training.lock("2" * 64)
    assert jobs.character_of(Path("results/mara/latents/others/a-1.safetensors"), "latents") == "mara"
    assert jobs.character_of(Path("a.safetensors"), "latents") == "any"


def test_a_folder_of_somebody_else_is_not_trusted(machine, monkeypatch, tmp_path):
    monkeypatch.delenv(devices.FOLDER)
    monkeypatch.setattr(devices.os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(UserError, match="belongs to somebody else"):
        devices.leases_folder()
    Path("/tmp/charloom-gpus-4000000000").rmdir()
