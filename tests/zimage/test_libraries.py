"""diffusers and PEFT are imported without the packages that charloom asks neither of them to use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

USED = "charloom.lora.attach, charloom.zimage.vae, charloom.zimage.weights, charloom.engine.fuse"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_nobody_uses_is_not_imported() -> None:
    hidden = "('bitsandbytes', 'scipy', 'sklearn')"
    assert run(f"import sys, {USED}; print([name for name in {hidden} if name in sys.modules])") == "[]"


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
def test_a_package_that_imports_one_without_asking_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As scikit-learn does, which transformers imports where it is installed: without scipy.sparse it is an error."""
    (tmp_path / "sklearn_like.py").write_text("from scipy.sparse import csr_array\n")
    monkeypatch.syspath_prepend(tmp_path)
    from charloom.zimage.libraries import without_unused

    with without_unused():
        importlib.import_module("sklearn_like")


def test_it_starts_beside_scikit_learn(tmp_path: Path) -> None:
    """Whatever else is installed: transformers looks for scikit-learn, and this one breaks whoever imports it."""
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("from scipy.sparse import nothing_of_that_name\n")
    found = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {USED}; print('sklearn' in sys.modules)")
    assert found == "False"


def test_nor_when_the_first_layer_is_adapted() -> None:
    """It takes seconds, loads torch's compiler, and warns of kernels that nobody asked for."""
    code = (
        "import sys; from torch import nn; from charloom.zimage.libraries import peft; "
        "peft.inject_adapter_in_model(peft.LoraConfig(target_modules=['0']), nn.Sequential(nn.Linear(2, 2))); "
        "print('bitsandbytes' in sys.modules)"
    )
    assert run(code) == "False"


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
def test_it_can_be_imported_afterwards() -> None:
    assert run("import charloom.zimage.libraries, scipy.stats; print(scipy.stats.__name__)") == "scipy.stats"


def test_nothing_is_hidden_from_a_library_that_has_seen_it() -> None:
    found = run(
        "import diffusers, charloom.zimage.libraries as own; print(own.AutoencoderKL is diffusers.AutoencoderKL)"
    )
    assert found == "True"
