"""``charloom store``: what is in the store, what can be pruned, and what must stay."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_project
from cli_helpers import call, said
from finished_results import finish

from charloom.cli import store as commands
from charloom.core import last_run
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.train.keys import checkpoint_key
from charloom.workflow import keeping

DAY = 86400
RUN, OLD, LOST = "a" * 64, "b" * 64, "c" * 64
SUFFIX = {"checkpoint": ".safetensors", "metrics": ".jsonl", "state": ".safetensors"}


def put(store: Store, kind: str, key: str, suffix: str = ".safetensors", text: str = "x") -> Path:
    with store.put(kind, key, suffix) as path:
        path.write_text(text)
    return store.path(kind, key, suffix)


def train(store: Store, run: str, steps: tuple[int, ...] = (50, 100)) -> None:
    for step in steps:
        for kind, suffix in SUFFIX.items():
            put(store, kind, checkpoint_key(run, step), suffix, f"{kind} {run} {step}")


def age(store: Store, days: float) -> None:
    for path in store.root.glob("*/*/*"):
        os.utime(path, (time.time() - days * DAY,) * 2)


def names(entries: list[keeping.Entry]) -> set[str]:
    return {f"{one.kind} {(one.run or 'no run')[0]} {one.step}" for one in entries}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_project.make(tmp_path)


@pytest.fixture
def store(project: Path) -> Store:
    """A finished run, one that nobody remembers, a latent and a preview: all forty days old."""
    store = Store("work/store")
    train(store, RUN)
    finish(project / "results/mara", store, RUN)  # ships step 100
    (project / "results/mara/checkpoints/step-000100.safetensors").unlink()
    train(store, LOST)
    put(store, "latents", "d" * 64)
    store.fetch("latents", "d" * 64, ".safetensors", Path("results/mara/latents/closeup-01.safetensors"))
    put(store, "sample", "e" * 64, ".png")
    age(store, 40)
    return store


def prune(*arguments: str) -> str:
    return said(call("store", "prune", *arguments))


def test_it_says_whose_entries_they_are_how_large_and_how_old(store: Store) -> None:
    text = said(call("store"))
    mara = text[text.index("\nmara:") : text.index("\nshared:")]
    assert "latents" in mara and "checkpoint" in mara and "finished-picture" not in mara
    assert "sample" in text[text.index("\nshared:") :] and "40 d ago" in text


def test_what_a_finished_character_needs_stays(store: Store) -> None:
    before = {path for path in store.root.rglob("*") if path.is_file()}
    text = prune("--older", "30d")
    assert "would be removed; to do so add --yes" in text
    assert {path for path in store.root.rglob("*") if path.is_file()} >= before  # dry without --yes
    prune("--keep-final", "--older", "30d", "--yes")
    left = names(keeping.entries(store))
    # The shipped checkpoint, the state that more steps go on from, its curve; the record and its pictures.
    assert left == {"checkpoint a 100", "metrics a 100", "state a 100", "finished n 0", "finished-picture n 0"}
    assert Path("results/mara/latents/closeup-01.safetensors").read_text() == "x"
    assert "Nothing to remove" in prune("--yes")


def test_without_keep_final_only_age_and_links_count(store: Store) -> None:
    prune("--all", "--older", "30d", "--yes")
    assert keeping.entries(store) == []


def test_young_entries_stay_and_fetching_makes_young(store: Store) -> None:
    assert "Nothing to remove" in prune("--older", "41d")
    store.fetch("sample", "e" * 64, ".png", Path("results/mara/samples/step-000100/01.png"))
    prune("--all", "--older", "30d", "--yes")
    assert names(keeping.entries(store)) == {"sample n 0"}


def test_what_results_anywhere_link_keeps_its_run_going(store: Store, tmp_path: Path) -> None:
    shared = tmp_path / "another clone/results/mara/checkpoints/step-000050.safetensors"
    shared.parent.mkdir(parents=True)
    os.link(store.path("checkpoint", checkpoint_key(LOST, 50), ".safetensors"), shared)
    prune("--yes")
    left = names(keeping.entries(store))
    assert {"checkpoint c 50", "checkpoint c 100", "state c 100", "metrics c 100"} <= left and "state c 50" not in left


def test_an_unfinished_run_of_this_folder_stays(store: Store) -> None:
    log = Path(Results("results/mara").log("train_segment", "000100"))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"     0.1 s  run {LOST}\n")
    prune("--yes")
    assert {"state c 100", "checkpoint c 100"} <= names(keeping.entries(store))


def test_a_run_in_training_is_left_alone(store: Store) -> None:
    code = (
        "import sys; from charloom.core.store import Store\n"
        f"with Store('work/store').lock('train-{LOST[:32]}'):\n  print('held', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(small_project.ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    text = prune("--yes")
    holder.communicate("")
    assert f"kept: run {LOST[:12]} of shared is being trained" in text
    assert {f"{kind} c {step}" for kind in SUFFIX for step in (50, 100)} <= names(keeping.entries(store))


def test_what_was_used_between_looking_and_removing_stays(store: Store) -> None:
    found = keeping.entries(store)
    gone = keeping.removable(found, set(), 30 * DAY)
    store.fetch("sample", "e" * 64, ".png", Path("results/mara/x/y.png"))
    count, _ = keeping.remove(store, gone, print)
    assert count == len(gone) - 1 and names(keeping.entries(store)) == {"sample n 0"}


def test_files_of_killed_processes_go(store: Store) -> None:
    stale = store.root / "sample/ee/.half.0a0b.tmp"
    stale.write_text("half")
    assert keeping.left_behind(store) == []  # somebody may be writing it
    os.utime(stale, (0, 0))
    prune("--yes")
    assert not stale.exists()


def test_damaged_entries_and_orphaned_digests_go(store: Store) -> None:
    entry = store.path("sample", "e" * 64, ".png")
    entry.chmod(0o644)
    entry.write_text("y")
    assert not store.has("sample", "e" * 64, ".png")
    damaged, orphan = entry.with_name(entry.name + ".damaged"), entry.with_name("f" * 64 + ".png.sha256")
    orphan.write_text("0" * 64)
    assert damaged.exists() and all(one.path != damaged for one in keeping.entries(store))
    prune("--yes")
    assert orphan.exists()  # somebody may be writing its entry
    os.utime(damaged, (0, 0))
    os.utime(orphan, (0, 0))
    before = set(store.root.rglob("*.sha256"))
    assert "2 damaged files and leftovers" in said(call("store"))
    prune("--yes")
    assert not damaged.exists() and not orphan.exists()
    assert {path for path in before if path.with_suffix("").exists()} == set(store.root.rglob("*.sha256"))


def test_what_is_known_of_entries_that_are_gone_is_forgotten(store: Store) -> None:
    put(store, "latents", "9" * 64)
    for _ in range(3):
        store.fetch("latents", "9" * 64, ".safetensors", Path("results/mara/latents/young.safetensors"))
    uses = store.root / "uses/mara.txt"
    assert len(uses.read_text().splitlines()) > 3
    prune("--yes")  # the other latents are old
    assert [line.split("\t")[0] for line in uses.read_text().splitlines()] == [
        f"checkpoint/{checkpoint_key(RUN, 100)}.safetensors",
        f"latents/{'9' * 64}.safetensors",
    ]
    for entry in keeping.entries(store):
        store.remove(entry.path)
    prune("--yes")
    assert not uses.exists()


@pytest.fixture
def last_run_elsewhere(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store that a profile has set for the last training of mara."""
    monkeypatch.delenv("CHARLOOM_STORE", raising=False)
    elsewhere = Store(tmp_path / "shared")
    last_run.remember(["mara"], {"store": str(elsewhere.root)}, [])
    put(elsewhere, "sample", "f" * 64, ".png")
    age(elsewhere, 40)
    return elsewhere


def test_the_store_of_the_last_run_counts_too(store: Store, last_run_elsewhere: Store) -> None:
    text = said(call("store"))
    assert text.startswith(f"{store.root}: ") and f"\n{last_run_elsewhere.root}: " in text
    assert f"{last_run_elsewhere.root}:\n  sample" in prune("--yes")
    assert keeping.entries(last_run_elsewhere) == [] and keeping.entries(store)


def test_a_store_that_is_written_in_two_ways_is_shown_and_pruned_once(store: Store) -> None:
    last_run.remember(["mara"], {"store": str(store.root.resolve())}, [])
    assert said(call("store")).count(" entries, ") == 1
    assert prune().count("would be removed") == 1


def test_a_store_of_other_machines_is_not_called_empty(store: Store, last_run_elsewhere: Store) -> None:
    shutil.rmtree(last_run_elsewhere.root)
    assert said(call("store")).endswith(f"{last_run_elsewhere.root}: does not exist on this machine\n")


def test_the_environment_names_the_only_store(
    last_run_elsewhere: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named").mkdir()
    monkeypatch.setenv("CHARLOOM_STORE", str(tmp_path / "named"))
    assert said(call("store")) == f"{tmp_path / 'named'}: is empty\n"


def test_ages(capsys: pytest.CaptureFixture[str]) -> None:
    assert [commands.seconds(text) for text in ("30d", "12h", "2 w")] == [30 * DAY, DAY / 2, 14 * DAY]
    with pytest.raises(UserError, match="--older: 'soon' is not valid; give a number and d, h or w"):
        commands.seconds("soon")


CLONE = """
import os, sys, time
from pathlib import Path
from charloom.core.store import Store
from charloom.workflow import jobs
store, output, made = Store(os.environ["CHARLOOM_STORE"]), Path(sys.argv[1]), Path(sys.argv[2])
def make():
    with open(made, "a") as file:
        file.write("trained\\n")
    time.sleep(1)
    with store.put("checkpoint", "f" * 64 + "-000100", ".safetensors") as path:
        path.write_text("weights")
jobs.serve(store, "checkpoint", "f" * 64 + "-000100", ".safetensors", output, "train-" + "f" * 32, make)
"""


def test_two_clones_on_one_store_train_once_with_prune_beside_them(project: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(small_project.ROOT), "CHARLOOM_STORE": str(tmp_path / "shared")}
    outputs = [tmp_path / clone / "results/mara/checkpoints/step-000100.safetensors" for clone in ("one", "two")]
    for output in outputs:
        output.parent.mkdir(parents=True)
    started = [
        subprocess.Popen([sys.executable, "-c", CLONE, str(output), str(tmp_path / "made")], env=environment)
        for output in outputs
    ]
    store = Store(tmp_path / "shared")
    while any(one.poll() is None for one in started):
        keeping.remove(store, keeping.removable(keeping.entries(store), set(), 30 * DAY), print)
        time.sleep(0.05)
    assert [one.returncode for one in started] == [0, 0]
    assert (tmp_path / "made").read_text() == "trained\n"
    assert [output.read_text() for output in outputs] == ["weights", "weights"]
