"""Processes of a run under test, forked from one that has imported everything: a job starts in milliseconds.

``python fault_server.py SOCKET`` serves; :func:`client` writes the interpreter that jobs are started with. Every job is
a process of its own that can be killed, and reads the fault meant for it from the environment (``fault_hooks``).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    *(
        "snakemake.cli",
        "snakemake.api",
        "snakemake.workflow",
        "snakemake.executors.dryrun",
        "snakemake.executors.local",
    ),
    *("jsonschema", "filelock", "psutil", "torch", "safetensors.torch", "peft", "PIL.Image", "jinja2"),
    *("diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.transformers.transformer_z_image"),
    *("transformers.models.qwen3.modeling_qwen3", "transformers.models.qwen2.tokenization_qwen2"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "tensorboard.summary.writer.event_file_writer"),
    *("charloom.config.project", "charloom.base.locks", "charloom.dataset.sources.paperdoll", "charloom.planning.lean"),
    *("charloom.workflow.slices", "charloom.workflow.targets", "charloom.workflow.samples", "charloom.workflow.texts"),
    *("charloom.workflow.prepared", "charloom.workflow.latents", "charloom.train.loop", "charloom.zimage.weights"),
    *("charloom.report.page", "charloom.report.grid", "charloom.report.curves", "charloom.lora.finished"),
)
ASKING = ("google.genai", "httpx", "diffusers.pipelines.z_image.pipeline_z_image", "transformers.models.dinov2")

CLIENT = """#!{python} -SEs
# Stands in for the interpreter of the jobs: has the server run the script.
import array, json, os, socket, struct, sys
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["FAULTS_SOCKET"])
request = dict(arguments=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
text = json.dumps(request).encode()
fds = array.array("i", [1, 2])
server.sendmsg([struct.pack("<Q", len(text))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
server.sendall(text)
code = int(server.recv(64) or b"-9")
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def client(folder: Path) -> Path:
    """Write the interpreter for the jobs."""
    path = folder / "python-of-jobs"
    path.write_text(CLIENT.format(python=sys.executable))
    path.chmod(0o755)
    return path


class Server:
    """The serving process, and what is asked of it from here."""

    def __init__(self, folder: Path, asked: bool = False) -> None:
        """``asked``: with the servers that a run may ask."""
        self.socket, self.shop = folder / "socket", folder / "shop"
        self.python = client(folder)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CHARLOOM_TERMINAL": "plain"}
        with open(folder / "server.log", "w") as log:
            # Nothing that a run does may need the network: where it can be cut, it is.
            cut = (
                ["unshare", "-n"]
                if not subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode
                else []
            )
            command = [*cut, sys.executable, __file__, str(self.socket), *([str(self.shop)] if asked else [])]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            self._wait(folder / "server.log", time.monotonic() + 300)
        except BaseException:  # who waits may be told to end
            self.close()
            raise

    def _wait(self, log: Path, until: float) -> None:
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)

    @property
    def url(self) -> str:
        """Where a generator and a captioner answer."""
        return (self.shop / "url").read_text() if self.shop.exists() else ""

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: with the shop, without the jobs
        self.process.wait()

    def start(self, folder: Path, arguments: list[str], environment: dict[str, str], output: Path) -> socket.socket:
        """Start ``snakemake ARGUMENTS`` in ``folder``; the socket gives its exit code."""
        environment = {**environment, "FAULTS_SOCKET": str(self.socket), "CHARLOOM_PYTHON": str(self.python)}
        request = {"arguments": arguments, "folder": str(folder), "environment": environment, "snakemake": True}
        text = json.dumps(request).encode()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.socket))
        with open(output, "wb") as file:
            fds = array.array("i", [file.fileno(), file.fileno()])
            connection.sendmsg([struct.pack("<Q", len(text))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        connection.sendall(text)
        return connection


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, ancillary, *_ = connection.recvmsg(8, socket.CMSG_SPACE(2 * array.array("i").itemsize))
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    left, parts = struct.unpack("<Q", head)[0], []
    while left:
        parts.append(connection.recv(left))
        left -= len(parts[-1])
    return json.loads(b"".join(parts)), list(fds)


def serve(path: str) -> dict[str, Any]:
    """Answer for ever; a forked child returns from here with its request and runs it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        request, fds = _receive(connection)
        os.environ.clear()
        os.environ.update(request["environment"])
        import fault_hooks

        fault = fault_hooks.claim(request)
        fault_hooks.before(fault)
        child = os.fork()
        if not child:
            connection.close()
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, fd in enumerate(fds, 1):
                os.dup2(fd, number)
                os.close(fd)
            os.chdir(request["folder"])
            return {**request, "fault": fault}
        fault_hooks.register(request, child)
        status = fault_hooks.watch(child, fault)
        try:
            connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        except OSError:
            pass  # whoever asked was killed
        os._exit(0)


def run(request: dict[str, Any]) -> NoReturn:
    """Run what was asked for, in a forked child. It ends without taking the interpreter apart, which takes a second."""
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    code: Any = 0
    try:
        import fault_hooks

        fault_hooks.install(request)
        if request.get("snakemake"):
            from snakemake import cli

            sys.argv = ["snakemake", *request["arguments"]]
            sys.path[0] = request["folder"]
            cli.main()
        else:
            sys.argv = request["arguments"]
            sys.path[0] = str(ROOT / "scripts")
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def open_shop(folder: Path) -> None:
    """Start the servers that a run may ask, in the same network as the jobs."""
    folder.mkdir()
    subprocess.Popen([sys.executable, str(Path(__file__).with_name("fault_shop.py")), str(folder)])
    until = time.monotonic() + 60
    while not (folder / "url").exists():
        if time.monotonic() > until:
            raise RuntimeError("the shop does not open")
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[2:]:
        open_shop(Path(sys.argv[2]))
    for name in (*PRELOADED, *(ASKING if sys.argv[2:] else ())):
        try:
            import_module(name)
        except ImportError as error:
            print("not preloaded:", error)
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # a child's collector would copy all pages that it shares with its siblings
    run(serve(sys.argv[1]))
