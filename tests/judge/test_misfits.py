"""Packages that do not fit torch: models that do not need them are loaded, and the others name them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import judge_models
import pytest

from charloom.core import misfits
from charloom.core.errors import UserError
from charloom.judge.instruments import open_instrument
from charloom.workflow.describing_local import Local

WHY = "operator torchvision::nms does not exist"
LOADING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from charloom.dataset.sources import diffusers
from charloom.judge.instruments import open_instrument
from charloom.workflow.describing_local import Local
seen, said, base = map(Path, sys.argv[2:])
open_instrument("dinov2", {path.name: path for path in seen.iterdir()}, "")
Local(said, "cpu", 8)
diffusers._loaded({"model": str(base), "revision": "main"}, None)
"""


def test_what_is_broken_stops_no_model_that_can_do_without(tmp_path: Path, tiny_base: Path) -> None:
    seen, said = judge_models.dinov2(tmp_path / "seen"), judge_models.vision_language(tmp_path / "said")
    site = tmp_path / "site"
    for name in misfits.BESIDE_TORCH:  # as pip leaves them
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(f"raise RuntimeError({WHY!r})")
        (site / f"{name}-99.0.dist-info").mkdir()
        (site / f"{name}-99.0.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
    command = [sys.executable, "-c", LOADING, *map(str, (site, seen, said, tiny_base))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "opening",
    [
        lambda folder: Local(folder, "cpu", 8),
        lambda folder: open_instrument("vlm", {path.name: path for path in folder.iterdir()}, ""),
    ],
    ids=["captioner", "judge"],
)
def test_a_model_that_needs_it_is_one_line_with_a_remedy(
    opening: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = judge_models.vision_language(tmp_path / "model")
    for path in folder.glob("*processor_config.json"):
        path.write_text("{}")
    monkeypatch.setattr(misfits, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"processor .*needs torchvision: pip install torchvision$"):
        opening(folder)
    monkeypatch.setitem(misfits._why, "torchvision", WHY)
    with pytest.raises(UserError, match=rf"torchvision, which cannot be imported \({WHY}\); install its .*") as caught:
        opening(folder)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(", or uninstall it")
