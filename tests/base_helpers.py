"""A tiny base with published configs, local or in a cache of the hub, and the one line of a mistake."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import real_base
from huggingface_hub import constants

from charloom.core.errors import UserError
from charloom.core.store import Store

ADAPTER = "adapter_v1.safetensors"
PREPARED = {"adapter": "none", "quantization": "none", "recipe": 1}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_base.build(tmp_path_factory.mktemp("real") / "base")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "base"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def local(folder: Path, **more: Any) -> dict[str, Any]:
    return {"name": "tiny", "path": str(folder), "adapters": {}, **more}


def remote(revision: str = "main", **more: Any) -> dict[str, Any]:
    return {"name": "tiny", "repo": real_base.REPO, "revision": revision, "adapters": {}, **more}


def line(call: Callable[[], object]) -> str:
    """The one line of the mistake that ``call`` raises."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)
