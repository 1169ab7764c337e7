"""Calling the charloom command in a workflow folder, for the tests of whatever it does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from charloom.cli.main import app

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A workflow folder with the shipped configuration and empty files in place of the base."""
    shutil.copytree(ROOT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("captions"))
    base = tmp_path / "resources" / "bases" / "paperdoll"
    base.mkdir(parents=True)
    (base / "model_index.json").write_text("{}")
    for name in ("training_adapter.safetensors", "probe.safetensors"):
        (base / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def said(result) -> str:
    """Everything that was printed; a traceback would be in ``exception``."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output
