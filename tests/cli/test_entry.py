"""A package that is missing is one line, with what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import small_project
from cli_helpers import call, said

from charloom.cli import planning
from charloom.config import folder
from charloom.core import missing_package

HIDDEN = """\
import sys
sys.modules[{module!r}] = None
sys.argv = ["charloom", *{arguments!r}]
from charloom.cli.entry import main
main()
"""


@pytest.mark.parametrize(
    "module, package, arguments",
    [("safetensors", "safetensors", ["verify", __file__]), ("yaml", "pyyaml", ["lint", "leyla"])],
)
def test_a_missing_package_is_one_line(module: str, package: str, arguments: list[str]) -> None:
    code = HIDDEN.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: the package {package} is missing; pip install {package}\n"


@pytest.mark.parametrize(
    "module, package",
    [
        ("filelock", "filelock"),  # imported by the rules
        ("jsonschema", "jsonschema"),  # used by what they call
        ("safetensors", "safetensors"),  # imported by the logger, before Snakemake looks for a Snakefile
    ],
)
def test_so_it_is_while_snakemake_reads_the_rules(module: str, package: str, tmp_path: Path) -> None:
    small_project.make(tmp_path)
    code = f"import sys; sys.modules[{module!r}] = None; from snakemake.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "-n", "-s", str(small_project.ROOT / "Snakefile")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: the package {package} is missing; pip install {package}"


def test_snakemake_of_another_environment_than_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of ``charloom init`` without a clone around it."""
    monkeypatch.setitem(sys.modules, "charloom.core.home", None)
    with pytest.raises(SystemExit, match="^error: charloom is not installed in this environment; activate "):
        exec(folder.SNAKEFILE.partition("include:")[0], {})


def test_plan_without_snakemake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "snakemake", None)
    with pytest.raises(SystemExit, match="the package snakemake is missing; pip install snakemake"):
        with missing_package.named():
            planning.dry_run(["leyla"])


def test_doctor_names_the_package_among_its_other_findings() -> None:
    gone = """\
import importlib.metadata
known = importlib.metadata.version
def version(name):
    if name == "safetensors":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.version = version
"""
    code = gone + HIDDEN.format(module="safetensors", arguments=["doctor", "--offline"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "safetensors: not installed; pip install 'safetensors" in done.stdout
    assert "main memory" in done.stdout


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("no_such_package", "no_such_package"),
        ("no_such_package.part", "no_such_package"),
        ("torch.no_such_module", ""),
        ("charloom.no_such_module", ""),
        ("", ""),
    ],
)
def test_a_part_missing_from_an_installed_package_is_no_missing_package(module: str, package: str) -> None:
    assert missing_package.missing(module) == package


@pytest.mark.parametrize("module", ["ruamel", "ruamel.yaml"])
def test_a_package_of_a_shared_name_is_named_whole(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_package, "find_spec", lambda name: None)
    assert missing_package.missing(module) == "ruamel.yaml"


@pytest.mark.parametrize(
    "command", [["draw", "leyla", "a cat"], ["comfy", "leyla"], ["publish", "leyla", "--repo", "a/b"], ["new", "mara"]]
)
def test_outside_of_a_workflow_folder(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*command)
    assert result.exit_code == 1
    assert "change to the folder of the workflow, or charloom init FOLDER" in said(result)
