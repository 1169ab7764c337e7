"""A package that is missing is one line, with what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import call, said

HIDDEN = """\
import sys
sys.modules[{module!r}] = None
sys.argv = ["charloom", *{arguments!r}]
from charloom.cli.entry import main
main()
"""


@pytest.mark.parametrize(
    "module, package, arguments",
    [("safetensors", "safetensors", ["doctor"]), ("yaml", "pyyaml", ["lint", "leyla"])],
)
def test_a_missing_package_is_one_line(module: str, package: str, arguments: list[str]) -> None:
    code = HIDDEN.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: the package {package} is missing; pip install {package}\n"


@pytest.mark.parametrize(
    "command", [["draw", "leyla", "a cat"], ["comfy", "leyla"], ["publish", "leyla", "--repo", "a/b"], ["new", "mara"]]
)
def test_outside_of_a_workflow_folder(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*command)
    assert result.exit_code == 1
    assert "change to the folder of the workflow, or charloom init FOLDER" in said(result)
