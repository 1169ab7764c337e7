"""What goes wrong inside a job: killed at its k-th system call of note, after a while or at its end, memory that runs
out, a GPU that is lost, a disk without room, a clock that was set back.

The fault and the folder for notes come by the environment: ``FAULT`` (JSON) and ``FAULTS_NOTES``. Only the first job of
the fault's rule meets it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.rename", "os.remove", "os.utime", "os.chmod", "os.link", "os.mkdir", "shutil.copyfile"}
"""Audit events at which a job may be killed."""


def rule_of(arguments: list[str]) -> str:
    """The rule of a job, from its log; scripts that serve several rules have several logs."""
    for flag, value in zip(arguments, arguments[1:], strict=False):
        if flag == "--log":
            parts = Path(value).with_suffix("").parts
            return parts[parts.index("logs") + 1]
    rule, outputs = Path(arguments[0]).stem, [value for value in arguments if value.startswith("results/")]
    if rule == "make_source_image" and any(value.endswith("/reference.png") for value in outputs):
        return "make_reference"
    if rule in ("convert_picture", "take_caption") and any(value.count("/") > 3 for value in outputs):
        return rule.replace("_", "_set_")
    return rule


def note(name: str, line: str) -> None:
    with open(Path(os.environ["FAULTS_NOTES"], name), "a") as file:
        file.write(line + "\n")


def claim(request: dict[str, Any]) -> dict[str, Any]:
    """The fault that this job meets; empty for none."""
    fault = json.loads(os.environ.get("FAULT", "{}"))
    rule = "snakemake" if request.get("snakemake") else rule_of(request["arguments"])
    if fault.get("everywhere"):
        return fault
    if not fault or fault.get("rule") != rule:
        return {}
    try:
        os.close(os.open(Path(os.environ["FAULTS_NOTES"], "fired"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return {}
    return fault


def before(fault: dict[str, Any]) -> None:
    """What happens to the machine before the job starts: its disk has only so much room left."""
    if fault.get("kind") == "disk full":
        disk = os.statvfs(fault["mount"])
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        size = used + fault["room"]
        subprocess.run(["mount", "-o", f"remount,size={size}", fault["mount"]], check=True)
        note("met", str(size))


def register(request: dict[str, Any], child: int) -> None:
    rule = "snakemake" if request.get("snakemake") else rule_of(request["arguments"])
    note("pids", f"{child} {rule}")


def watch(child: int, fault: dict[str, Any]) -> int:
    """Wait for a job, and kill it when its time has come."""
    if fault.get("kind") == "kill" and "seconds" in fault:
        until = time.monotonic() + fault["seconds"]
        while time.monotonic() < until:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.002)
        note("met", str(child))
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def install(request: dict[str, Any]) -> None:
    """In the job itself."""
    fault, arguments = request["fault"], request["arguments"]
    if os.environ.get("FAULTS_COUNT") and not request.get("snakemake"):
        _count(arguments)
    kind = fault.get("kind")
    if kind == "kill":
        # A job that is over before dies at its end, its files made and nobody told.
        atexit.register(_die if "event" in fault else lambda: time.sleep(60))
        if "event" in fault:
            _at_event(fault["event"], _die)
    elif kind in ("out of memory", "GPU lost"):
        _fail_products(kind, fault["call"])
    elif kind == "clock set back":
        note("met", str(os.getpid()))
        _set_clock_back(fault["by"])
    if fault.get("synced"):
        _note_synced()


def _die() -> None:
    note("met", str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)


def _at_event(number: int, act: Any) -> None:
    left = [number]

    def hook(event: str, _: Any) -> None:
        if event in EVENTS:
            left[0] -= 1
            if left[0] == 0:
                act()

    sys.addaudithook(hook)


def _products(called: Any) -> None:
    """Call ``called`` before every Linear and convolution, whose place a GPU's kernels have."""
    import torch

    linear = torch.nn.functional.linear

    def before_linear(*arguments: Any, **named: Any) -> Any:
        called()
        return linear(*arguments, **named)

    torch.nn.functional.linear = before_linear
    convolve = torch.nn.Conv2d.forward

    def before_convolution(*arguments: Any, **named: Any) -> Any:
        called()
        return convolve(*arguments, **named)

    torch.nn.Conv2d.forward = before_convolution


def _fail_products(kind: str, number: int) -> None:
    import torch

    left = [number]

    def called() -> None:
        left[0] -= 1
        if left[0] == 0:
            note("met", str(os.getpid()))
        if kind == "out of memory" and left[0] == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if kind == "GPU lost" and left[0] <= 0:  # and never comes back
            raise RuntimeError("CUDA error: device-side assert triggered; the GPU has fallen off the bus")

    _products(called)


def _set_clock_back(by: float) -> None:
    real = time.time
    time.time = lambda: real() - by
    rename = os.replace

    def replace(source: Any, target: Any, **named: Any) -> None:
        rename(source, target, **named)
        with contextlib.suppress(OSError):
            os.utime(target, (real() - by,) * 2)

    os.replace = replace


def _note_synced() -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        note("synced", str(os.fstat(fd).st_ino))

    os.fsync = fsync


def _count(arguments: list[str]) -> None:
    seen: dict[str, Any] = {"events": 0, "calls": 0, "stored": []}

    def hook(event: str, about: tuple[Any, ...]) -> None:
        if event in EVENTS:
            seen["events"] += 1
        if event == "os.rename" and "store" in str(about[1]):
            seen["stored"].append(os.path.relpath(os.fsdecode(about[1])))

    def called() -> None:
        seen["calls"] += 1

    started = time.monotonic()
    sys.addaudithook(hook)
    _products(called)
    made = [value for value in arguments[1:] if value.startswith(("results/", "work/"))]

    def told() -> None:
        facts = {"rule": rule_of(arguments), "named": made, "seconds": time.monotonic() - started, **seen}
        note("jobs", json.dumps(facts))

    atexit.register(told)
