"""A sample of `python tests/hostile/run.py`: refused in one line, or taken; never more than that."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import hostile_inputs as inputs
import hostile_surfaces as surfaces
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "deliver"))

LARGE = 10**6
"""Larger ones are left to the full run."""
KEPT = 60
FEW = ("10 GB in one chunk", "10 GB of a header", "deep JSON", "all 1", "all {'x': []}", "only None", "not UTF-8")


@pytest.fixture(scope="module")
def watch() -> surfaces.Watch:
    return surfaces.Watch()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, bytes]]]:
    import bundles

    folder = tmp_path_factory.mktemp("valid")
    return inputs.by_surface(bundles.made(folder / "project").read_bytes(), folder)


@pytest.mark.parametrize("name", sorted(surfaces.SURFACES))
def test_hostile_input(name: str, files, watch: surfaces.Watch) -> None:
    small = [one for one in files[name] if len(one[1]) < LARGE]
    if name == "server":  # several clients ask each
        small = [one for one in small if one[0] in FEW]
    chosen = small if len(small) <= KEPT else random.Random(18).sample(small, KEPT)
    wrong = {label: problem for label, data in chosen if (problem := surfaces.attempt(name, data, watch))}
    assert not wrong, "\n".join(f"{label}: {problem}" for label, problem in wrong.items())


def test_the_watch_sees_what_must_not_be(watch: surfaces.Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes elsewhere, pickles, tracebacks, control characters: each is told."""

    def bad(act):
        monkeypatch.setitem(surfaces.SURFACES, "bad", act)
        return surfaces.attempt("bad", inputs.pickle.dumps(inputs.Poison()), watch)

    def writes(data: bytes, folder: Path) -> str:
        (folder / ".." / ".." / f"{folder.parent.name}.txt").write_text("")
        (folder / ".." / ".." / f"{folder.parent.name}.txt").unlink()
        return ""

    assert "to write" in bad(writes)
    assert "pickle.find_class" in bad(lambda data, folder: str(inputs.pickle.loads(data).close()))
    assert "ZeroDivisionError" in bad(lambda data, folder: str(1 / 0))
    assert "steers a terminal" in bad(lambda data, folder: "\x1b[2J")
    assert bad(lambda data, folder: "fine") is None
