"""A sample of `python tests/faults/run.py`: twenty faults, and the plain call after each."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from fault_kinds import KINDS, TWICE, place_of, plan, undergo
from fault_project import SECRET, Project, Template, build_template
from fault_server import Server
from soak import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, mounts and /proc of Linux")

SAMPLE = [
    *((kind, 0) for kind in sorted(KINDS)),
    *(("kill_job", 1), ("kill_job", 2), ("disk_full", 1), ("flipped_result", 1), ("flipped_store", 1)),
    ("truncated_file", 2),
]
"""Twenty: each kind, and several of those that have found something."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    place = tmp_path_factory.mktemp("faults")
    server = Server(place)
    yield build_template(place, server)
    server.close()


@pytest.mark.parametrize(("kind", "seed"), SAMPLE)
def test_fault(kind: str, seed: int, template: Template, tmp_path) -> None:
    outcome = undergo([template], tmp_path / "fault", kind, seed)
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


def test_every_rule_s_job_meets_a_kill_and_a_full_disk() -> None:
    """In the faults that are tried without further words."""
    tried = plan(sorted(KINDS), 320, 0)
    assert len(tried) == len(set(tried)) == 320
    job = {"events": 1, "calls": 0, "made": [], "stored": []}
    rules = [f"rule_{number}" for number in range(32)]
    templates = [
        Template(name, Path(), None, [{**job, "rule": rule} for rule in some], "", {})
        for name, some in (("plan", rules[:20]), ("folder", rules[10:]))
    ]
    for kind in TWICE:
        seeds = [seed for name, seed in tried if name == kind]
        assert {place_of(templates, kind, seed)[1] for seed in seeds} == set(rules)


def test_a_key_in_a_bundle_is_seen(template: Template, tmp_path) -> None:
    with Project(template, tmp_path / "one") as project:
        with zipfile.ZipFile(project.folder / "results/mara/bundle.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a.txt", f"{'x' * 1000}{SECRET}")
        assert project.problems() == ["results/mara/bundle.zip holds a key of the environment"]


@pytest.mark.slow
def test_nothing_grows_or_stays_behind(template: Template, tmp_path) -> None:
    found = soak(tmp_path / "soak", template.server)
    memory = found["memory of Snakemake, MiB"]
    assert memory["99%"] < 1.1 * memory["25%"]
    assert [found[name] for name in ("processes left", "locks left", "temporary files left")] == [0, 0, 0]
    logs = found["logs of a character, kB"]
    assert logs["most"] < 2 * logs["least"] < 40 and found["log of Snakemake for a character, kB"] < 40
