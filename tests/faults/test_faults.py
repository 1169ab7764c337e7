"""A sample of `python tests/faults/run.py`: one fault of several kinds, and the plain call after it."""

from __future__ import annotations

import sys

import pytest
from fault_kinds import KINDS, undergo
from fault_project import SECRET, Project, Template, build_template
from fault_server import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, mounts and /proc of Linux")

SAMPLE = [
    *(("kill_job", 0), ("kill_everything", 0), ("power_cut", 0), ("flipped_store", 0), ("flipped_state", 0)),
    *(("flipped_result", 2), ("out_of_memory", 0), ("two_snakemakes", 0)),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    place = tmp_path_factory.mktemp("faults")
    server = Server(place)
    yield build_template(place, server)
    server.close()


@pytest.mark.parametrize(("kind", "seed"), SAMPLE)
def test_fault(kind: str, seed: int, template: Template, tmp_path) -> None:
    outcome = undergo(template, tmp_path / "fault", kind, seed)
    assert not outcome.problems, f"{outcome.detail}: {outcome.problems}"


def test_what_is_wrong_afterwards_is_seen(template: Template, tmp_path) -> None:
    with Project(template, tmp_path / "one") as project:
        assert project.problems() == []
        (project.folder / "config/config.yaml").write_text("{}")
        (project.folder / "stray").write_text(SECRET)
        final = project.folder / "results/mara/final.safetensors"
        final.chmod(0o644)
        final.write_bytes(final.read_bytes()[:-1])
        assert project.problems() == [
            "final.safetensors has other bytes",
            "config/config.yaml of the user's changed",
            "stray was written",
            "stray holds a key of the environment",
        ]


def test_every_kind_is_known() -> None:
    assert {kind for kind, _ in SAMPLE} <= set(KINDS)
