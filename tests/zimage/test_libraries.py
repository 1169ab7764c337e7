"""diffusers and PEFT are imported without the packages that charloom asks neither of them to use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from charloom.zimage import libraries

USED = "charloom.lora.attach, charloom.zimage.vae, charloom.zimage.weights, charloom.engine.fuse"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_nobody_uses_is_not_imported_and_may_be_broken(tmp_path: Path) -> None:
    """Nor when the first layer is adapted. A torchvision left behind when torch was upgraded raises a RuntimeError."""
    for name in libraries.UNUSED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from torch import nn; import {USED}; "
        "from charloom.zimage.libraries import UNUSED, peft; "
        "peft.inject_adapter_in_model(peft.LoraConfig(target_modules=['0']), nn.Sequential(nn.Linear(2, 2))); "
        "print([name for name in UNUSED if name in sys.modules])"
    )
    assert run(code) == "[]"


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
def test_a_package_that_imports_one_without_asking_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As scikit-learn does, which transformers imports where it is installed: without scipy.sparse it is an error."""
    (tmp_path / "sklearn_like.py").write_text("from scipy.sparse import csr_array\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libraries, "USERS", ())  # they are loaded here
    with libraries.without_unused():
        assert importlib.util.find_spec("scipy") is None
        importlib.import_module("sklearn_like")


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
def test_it_can_be_imported_afterwards() -> None:
    assert run("import charloom.zimage.libraries, scipy.stats; print(scipy.stats.__name__)") == "scipy.stats"


def test_nothing_is_hidden_from_a_library_that_has_seen_it() -> None:
    found = run(
        "import diffusers, charloom.zimage.libraries as own; print(own.AutoencoderKL is diffusers.AutoencoderKL)"
    )
    assert found == "True"
