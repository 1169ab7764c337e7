"""The user's command: when it runs, what it is told, and that it never disturbs a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import small_project

from charloom.config.project import load
from charloom.workflow import notify

JOBS = {1: ("mara", "encode_text"), 2: ("mara", "export_final"), 3: ("zoe", "export_final"), 4: ("", "lock_base"),
        5: ("zoe", "encode_text")}  # fmt: skip
TOLD = "[os.environ['CHARLOOM_' + n] for n in ('CHARACTER', 'STATUS', 'PATH')]"
WRITE = f"import os; print(*{TOLD}, sep='|', file=open('told', 'a'))"


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``told(records)`` gives the lines that the command has written."""
    monkeypatch.chdir(tmp_path)

    def listen(*records: dict, command=(sys.executable, "-c", WRITE), jobs=JOBS) -> list[str]:
        notifier = notify.Notifier(command, jobs)
        for values in records:
            record = logging.LogRecord("snakemake.logging", logging.INFO, "", 0, "", None, None)
            record.__dict__.update(values)
            notifier.handle(record)
        notifier.wait()
        return Path("told").read_text().splitlines() if Path("told").exists() else []

    return listen


def done(number: int) -> dict:
    return {"event": "job_finished", "job_id": number}


def failed(number: int, log: str = "a.log") -> dict:
    return {"event": "job_error", "jobid": number, "log": [log]}


def test_done_is_said_with_the_last_job_of_a_character(told, tmp_path: Path) -> None:
    assert told(done(2), done(4)) == []
    assert told(done(1), done(2)) == [f"mara|done|{tmp_path / 'results/mara/final.safetensors'}"]


def test_failed_is_said_once_with_the_log(told, tmp_path: Path) -> None:
    assert told(failed(1), failed(2), done(3)) == [f"mara|failed|{tmp_path / 'a.log'}"]


def test_some_files_of_a_character_are_not_the_character(told) -> None:
    assert told(done(1), jobs={1: ("mara", "write_prompts")}) == []


def test_stopped_by_hand_is_no_failure(told) -> None:
    Path("a.log").write_text("step 3\nstopped: after step 3\n")
    assert told(failed(1)) == []


def test_a_line_for_the_shell_and_names_that_are_not_run(told) -> None:
    jobs = {1: ("a; touch hacked", "export_final")}
    assert told(done(1), jobs=jobs, command=f'"{sys.executable}" -c "{WRITE}"')[0].startswith("a; touch hacked|done|")
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-program"], "cannot be run"),
        ([sys.executable, "-c", "import sys; sys.exit('no\\nway')"], "ended with status 1: way"),
        ([sys.executable, "-c", "import time; time.sleep(30)"], "took longer than 0 s"),
    ],
)
def test_a_command_that_fails_is_one_line(told, caplog, monkeypatch, command, words) -> None:
    monkeypatch.setattr(notify, "LONGEST", 0.3 if "sleep" in command[-1] else 60.0)
    with caplog.at_level(logging.WARNING, "snakemake.logging"):
        told(done(1), done(2), command=command)
    (line,) = caplog.messages
    assert line.startswith("notify: ") and words in line and "\n" not in line


@pytest.mark.parametrize("value", ["mail me", ["mail", "me"], None])
def test_the_setting(tmp_path: Path, value) -> None:
    folder = small_project.make(tmp_path)
    if value:
        small_project.edit(folder / "config/config.yaml", notify=value)
    assert load(folder).notify == value
