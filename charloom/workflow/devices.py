"""Which GPU a job computes on: each job leases a free one for the lifetime of its process.

A lease is a lock on a file named by the device's UUID, in a folder per machine and user. So jobs of one workflow, jobs
of several, and rank processes never share a GPU by accident, and the operating system releases what a killed process
held. The job then sees only that GPU: it is the only entry left in ``CUDA_VISIBLE_DEVICES``, in its original form (a
number, or the UUID of a GPU or of a part of one). Must not import torch: CUDA reads the variable only once, when it
starts.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from charloom.core.errors import UserError

if TYPE_CHECKING:
    from filelock import FileLock

VISIBLE = "CUDA_VISIBLE_DEVICES"
FOLDER = "CHARLOOM_LEASES"
"""Environment variable: the folder of the locks. Containers that share GPUs should share one."""
SHARE = "CHARLOOM_SHARE_GPU"
"""Environment variable: if set, jobs take no lease and may share a GPU."""
LEASED = "CHARLOOM_LEASED"
"""Environment variable: the parent of this process has leased the GPUs that it sees."""
PAUSE = 0.25
PATIENCE = 3.0
"""Seconds of waiting after which the user is told."""

# In a process of its own, because CUDA reads its environment only once. The driver lists what CUDA_VISIBLE_DEVICES
# allows, in CUDA's own order; nvidia-smi and NVML do neither.
_PROBE = """
import ctypes
for name in ("libcuda.so.1", "nvcuda.dll"):
    try:
        cuda = ctypes.CDLL(name)
        break
    except OSError:
        pass
else:
    raise SystemExit
count = ctypes.c_int()
if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
    raise SystemExit
uuid_of = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid  # the first tells parts of one GPU apart
for index in range(count.value):
    device, uuid = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    if cuda.cuDeviceGet(ctypes.byref(device), index) or uuid_of(uuid, device):
        raise SystemExit
    print(bytes(uuid).hex())
"""


@dataclass(frozen=True)
class Device:
    """A GPU that this process may use: its entry for CUDA_VISIBLE_DEVICES, and its UUID."""

    place: str
    identity: str


def found() -> list[str]:
    """The UUIDs of the GPUs that this process may use, in the order of ``cuda:0``, ``cuda:1``, …"""
    if sys.platform == "darwin":
        return []
    try:
        probe = subprocess.run(
            [sys.executable, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return probe.stdout.split()


def visible() -> list[Device]:
    """The GPUs that this process may use; none without an NVIDIA driver."""
    identities = found()
    given = os.environ.get(VISIBLE)
    places = [str(i) for i in range(len(identities))] if given is None else [p.strip() for p in given.split(",")]
    return [Device(place, identity) for place, identity in zip(places, identities, strict=False)]


_leases: dict[str, FileLock] = {}
"""What this process holds, by its entry for CUDA_VISIBLE_DEVICES."""


def lease(name: str, count: int = 1, log: Callable[[str], None] | None = None) -> list[str]:
    """Lease ``count`` free GPUs for this process, waiting until there are enough.

    ``name`` is a device of ``config.yaml``: ``cuda:1`` is that one, ``auto`` and ``cuda`` any. Returns their entries
    for CUDA_VISIBLE_DEVICES; empty if there is nothing to lease: on a CPU, an Apple GPU, or a GPU of another vendor.

    Raises:
        UserError: there are not that many.
    """
    if not name.startswith(("auto", "cuda")) or os.environ.get(LEASED):
        return []
    if len(_leases) >= count:
        return list(_leases)[:count]  # asked again
    devices = named(name)
    if not devices and count == 1:
        return []  # another vendor's, or none: the caller reports that
    if few := _too_few(name, count, len(devices)):
        raise few
    if os.environ.get(SHARE):
        return [device.place for device in devices[:count]] if count > 1 or ":" in name else []
    return [device.place for device in _locked(devices, count, log or _say)]


def shortage(name: str, count: int) -> str:
    """What :func:`lease` would say about too few GPUs, before anything is made; empty if there are enough."""
    if count == 1 or not name.startswith(("auto", "cuda")) or os.environ.get(LEASED):
        return ""
    return str(_too_few(name, count, len(visible())) or "")


def _too_few(name: str, count: int, there: int) -> UserError | None:
    if there >= count:
        return None
    return UserError(f"gpus: {count}, but device {name} has {_counted(there)}; set gpus: {max(1, there)}")


def beside(name: str) -> list[str]:
    """A GPU for a job that needs so little of it that it may run beside another job: the one that is leased last.

    Raises:
        UserError: there is no such GPU.
    """
    return [] if os.environ.get(LEASED) else [device.place for device in named(name)[-1:]]


def named(name: str) -> list[Device]:
    """The GPUs that ``name``, a device of ``config.yaml``, may mean.

    Raises:
        UserError: there is no such GPU.
    """
    devices = visible() if name.startswith(("auto", "cuda")) else []
    if ":" not in name or not devices:
        return devices
    index = int(name.partition(":")[2])
    if index >= len(devices):
        raise UserError(
            f"device {name}: this machine shows {_counted(len(devices))}, counted from cuda:0; name one of them"
        )
    return devices[index : index + 1]


def _locked(devices: Sequence[Device], count: int, log: Callable[[str], None]) -> list[Device]:
    from filelock import FileLock, Timeout

    folder = leases_folder()
    taken: dict[Device, FileLock] = {}
    began = time.monotonic()

    def free(lock: FileLock) -> bool:
        """Take a lock if nobody holds it."""
        with contextlib.suppress(Timeout):
            lock.acquire(blocking=False)
        return lock.is_locked

    def pause() -> None:
        """Wait a moment; say once, after a few seconds, what for."""
        nonlocal began
        if began and time.monotonic() - began > PATIENCE:
            log(f"waiting for a free GPU: {_held(folder, [d for d in devices if d not in taken])}")
            began = 0.0
        time.sleep(PAUSE)

    # Only one process at a time gathers several: two that hold one each and want two would wait forever. A process that
    # wants one certain GPU waits without holding the gate, so that the others go on.
    gate = FileLock(folder / "gate.lock") if len(devices) > count or count > 1 else None
    while gate and not free(gate):
        pause()
    try:
        while True:
            for device in devices:
                lock = FileLock(folder / f"{_plain(device.identity)}.lock")
                if device not in taken and len(taken) < count and free(lock):
                    taken[device] = lock
                    with contextlib.suppress(OSError):
                        _note(folder, device).write_text(_holder(), encoding="utf-8")
            if len(taken) == count:
                break
            pause()
    finally:
        if gate:
            gate.release()
    _leases.update({device.place: lock for device, lock in taken.items()})
    return list(taken)


def _holder() -> str:
    """What waiting processes are told about this one: script, character, process number and start."""
    whose = next((found[1] for one in sys.argv[1:] if (found := re.search(r"(?:^|/)results/([^/]+)", one))), "")
    job = f"{Path(sys.argv[0]).stem}{whose and f' of {whose}'}"
    return f"{job}, process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M')}"


def release() -> None:
    """Release what this process has leased; its end does the same."""
    while _leases:
        _leases.popitem()[1].release()


def leases_folder() -> Path:
    """The folder of the locks: this machine's and this user's alone.

    Raises:
        UserError: the folder belongs to somebody else.
    """
    if given := os.environ.get(FOLDER):
        folder = Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if not hasattr(os, "getuid"):
        folder = Path(tempfile.gettempdir(), "charloom-gpus")
        folder.mkdir(exist_ok=True)
        return folder
    # Not TMPDIR, which may differ between two jobs of one user.
    folder = Path("/tmp", f"charloom-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else; name a folder of your own in {FOLDER}")
    return folder


def _held(folder: Path, devices: Sequence[Device]) -> str:
    holders = []
    for device in devices:
        with contextlib.suppress(OSError):
            holders.append(f"GPU {device.place} is held by {_note(folder, device).read_text(encoding='utf-8')}")
    return f"{'; '.join(holders) or 'other jobs hold them'} ({SHARE}=1 uses it anyway)"


def _note(folder: Path, device: Device) -> Path:
    return folder / f"{_plain(device.identity)}.holder"


def _plain(identity: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", identity)


def _counted(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
