"""``charloom stop``, ``ship`` and ``try``: what they say, what they write, and what they refuse."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
import small_project
import yaml
from cli_helpers import call, said

from charloom.cli import steering, trial
from charloom.config.project import load
from charloom.core import last_run
from charloom.core.layout import results
from charloom.train import progress, stopping

ADDED = "ship: 50    # good enough: written by charloom ship; remove it to train on"
FILE = Path("config/characters/mara.yaml")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_project.make(tmp_path)


def trainer(step: int = 60, saved: int = 50, steps: int = 100) -> progress.Writer:
    writer = progress.Writer(results("mara").training, first=0, steps=steps, saved=saved)
    writer.step(step, 0.5)
    writer._write(force=True)
    return writer


def answer(writer: progress.Writer) -> threading.Thread:
    """A trainer that stops when asked."""

    def wait() -> None:
        ends = time.monotonic() + 10
        while time.monotonic() < ends and not (results("mara").training / stopping.NAME).exists():
            time.sleep(0.02)
        writer.ended(KeyboardInterrupt())

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_stop_waits_until_the_trainer_has_stopped(root: Path) -> None:
    thread = answer(trainer())
    text = said(call("stop", "mara"))
    thread.join()
    assert text.splitlines() == [
        "mara: asked to stop at step 60 of 100 ...",
        "mara: stopped after step 60 of 100; all is saved: run snakemake again to go on",
    ]


def test_stop_says_when_nothing_runs(root: Path) -> None:
    assert said(call("stop", "mara")) == "error: mara: no training is running; start one: snakemake --cores 2 mara\n"
    assert said(call("stop", "mira")).startswith("error: there is no config/characters/mira.yaml; did you mean mara")
    trainer().ended(RuntimeError("boom"))
    assert (
        said(call("stop", "mara"))
        == "error: mara: no training is running (the last one failed at step 60 of 100: boom); start one: "
        "snakemake --cores 2 mara\n"
    )
    assert not (results("mara").training / stopping.NAME).exists()


def test_stop_while_the_trainer_loads(root: Path) -> None:
    """Told of by an earlier training alone, which is finished."""
    trainer(100, 100).finished()
    folder = results("mara").training

    def load_and_stop() -> None:
        with progress.noticed(folder):
            ends = time.monotonic() + 10
            while time.monotonic() < ends and not (folder / stopping.NAME).exists():
                time.sleep(0.02)
            trainer(1, 0, 200).ended(KeyboardInterrupt())

    thread = threading.Thread(target=load_and_stop)
    thread.start()
    while not progress.started(folder):
        time.sleep(0.02)
    text = said(call("stop", "mara"))
    thread.join()
    assert text.splitlines() == [
        "mara: asked to stop; it is loading torch and the base, and ends after its first step ...",
        "mara: stopped after step 1 of 200; all is saved: run snakemake again to go on",
    ]


def test_stop_between_two_jobs_of_a_training_says_how(root: Path) -> None:
    writer = trainer()
    writer.now.state = progress.WAITING
    writer._write(force=True)
    told = said(call("stop", "mara"))
    assert told.startswith("error: mara: step 60 of 100 is saved, and the next job of this training has not begun;")
    assert not (results("mara").training / stopping.NAME).exists()


def test_a_killed_trainer_is_known_by_its_silence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = trainer()
    writer.now.pid = 2**22 + 1  # beyond the largest
    monkeypatch.setattr(writer, "_clock", lambda: time.time() - 3600)
    writer._write(force=True)
    assert "was killed at step 60 of 100" in said(call("stop", "mara"))


def test_ship_takes_the_newest_checkpoint_and_stops_the_trainer(root: Path) -> None:
    FILE.write_text("# my notes\n" + FILE.read_text() + "checkpoint: auto   # as it comes\n")
    before = FILE.read_text()
    thread = answer(trainer())
    text = said(call("ship", "mara"))
    thread.join()
    assert "ship: 50" in text and "stopped after step 60" in text
    assert FILE.read_text().startswith(before)
    character = load(".").character("mara")
    assert (character.saved_steps, character.checkpoint) == ([50], 50)


def test_ship_takes_no_checkpoint_of_the_run_before(root: Path) -> None:
    """After a changed caption all is trained again, and the old files lie there until then."""
    for step in (50, 100):
        path = results("mara").checkpoint(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1000.0, 1000.0))
    thread = answer(trainer())
    assert "ship: 50." in said(call("ship", "mara"))
    thread.join()
    assert said(call("ship", "mara", "--checkpoint", "100")).endswith("no checkpoint of step 100; use one of 50\n")


def test_ship_refuses_what_is_not_there(root: Path) -> None:
    assert said(call("ship", "mara")) == "error: mara: there is no checkpoint yet; wait for the first, at step 50\n"
    trainer().finished()
    assert said(call("ship", "mara", "--checkpoint", "40")).startswith(
        "error: mara: there is no checkpoint of step 40; use one of 50"
    )
    assert "ship" not in yaml.safe_load(FILE.read_text())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ship: 20\r\nb: 2\r\n", "ship: 50\r\nb: 2\r\n"),
        ("a: 1\nship: 20   # mine\nb: 2\n", "a: 1\nship: 50   # mine\nb: 2\n"),
        ("a: 1\r\nb: |\r\n  ship it\r\n", f"a: 1\r\nb: |\r\n  ship it\r\n{ADDED}\r\n"),
        ("a: ü", f"a: ü\n{ADDED}\n"),
    ],
)
def test_every_other_byte_of_the_file_stays(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode())
    steering.write_ship(path, "a.yaml", 50)
    assert path.read_bytes().decode() == expected


@pytest.mark.parametrize("text", ["{a: 1}\n", "a: |\n  b\nship: 3\nc: |\n\n  ship: 4\n...\n---\n"])
def test_a_file_that_is_laid_out_unusually_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(Exception, match="a.yaml"):
        steering.write_ship(path, "a.yaml", 50)
    assert path.read_text() == text and [p.name for p in tmp_path.iterdir()] == ["a.yaml"]


def test_ship_ends_the_run_and_keeps_the_schedule(root: Path) -> None:
    from charloom.workflow import slices

    cosine = {"train": {"steps": 100, "lr_scheduler": "cosine"}}
    small_project.edit(FILE, recipe=cosine)
    whole = load(".").character("mara")
    small_project.edit(FILE, recipe=cosine, ship=70)
    shipped = load(".").character("mara")
    assert shipped.saved_steps == [50, 70] and shipped.candidates == shipped.sampled_steps == [50, 70]
    assert slices.train(shipped) == slices.train(whole), "the same run"
    small_project.edit(FILE, ship=70, checkpoint=50)
    assert load(".").character("mara").checkpoint == 50


def test_lint_names_the_saved_steps_for_one_to_ship_that_is_none(root: Path) -> None:
    small_project.edit(FILE, ship=70)
    said_so = [line for line in said(call("lint", "mara")).splitlines() if "ship: " in line]
    assert len(said_so) == 1 and "ship: 70 in config/characters/mara.yaml is not a step" in said_so[0]
    assert "Take one of 50, 100, unless" in said_so[0]
    there = results("mara").checkpoint(70)  # of charloom try, say
    there.parent.mkdir(parents=True)
    there.touch()
    assert "ship: " not in said(call("lint", "mara"))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"ship": 500}, "ship: step 500 is never trained, recipe.train.steps is 100; use one of 50, 100"),
        ({"ship": 50, "checkpoint": 100}, "checkpoint: step 100 is not saved; auto or one of 50"),
    ],
)
def test_mistakes_with_ship(root: Path, values: dict, line: str) -> None:
    small_project.edit(FILE, **values)
    assert load_lines() == [f"config/characters/mara.yaml: {line}"]


def load_lines() -> list[str]:
    from charloom.core.errors import UserError

    with pytest.raises(UserError) as caught:
        load(".")
    return str(caught.value).splitlines()


def records(losses: list[float], **more) -> None:
    path = results("mara").metrics
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"step": n, "loss": loss, "rate": 4.0, "memory": 2**30} for n, loss in enumerate(losses, 1)]
    lines += [{"step": len(losses), **more}] if more else []
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def row(seconds: float, step: int = 30) -> None:
    for prompt in ("01", "02"):
        path = Path(results("mara").benchmark("sample_checkpoint", f"{step:06d}-{prompt}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")


@pytest.mark.parametrize(
    ("losses", "trend"),
    [
        ([1 - n / 60 for n in range(30)], "falling"),
        ([0.5 + n / 60 for n in range(30)], "rising"),
        ([0.5 + (n % 5) / 10 for n in range(30)], "level"),
        ([0.5], "level"),
    ],
)
def test_a_trend_is_claimed_only_above_the_scatter(root: Path, losses: list[float], trend: str) -> None:
    records(losses)
    assert trial.measured(root, load(".").character("mara"), 30).trend == trend


def test_settings_of_the_last_run_hold_beside_it(root: Path) -> None:
    """A profile sets them for its own call alone."""
    last_run.remember(["mara"], {"recipe": {"train": {"steps": 40}}}, ["--profile", "profiles/gpu-16gb", "-c8", "mara"])
    assert trial.settings(root, "mara", []) == (
        ["--profile", "profiles/gpu-16gb", "-c8"],
        {"recipe": {"train": {"steps": 40}}},
    )
    assert trial.settings(root, "mara", ["--profile", "profiles/none"]) == (["--profile", "profiles/none"], {})
    assert trial.settings(root, "mara", ["--cores", "3"])[0] == ["--profile", "profiles/gpu-16gb", "--cores", "3"]
    assert "wait for the first, at step 40" in said(call("ship", "mara"))
    assert said(call("stop", "mara")).endswith("start one: snakemake --profile profiles/gpu-16gb -c8 mara\n")


def test_settings_that_can_no_longer_be_read_are_left(root: Path) -> None:
    """The base of the last run was removed since."""
    last_run.remember(["mara"], {"base": "gone"}, ["--cores", "2"])
    assert "wait for the first, at step 50" in said(call("ship", "mara"))


def test_the_verdict_reckons_the_whole_run(root: Path) -> None:
    records([1 - n / 60 for n in range(30)])
    row(18.0)
    character = load(".").character("mara")
    text = "\n".join(trial.verdict(root, character, trial.measured(root, character, 30), price=36.0))
    # 100 steps of 0.25 s, two checkpoints with previews of 36 s.
    assert "whole run  about 97 s (100 steps 25 s, 2 × 2 previews 72 s), 0.97 at 36 an hour" in text
    assert "1.0 GiB" in text and "looks fine; continue from step 30 with: snakemake" in text and "falling" in text


def test_a_problem_is_part_of_the_verdict(root: Path) -> None:
    records([0.5] * 30, adapter={"problem": "the adapter has hardly moved"})
    character = load(".").character("mara")
    lines = trial.verdict(root, character, trial.measured(root, character, 30))
    assert (
        "warning    the adapter has hardly moved" in lines and lines[-1] == "verdict    fix that before the whole run"
    )


def test_try_asks_snakemake_for_one_row_and_passes_options_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(arguments: list[str], root: Path, variables: dict[str, str]) -> int:
        asked.append([*arguments, variables["CHARLOOM_UNTIL"]])
        return 1

    monkeypatch.setattr(trial.running, "snakemake", run)
    text = said(call("try", "mara", "--steps", "30", "--profile", "profiles/gpu-16gb", "--cores", "8"))
    assert asked == [
        [
            "results/mara/samples/step-000030/grid.png",
            "--profile",
            "profiles/gpu-16gb",
            "--cores",
            "8",
            "30",
        ]
    ]
    assert text == "error: try: mara did not get to step 30; look at snakemake's lines above\n"
    assert "the whole run has 100 steps" in said(call("try", "mara"))


def test_try_beside_a_training_says_so_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.running, "snakemake", lambda *arguments: pytest.fail("would wait, then train again"))
    writer = trainer()
    text = said(call("try", "mara", "--steps", "30"))
    assert text == (
        "error: mara: is training (step 60 of 100), so there is nothing to try; "
        "wait, or end it with charloom stop mara\n"
    )
    writer.ended(KeyboardInterrupt())
    with progress.noticed(results("mara").training):
        assert "is training (before its first step)" in said(call("try", "mara", "--steps", "30"))


@pytest.mark.parametrize(("plan", "tried"), [("Nothing to be done (all files up to date)", False), ("Job 1: x", True)])
def test_try_of_a_trained_character_needs_other_settings(
    root: Path, monkeypatch: pytest.MonkeyPatch, plan: str, tried: bool
) -> None:
    asked = []
    monkeypatch.setattr(trial.running, "snakemake", lambda *arguments: asked.append(arguments) or 1)
    monkeypatch.setattr(trial.planning, "dry_run", lambda *arguments: plan)
    results("mara").checkpoint(100).parent.mkdir(parents=True)
    results("mara").checkpoint(100).touch()
    text = said(call("try", "mara", "--steps", "30"))
    assert bool(asked) is tried and ("mara: is trained to step 100 already" in text) is not tried
