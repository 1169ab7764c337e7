"""An interpreter for the jobs of a workflow, without the seconds that each spends on importing torch.

A process imports what is heavy once and forks for every job; the child runs the job's script as ``__main__`` with the
arguments, folder, environment and output of whoever asked. ``CHARLOOM_PYTHON`` names :func:`interpreter`'s file.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = (
    *("torch", "numpy", "PIL.Image", "safetensors.torch", "diffusers", "transformers", "httpx2", "google.genai"),
    *("charloom.engine.engine", "charloom.engine.previews", "charloom.train.loop", "charloom.workflow.samples"),
    *("charloom.workflow.texts", "charloom.workflow.latents", "charloom.workflow.training", "charloom.zimage.weights"),
)
CLASSES = {
    "diffusers": ("AutoencoderKL", "ZImageTransformer2DModel", "ZImagePipeline", "ZImageImg2ImgPipeline",
                  "AutoPipelineForImage2Image", "DiffusionPipeline"),
    "transformers": ("AutoTokenizer", "Qwen3Model", "Qwen3ForCausalLM"),
}  # fmt: skip
"""What these packages import only when it is named."""

HEAVY = ("encode_", "prepare_", "train_", "sample_", "generate_")
"""How scripts begin that may import it; others start as usual, which takes them less time than a big fork."""

CLIENT = """#!{python} -S
import json, os, socket, sys
if not os.path.basename(sys.argv[1]).startswith({heavy!r}):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = json.dumps({{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [1, 2])
    server.sendall(request)
    sys.exit(int(server.recv(16) or 1))
"""


@contextlib.contextmanager
def interpreter(folder: Path) -> Iterator[Path]:
    """The file to start jobs with, while the process behind it runs."""
    place, client = folder / "jobs", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, place=str(place), heavy=HEAVY))
    client.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, __file__, str(place)], env=environment, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield client
    finally:
        server.kill()
        server.wait()


def serve(place: str) -> None:
    """Answer until killed."""
    gc.freeze()  # what all children share: collecting it would copy it
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen(64)
    print("ready", flush=True)
    while True:
        asking, _ = listening.accept()
        head, outputs, _, _ = socket.recv_fds(asking, 4, 2)
        data = b""
        while len(data) < int.from_bytes(head, "big"):
            data += asking.recv(2**20)
        if child := os.fork():
            [os.close(output) for output in outputs]
            asking.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
            asking.close()
            continue
        request = json.loads(data)
        [os.dup2(output, number) for number, output in enumerate(outputs, 1)]
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = request["arguments"]
        sys.path[0] = str(Path(sys.argv[0]).parent)
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            traceback.print_exc()
            code = 1
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # taking torch apart in an orderly way takes longer than most jobs


if __name__ == "__main__":
    for module in NEEDED:
        import_module(module)
    for module, names in CLASSES.items():
        [getattr(import_module(module), name) for name in names]
    serve(sys.argv[1])
