"""``charloom doctor``: checks what this machine has for a run; each finding with a verdict and a remedy.

Changes nothing. Imports torch, because only torch knows whether it can use the GPU.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.requirements import Requirement

from charloom.config import notices
from charloom.core import files, misfits
from charloom.core.errors import reason
from charloom.core.store import STORE
from charloom.core.words import several
from charloom.workflow import devices, price

GIB = 2**30
OK, ABSENT, NOTE, PROBLEM = "ok", "absent", "note", "problem"
BASE_DOWNLOAD = 33
"""GB of Z-Image-Turbo on the hub."""
RUN = 10
"""GB for a base prepared for training and one character, in addition to the download."""
SMALLEST = 8.0
"""GiB of the smallest GPU that a profile is for."""
BESIDE_TRAINING = 18
"""GiB of main memory for a run that draws previews during training, with any profile of a GPU size."""
EXTRAS = {
    "bitsandbytes": ("nf4 and, on a GPU, adamw8bit, the default optimizer", "cuda"),
    "dlib-bin": ("identity by faces", "photo"),
    "starlette": ("the live page (charloom watch)", "watch"),
    "pillow-heif": ("HEIC pictures", "heif"),
}
"""Optional packages: what for, and the extra that installs them."""
ON_A_GPU = {
    "bitsandbytes": "with Z-Image-Turbo on this GPU",
    "dlib-bin": "before a run, for scores and an automatic choice of the checkpoint",
}
"""Those that a machine for training should have, and why."""
REPO = "Tongyi-MAI/Z-Image-Turbo"
SECONDS = 4
"""How long the hub may take to answer."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    found: str
    verdict: str = OK
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")


def examine(root: Path, hub: bool = True) -> Iterator[Finding]:
    """Run every check, yielding findings as they come. ``root`` is a workflow folder, or any other."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _system,
        _packages,
        _beside_torch,
        _gpu,
        _compiler,
        _memory,
        lambda: _disk(root),
        lambda: _store(root),
        _extras,
    ]
    if hub:
        checks.append(_hub)
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # an odd machine must not hide what the other checks find
            yield Finding("check", reason(error), NOTE)


def _system() -> Iterator[Finding]:
    version = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Finding("Python", f"{version}, {sys.executable}", PROBLEM if old else OK, "use 3.11 or newer" if old else "")
    name = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if "microsoft" in platform.release().lower():
        name += " (WSL)"
        here = str(Path.cwd())
        if re.match(r"/mnt/[a-z]/", here + "/"):
            yield Finding("folder", here, NOTE, "it is on a Windows drive, which is slow from WSL; move it below ~")
    yield Finding("system", name)


def _packages() -> Iterator[Finding]:
    required = importlib.metadata.requires("charloom") or []
    yield Finding("charloom", importlib.metadata.version("charloom"))
    for text in required:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "not installed", PROBLEM, f"pip install '{requirement}'")
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        if not fits:
            yield Finding(requirement.name, version, PROBLEM, f"pip install --upgrade '{requirement}'")
        elif requirement.name in ("snakemake", "torch", "diffusers"):
            yield Finding(requirement.name, version)


def _beside_torch() -> Iterator[Finding]:
    """Packages that fit one release of torch, and were left behind when torch was upgraded."""
    for package in ("torchvision", "torchaudio"):
        if importlib.util.find_spec(package) is None:
            continue
        command = [sys.executable, "-c", f"import {package}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
            release = importlib.metadata.version("torch").partition("+")[0]
            remedy = f"captioners and judges may need it: install its release for torch {release}, or uninstall it"
            yield Finding(package, said, NOTE, remedy)


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            size = about.total_memory / GIB
            kind = f"{about.name}, {size:.0f} GiB, compute capability {about.major}.{about.minor}{_driver()}"
            if size < SMALLEST - 0.5:
                yield Finding(f"GPU {index}", kind, PROBLEM, f"training Z-Image-Turbo needs {SMALLEST:.0f} GiB")
            elif (about.major, about.minor) < (8, 0):
                yield Finding(f"GPU {index}", kind, NOTE, "it has no bf16 units; training will be slow")
            else:
                yield Finding(f"GPU {index}", f"{kind}; profile: {_profile(size)}")
        return
    if getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
        yield Finding("GPU", "Apple's, through mps: slower than CUDA, without float8 units", NOTE)
        return
    if shutil.which("nvidia-smi"):
        if torch.version.cuda is None:
            why = f"torch {torch.__version__} was built without CUDA"
            remedy = "pip uninstall -y torch, then install it as pytorch.org says"  # pip takes any build for installed
        else:
            why = "torch cannot use it"
            remedy = f"update NVIDIA's driver to one for CUDA {torch.version.cuda}, or install torch for an older one"
        yield Finding("GPU", f"there is one{_driver()}, but {why}", PROBLEM, remedy)
        return
    yield Finding(
        "GPU", "none: the miniature runs, Z-Image-Turbo would take days", NOTE, "see docs/cluster.md to rent one"
    )


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", driver {out[0]}" if out else ""


def _profile(size: float) -> str:
    """The largest profile that is not larger than the GPU."""
    from charloom.core.home import home

    there = sorted(
        int(m[1]) for path in (home() / "profiles").glob("gpu-*gb") if (m := re.match(r"gpu-(\d+)gb", path.name))
    )
    fitting = [one for one in there if one <= size + 0.9]
    return f"profiles/gpu-{fitting[-1]}gb" if fitting else "none of that size"


def _compiler() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        return
    found = next((name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and shutil.which(name)), None)
    if found is None:
        remedy = "install gcc (Debian, Ubuntu: apt install gcc)"
        yield Finding("C compiler", "none: kernels cannot be compiled, and a step takes twice as long", NOTE, remedy)
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        remedy = "install Python's headers (Debian, Ubuntu: apt install python3-dev)"
        yield Finding("C compiler", f"{found}, but no Python.h: kernels cannot be compiled", NOTE, remedy)
    else:
        yield Finding("C compiler", found)


def _memory() -> Iterator[Finding]:
    import psutil

    total, free = psutil.virtual_memory().total / GIB, psutil.virtual_memory().available / GIB
    remedy = ""
    # Firmware and integrated graphics keep up to 1 GiB of 16 to themselves.
    if total < price.PREPARING - 1:
        remedy = f"preparing Z-Image-Turbo needs {price.PREPARING:.0f} GiB, or swap space"
    elif round(total) < BESIDE_TRAINING:
        remedy = f"previews of Z-Image-Turbo wait for the end of training: beside it they need {BESIDE_TRAINING} GiB"
    yield Finding("main memory", f"{total:.0f} GiB, {free:.0f} free", NOTE if remedy else OK, remedy)


def _disk(root: Path) -> Iterator[Finding]:
    from charloom.base import hub

    download = max(0.0, BASE_DOWNLOAD - hub.held(REPO))
    for one in files.disks([("this folder", root, RUN), ("the hub's cache", hub.cache(), download)]):
        short = one.free < one.needed
        remedy = f"Z-Image-Turbo needs about {one.needed:.0f} GB here; free some space" if short else ""
        yield Finding(f"disk of {one.what}", f"{one.folder}: {one.free:.0f} GB free", NOTE if short else OK, remedy)


def _store(root: Path) -> Iterator[Finding]:
    if not (root / "config" / "config.yaml").is_file():
        yield Finding("workflow", f"{root.resolve()} is not a workflow folder", NOTE, "make one: charloom init FOLDER")
        return
    from charloom.config import project

    workflow = project.read(root)
    kinds = {
        "character": {*workflow.characters, *workflow.broken},
        "style": {*workflow.styles, *workflow.broken_styles},
    }
    yield Finding("workflow", ", ".join(several(len(names), kind) for kind, names in kinds.items()))
    wanted = max(map(workflow.gpus_for, workflow.projects.values()), default=1)
    if few := devices.shortage(workflow.device, wanted):
        found, _, remedy = few.partition("; ")
        yield Finding("training", found, NOTE, remedy)
    own, *others = project.stores(root)
    for store in (own, *others):
        existing = files.existing(store)
        if store != own and not store.is_dir():  # a profile for a cluster names a folder of its machines
            yield Finding("store", f"{store}, of the last run, does not exist on this machine")
        elif not os.access(existing, os.W_OK):
            yield Finding("store", f"{existing} may not be written to", PROBLEM, f"change its owner, or set {STORE}")
        else:
            size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
            yield Finding("store", f"{store}: {size / 1e9:.1f} GB{_links(existing)}")


def _links(folder: Path) -> str:
    """Whether results can be linked from the store instead of copied."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".charloom-") as file:
            other = Path(f"{file.name}.link")
            try:
                os.link(file.name, other)
            finally:
                other.unlink(missing_ok=True)
    except OSError:
        return ", without hard links: results are copies, and take their space twice"
    return ""


def _extras() -> Iterator[Finding]:
    for package, (purpose, extra) in EXTRAS.items():
        try:
            version, module = importlib.metadata.version(package), package.removesuffix("-bin").replace("-", "_")
            with contextlib.redirect_stderr(io.StringIO()):  # bitsandbytes says what it cannot do on a CPU
                misfits.hide([module])
            broken = misfits.remedy(module)
            yield Finding(package, f"{version}, {broken or f'for {purpose}'}", NOTE if broken else OK)
        except importlib.metadata.PackageNotFoundError:
            wanted = ON_A_GPU.get(package) if notices.has_gpu() else None
            if package == "bitsandbytes" and sys.platform == "darwin":
                wanted = None
            remedy = f"{wanted or 'if wanted'}: pip install 'charloom[{extra}]'"
            yield Finding(package, f"not installed, for {purpose}", NOTE if wanted else ABSENT, remedy)


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "HF_HUB_OFFLINE is set: nothing is downloaded", NOTE)
        return
    token = "a token is set" if get_token() else "no token, and none is needed for Z-Image-Turbo"
    url = f"{constants.ENDPOINT}/api/models/{REPO}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS):
            yield Finding("hub", f"{constants.ENDPOINT} answers; {token}")
    except urllib.error.HTTPError as error:
        yield Finding("hub", f"{constants.ENDPOINT} answers with {error.code}; {token}", NOTE, "try again later")
    except OSError as error:
        why = getattr(error, "reason", None) or error
        remedy = "set HTTPS_PROXY or HF_ENDPOINT, or download the base elsewhere (docs/z-image-turbo.md)"
        yield Finding("hub", f"{constants.ENDPOINT} does not answer ({why})", NOTE, remedy)


def record(findings: list[Finding]) -> dict[str, object]:
    """The findings as plain values."""
    return {"findings": [asdict(one) for one in findings], "problems": sum(one.verdict == PROBLEM for one in findings)}
