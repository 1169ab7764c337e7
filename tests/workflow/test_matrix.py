"""Each edit rebuilds exactly what reads it and what follows: job lists compared whole, on real graphs.

The default run takes a sample; `pytest -m slow tests/workflow/test_matrix.py` takes every edit in every state.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import small_project
from job_graph import Graph, graph
from rebuilt import STATES, difference
from rebuilt_edits import Edit, all_edits

EDITS = {one.name: one for one in all_edits()}
SAMPLE = (
    ("files touched", "all made"),
    ("the outfit of a shot", "all made"),
    ("a picture removed", "half made"),
    ("network.rank", "half made"),
    ("sample.steps", "all made"),
    ("low_vram", "store emptied"),
)


@pytest.fixture(scope="module")
def before(finished: Path) -> Graph:
    found = graph(finished)
    assert not found.runs and len(found.jobs) == 52
    assert len(set(found.jobs.values())) == len(found.jobs)  # every job has a name of its own
    return found


def check(edit: Edit, state: str, finished: Path, before: Graph, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "project"))
    more, less, _ = difference(folder, before, edit, state)
    assert (more, less) == (set(), set()), f"{edit.name}, {state}: runs needlessly {more}, does not run {less}"


@pytest.mark.parametrize(("name", "state"), SAMPLE)
def test_a_sample_of_the_matrix(name: str, state: str, finished: Path, before: Graph, tmp_path: Path) -> None:
    check(EDITS[name], state, finished, before, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", EDITS)
def test_the_whole_matrix(name: str, state: str, finished: Path, before: Graph, tmp_path: Path) -> None:
    check(EDITS[name], state, finished, before, tmp_path)


def test_every_knob_and_more_is_in_the_matrix() -> None:
    page = (small_project.ROOT / "docs/knobs.md").read_text()
    recipe = page[page.index("## Recipe") : page.index("## Extra data sets")]
    assert set(re.findall(r"^\| `([\w.]+)` \|", recipe, re.MULTILINE)) <= set(EDITS)
    assert len(EDITS) >= 40


def test_the_page_names_edits_of_the_matrix() -> None:
    """If not: python tests/rebuilt.py --write"""
    rows = re.findall(r"^\| `?(.+?)`? \| \d+ \|", (small_project.ROOT / "docs/reruns.md").read_text(), re.MULTILINE)
    # A new knob may wait for the next run of the whole matrix; a row that nothing tests may not stand there.
    assert set(rows) <= set(EDITS) and len(rows) >= 100 and len(set(rows)) == len(rows)
