"""Files that stand for more than they are: refused in one line, in no time."""

from __future__ import annotations

import builtins
import io
import time
from pathlib import Path

import pytest
import small_project

from charloom.config import yaml
from charloom.config.project import load
from charloom.core.errors import UserError


def laughs(first: str, one: str) -> str:
    """Twelve anchors, each of nine times the one before."""
    lines = [first, *(one.format(name=chr(98 + i), parts=",".join([f"*{chr(97 + i)}"] * 9)) for i in range(12))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs("a: &a [x]", "{name}: &{name} [{parts}]"), "its aliases (*name) stand for more than 100,000 values"),
        (laughs("a: &a {k: v}", "{name}: &{name} {{<<: [{parts}]}}"), "its aliases"),
        ("a: &a [*a]", "its aliases"),
        ("a: " + "x" * 2**20, "a configuration at most 1,048,576"),
        ("a: " + "[" * 20_000 + "]" * 20_000, ("line 1", "is nested too deeply")),
    ],
    ids=["aliases", "merges", "cycle", "large", "deep"],
)
def test_refused(tmp_path: Path, text: str, said: str | tuple[str, ...]) -> None:
    path, started = tmp_path / "a.yaml", time.monotonic()
    path.write_text(text)
    with pytest.raises(UserError) as error:
        yaml.read_yaml(path)
    assert any(one in str(error.value) for one in ([said] if isinstance(said, str) else said))
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 10


def test_aliases_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: [*a, *a]}\n")
    assert yaml.read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": [{"x": 1}, {"x": 1}]}}


def test_a_thousand_mistakes_are_found_at_once(tmp_path: Path) -> None:
    """The file is read as it is written once, not once for each of them."""
    small_project.make(tmp_path)
    path = tmp_path / "config/characters/mara.yaml"
    small_project.edit(path, doll={str(number): number for number in range(1000)})
    started = time.process_time()
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value).count("must be a text, and") >= 1000
    assert time.process_time() - started < 10  # 37 s once


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), float("inf"), float("nan")], ids=["huge", "minus", "inf", "nan"]
)
def test_a_number_without_an_end_is_refused(tmp_path: Path, number: float) -> None:
    """Training on it would only show after hours."""
    small_project.make(tmp_path)
    recipe = {"train": {"lr": number}, "data": {"weight": number}}
    small_project.edit(tmp_path / "config/characters/mara.yaml", recipe=recipe)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert "mara.yaml: recipe.data.weight: must be a" in str(error.value)
    assert "mara.yaml: recipe.train.lr: must be " in str(error.value)


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an editor which replaces it meanwhile cannot mix two versions; line ends are those of Python."""
    path, opened = tmp_path / "a.yaml", []
    path.write_bytes("\ufeffa: ü\r\n".encode())
    genuine = io.open
    for module in (io, builtins):
        monkeypatch.setattr(module, "open", lambda *given, **more: opened.append(given) or genuine(*given, **more))
    found = yaml.read_yaml(path)
    monkeypatch.undo()
    assert (found, found.text, len(opened)) == ({"a": "ü"}, "\ufeffa: ü\n", 1)
