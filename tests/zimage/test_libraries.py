"""diffusers and PEFT are imported without the packages that charloom asks neither of them to use."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

USED = "charloom.lora.attach, charloom.zimage.vae, charloom.zimage.weights, charloom.engine.fuse"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_nobody_uses_is_not_imported() -> None:
    assert run(f"import sys, {USED}; print([n for n in ('bitsandbytes', 'scipy') if n in sys.modules])") == "[]"


@pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="scipy is not installed")
def test_it_can_be_imported_afterwards() -> None:
    assert run("import charloom.zimage.libraries, scipy.stats; print(scipy.stats.__name__)") == "scipy.stats"


def test_nothing_is_hidden_from_a_library_that_has_seen_it() -> None:
    found = run(
        "import diffusers, charloom.zimage.libraries as own; print(own.AutoencoderKL is diffusers.AutoencoderKL)"
    )
    assert found == "True"
