"""Snakemake for tests, without the second that each start of it spends on imports.

A process imports Snakemake and charloom once and forks for every call; the child is as if started afresh, with the
folder, environment and output that the call names. Run as a script it is that process: requests are lines of JSON on
standard input, exit codes lines on standard output.
"""

from __future__ import annotations

import atexit
import filecmp
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ("charloom", "config/schemas")
"""What the server has read from this checkout; other code needs a start of its own."""
NEEDED = (
    *("snakemake.api", "snakemake.workflow", "snakemake.executors.dryrun", "snakemake.executors.local", "jsonschema"),
    *("charloom.config.project", "charloom.base.locks", "charloom.dataset.sources.folder"),
    *("charloom.dataset.sources.paperdoll", "charloom.planning.lean", "charloom.workflow.slices"),
    "charloom.workflow.targets",
)


def serves(code: Path) -> bool:
    """Whether the server may stand in for a start with ``code``, which is this checkout or a copy of it."""
    return hasattr(os, "fork") and (code == ROOT or all(_same(ROOT / name, code / name) for name in IMPORTED))


def _same(ours: Path, theirs: Path) -> bool:
    """Whether a copy is unchanged; by size and date, which copying keeps."""
    names = [path.relative_to(ours) for path in ours.rglob("*") if path.suffix in (".py", ".yaml")]
    return all(map(os.path.isfile, map(theirs.joinpath, names))) and not any(
        filecmp.cmpfiles(ours, theirs, list(map(str, names)))[1:]
    )


def run(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """``snakemake ARGUMENTS`` in ``folder``."""
    server = _server()
    with tempfile.TemporaryDirectory() as place:
        outputs = [str(Path(place, name)) for name in ("stdout", "stderr")]
        request = {"folder": str(folder), "environment": environment, "arguments": arguments, "outputs": outputs}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        if not (answer := server.stdout.readline()):
            _server.cache_clear()
            raise RuntimeError(f"the process that runs Snakemake ended with {server.wait()}")
        code = int(answer)
        texts = [Path(output).read_text(encoding="utf-8") for output in outputs]
    return subprocess.CompletedProcess(["snakemake", *arguments], code, *texts)


@cache
def _server() -> Any:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen([sys.executable, __file__], env=environment, **pipes)
    atexit.register(server.communicate)  # the end of its input is the end of it
    return server


def serve() -> None:
    """Answer requests until standard input ends. A child returns from here and runs Snakemake."""
    for line in sys.stdin:
        request = json.loads(line)
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        for number, path in enumerate([os.devnull, *request["outputs"]]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.argv = ["snakemake", *request["arguments"]]
        sys.path[0] = request["folder"]
        cli.main()


if __name__ == "__main__":
    from snakemake import cli

    for name in NEEDED:
        import_module(name)
    serve()
