"""One run in several processes: the same bytes as in one, and an end in common when one of them is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from train_helpers import checkpoint_bytes, equal, job_of, quiet, recipe, state_bytes

from charloom.core.errors import Killed, UserError
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors
from charloom.train import progress, ranks
from charloom.train import state as states
from charloom.train.keys import checkpoint_key
from charloom.train.loop import train
from charloom.workflow import devices, launch

WORKER = Path(__file__).parents[1] / "rank_worker.py"
TRAIN = {"steps": 6, "batch_size": 1, "gradient_accumulation": 4}
EVERYTHING = {
    "network": {"dropout": 0.2},
    "train": {
        **TRAIN,
        "ema": {"decay": 0.9},
        "lr_scheduler": "cosine",
        "max_grad_norm": 0.05,
        "preservation": {"blank": {"enabled": True}},
    },
    "save": {"every": 2},
    "data": {"caption_dropout": 0.3},
}


@pytest.fixture(autouse=True)
def _own_code(monkeypatch):
    paths = [str(WORKER.parent), str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def command(manifest, recipe_, store, log, until, **more):
    asked = {"manifest": str(manifest), "recipe": recipe_, "store": str(store.root), "log": str(log), "until": until}
    return [sys.executable, str(WORKER), json.dumps({**asked, **more})]


def run(manifest, recipe_, store, log, count, until, **more):
    """Train in ``count`` processes; the lines of their log."""
    lines = []
    launch.run(command(manifest, recipe_, store, log, until, **more), count, [], lines.append)
    return lines


def records(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("rate", "memory", "gpu_memory")} for line in lines]


def test_three_processes_give_the_bytes_of_one(make_dataset, tmp_path):
    """With clipping, EMA, dropout, a second term, and a round that leaves two of the processes idle."""
    manifest, recipe_ = make_dataset(), recipe(**EVERYTHING)
    job = job_of(manifest, recipe_, tmp_path / "log")
    one, several = Store(tmp_path / "one"), Store(tmp_path / "several")
    train(job, one, 4, quiet)
    run(manifest, recipe_, several, tmp_path / "several-log", 3, 4)
    assert checkpoint_bytes(several, job, [2, 4]) == checkpoint_bytes(one, job, [2, 4])
    assert state_bytes(several, job, 4) == state_bytes(one, job, 4)
    assert records(tmp_path / "several-log") == records(tmp_path / "log")


def test_dropout_of_whole_modules_may_differ_between_processes(make_dataset, tmp_path):
    """LoKr drops modules, so a parameter may have a gradient from some samples of an update alone."""
    manifest = make_dataset()
    recipe_ = recipe(network={"type": "lokr", "dropout": 0.5}, train={**TRAIN, "gradient_accumulation": 3})
    job = job_of(manifest, recipe_, tmp_path / "log")
    one, several = Store(tmp_path / "one"), Store(tmp_path / "several")
    train(job, one, 4, quiet)
    said = run(manifest, recipe_, several, tmp_path / "several-log", 2, 4)
    assert state_bytes(several, job, 4) == state_bytes(one, job, 4)
    assert not said


def test_torch_has_nothing_to_say_against_how_gradients_are_exchanged():
    """It warns of the older of two names in the log of everybody who trains on several GPUs."""
    both = hasattr(torch.distributed, "all_gather_single")
    assert (ranks._all_gather is not torch.distributed.all_gather_into_tensor) == both


def test_a_killed_process_ends_the_others_and_any_number_goes_on(make_dataset, tmp_path):
    """Batches of four by two processes, killed, by two again, then by one: the bytes of samples one by one."""
    manifest = make_dataset()
    alone = recipe(train=TRAIN, save={"every": 2})
    batches = recipe(train={**TRAIN, "batch_size": 4, "gradient_accumulation": 1}, save={"every": 2})
    expected, job = job_of(manifest, alone, tmp_path / "alone"), job_of(manifest, batches, tmp_path / "log")
    one, several = Store(tmp_path / "one"), Store(tmp_path / "several")
    train(expected, one, 6, quiet)
    killed = pytest.raises(Killed, match=r"^process 2 of 2 .* was killed \(SIGKILL\); .* run again .*$")
    with killed, progress.noticed(tmp_path / "log"):
        run(manifest, batches, several, tmp_path / "log", 2, 6, dies=[1, 5])  # in its third update
    with progress.noticed(tmp_path / "log") as noticed:
        assert noticed
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not left
    assert states.newest(several, job.run_key, 6).step == 2
    run(manifest, batches, several, tmp_path / "log", 2, 4)
    said = []
    train(job, several, 6, quiet, said.append)
    assert not said  # it goes on as it began

    def tensors(store, key):
        return read_safetensors(store.path("checkpoint", checkpoint_key(key, 6), ".safetensors"))[0]

    assert equal(tensors(several, job.run_key), tensors(one, expected.run_key))


def test_a_request_to_stop_is_passed_on_and_all_is_saved(make_dataset, tmp_path):
    """Even if saving takes longer than a failed process leaves the others."""
    recipe_ = recipe(train={**TRAIN, "steps": 5000}, save={"every": 5000})
    manifest, store, log = make_dataset(), Store(tmp_path / "store"), tmp_path / "log"
    asked = command(manifest, recipe_, store, log, 5000, saves_for=launch.GRACE / 3 + 1)
    program = f"from charloom.workflow import launch; launch.run({asked!r}, 2, [], print)"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 600
        while not ((now := progress.read(log)) and now.step >= 2):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert [line for line in said.splitlines() if line.startswith("stopped: after step ")] and "error" not in said
    job = job_of(manifest, recipe_, log)
    assert states.newest(store, job.run_key, 5000).step == progress.read(log).step
    assert progress.read(log).state == progress.STOPPED


@pytest.mark.gpu
def test_two_gpus_give_the_bytes_of_one(make_dataset, tmp_path):
    """With ``deterministic``, over NCCL."""
    found = devices.visible()
    if len(found) < 2:
        pytest.skip(f"needs two GPUs, {len(found)} are here")
    manifest, recipe_ = make_dataset(), recipe(**EVERYTHING)
    job, made = job_of(manifest, recipe_, tmp_path / "log"), {}
    for count in (1, 2):
        store = Store(tmp_path / str(count))
        asked = command(manifest, recipe_, store, tmp_path / f"log{count}", 4, device="cuda")
        launch.run(asked, count, [device.place for device in found[:count]], print)
        made[count] = checkpoint_bytes(store, job, [2, 4]), state_bytes(store, job, 4)
    assert made[1] == made[2]


PLAIN = """
import os, sys, time
from charloom.train import meeting
from charloom.core.errors import UserError
rank = meeting.told()[0]
def main():
    {body}
meeting.run(main)
"""


def start(body, count=2):
    launch.run([sys.executable, "-c", PLAIN.format(body=body)], count, [], print)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("if rank: raise UserError('no room')\n    time.sleep(60)", "process 2 of 2 of this training: no room; "),
        (
            "if rank == 1: raise meeting.Lost\n    if rank == 2: time.sleep(.3); os.abort()",
            r"process 3 of 3 .*\(SIGABRT\)",
        ),
        ("if rank: raise ValueError('a bug')\n    time.sleep(60)", "process 2 of 2 .*: ValueError: a bug; "),
    ],
)
def test_the_one_line_names_who_failed_and_why(body, line):
    began = time.monotonic()
    with pytest.raises(UserError, match=line) as caught:
        start(body, 3 if "rank == 2" in body else 2)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 20


def test_the_first_process_speaks_for_itself(capfd):
    with pytest.raises(SystemExit) as ended:
        start("raise UserError('of both')")
    assert ended.value.code == 1
    assert capfd.readouterr().err.count("of both") == 1


def test_why_they_cannot_talk_is_said(tmp_path):
    """When all are lost, none is guilty: what their libraries say is all there is."""
    with pytest.raises(UserError, match=r"cannot talk to the others \(no address for: eth99\); .*gpus: 1") as caught:
        start("raise meeting.Lost('no address for: eth99')")
    assert "\n" not in str(caught.value)


def test_folders_of_killed_runs_go_and_those_of_running_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(launch.tempfile, "gettempdir", lambda: str(tmp_path))
    killed, running = tmp_path / f"{launch.FOLDERS}killed", tmp_path / f"{launch.FOLDERS}running"
    for folder in (killed, running):
        folder.mkdir()
    with launch.FileLock(running / launch.HELD):
        launch._forget_killed()
        assert [path for path in tmp_path.iterdir() if path.name.startswith(launch.FOLDERS)] == [running]


def test_processes_end_with_the_one_that_started_them(tmp_path):
    body = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(str(os.getpid())); time.sleep(60)"
    program = PLAIN.format(body=body)
    starter = (
        f"import sys\nfrom charloom.workflow.launch import run\nrun([sys.executable, '-c', {program!r}], 2, [], print)"
    )
    with subprocess.Popen([sys.executable, "-c", starter]) as process:
        files = [tmp_path / "0", tmp_path / "1"]
        deadline = time.monotonic() + 60
        while not all(file.exists() and file.read_text() for file in files):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    pids = [int(file.read_text()) for file in files]
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
