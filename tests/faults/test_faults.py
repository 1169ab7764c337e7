"""A sample of `python tests/faults/run.py`: twenty faults, and the plain call after each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import asked_kinds
import asked_project
import fault_shop
import pytest
from fault_kinds import KINDS, undergo
from fault_plan import ABOUT, EVERY, OTHERS, TWICE, coverage, place_of, plan
from fault_project import ASKED, SECRET, Project, Template, build_template
from fault_server import Server
from soak import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, mounts and /proc of Linux")

ALONE = sorted(kind for kind in KINDS if ABOUT.get(kind) != "asking")
SAMPLE = [
    *((kind, 0) for kind in ALONE),
    *((EVERY, 3), ("disk_full", 1), ("flipped_result", 1), ("flipped_store", 1)),
    ("truncated_file", 2),
]
"""Twenty: each kind, a job that is killed at its end, and several of those that have found something."""


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


def templates_of(**rules: list[str]) -> list[Template]:
    job = {"events": 1, "calls": 0, "made": [], "stored": []}
    return [
        Template(name, Path(), None, [{**job, "rule": rule} for rule in some], "", {}) for name, some in rules.items()
    ]


def test_a_job_of_each_rule_is_killed_before_anything_is_left_to_chance() -> None:
    rules = [f"rule_{number}" for number in range(31)]
    templates = templates_of(plan=rules[:20], folder=rules[10:], asked=[*asked_project.RULES, "train_segment"])
    planned = coverage(templates, 2, 5)
    assert len(planned) == len(set(planned)) and not set(planned) & set(plan(ALONE, 320, 0))
    found = sorted(place_of(templates, *which)[1] for which in planned)
    assert found == sorted([*rules, *asked_project.RULES] * 2)


def test_every_rule_s_job_meets_a_kill_and_a_full_disk() -> None:
    """In the faults that are tried without further words."""
    tried = plan(ALONE, 320, 0)
    assert len(tried) == len(set(tried)) == 320
    rules = [f"rule_{number}" for number in range(32)]
    templates = templates_of(plan=rules[:20], folder=rules[10:])
    for kind in TWICE:
        seeds = [seed for name, seed in tried if name == kind]
        assert {place_of(templates, kind, seed)[1] for seed in seeds} == set(rules)


def test_every_rule_of_the_project_that_asks_meets_a_kill_and_a_full_disk() -> None:
    tried = asked_kinds.plan(sorted(KINDS), 72)
    assert len(tried) == len(set(tried)) and not set(tried) & set(plan(ALONE, 320, 0))
    templates = templates_of(plan=[], asked=[*asked_project.RULES, "train_segment"])
    for kind, rules in (*((kind, asked_project.RULES) for kind in TWICE), ("kill_in_flight", asked_project.ASKING)):
        places = [place_of(templates, kind, seed) for name, seed in tried if name == kind]
        assert {rule for _, rule in places} == set(rules) and {one.name for one, _ in places} == {ASKED}


ENDED = """
import subprocess, sys, time
from fault_place import workplace
with workplace() as folder:
    (folder / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "faults", folder / "disk"], capture_output=True)
    (folder / "disk/made").touch()
    sleeper = subprocess.Popen(["sleep", "600"], cwd=folder / "disk", start_new_session=True)
    print(folder, sleeper.pid, flush=True)
    time.sleep(600)
"""


def test_a_run_that_is_ended_leaves_nothing() -> None:
    command = [sys.executable, "-c", ENDED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as run:
        folder, sleeper = run.stdout.readline().split()
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 128 + signal.SIGTERM
    assert not Path(folder).exists() and folder not in Path("/proc/mounts").read_text()
    status = Path(f"/proc/{sleeper}/stat")
    assert not status.exists() or ") Z" in status.read_text()


def test_what_is_paid_for_twice_is_seen(template: Template, tmp_path) -> None:
    stored = f"work/store/{fault_shop.PICTURE}/ab/abcd.png"
    with Project(template, tmp_path / "one", gone={stored, f"{stored}.sha256"}) as project:
        project.template.server.shop.mkdir()
        asked = project.template.server.shop / f"{project.key}.jsonl"
        asked.write_text(json.dumps([fault_shop.PICTURE, "who"]) + "\n")
        assert project.problems() == []
        asked.write_text(asked.read_text() * 2)
        assert project.problems() == ["picture: asked for 2 times, 1 allowed: ['who', 'who']"]
        project.in_flight = True
        assert project.problems() == []


@pytest.mark.slow
def test_who_waits_for_an_answer_is_killed(tmp_path) -> None:
    server = Server(tmp_path, asked=True)
    try:
        asked = build_template(tmp_path, server, ASKED)
        for seed in range(len(asked_project.ASKING)):
            outcome = undergo([asked], tmp_path / f"fault-{seed}", "kill_in_flight", OTHERS + seed)
            assert not outcome.problems, f"{outcome.detail}: {outcome.problems}"
    finally:
        server.close()


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
