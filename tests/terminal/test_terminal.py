"""The terminal output of a run: from Snakemake's log records to lines, and from lines to a stream."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import small_project

import snakemake_logger_plugin_charloom as plugin
from charloom.core.layout import results
from charloom.train import progress
from snakemake_logger_plugin_charloom import display, logs, words
from snakemake_logger_plugin_charloom.dry_run import DryRun
from snakemake_logger_plugin_charloom.state import Line, Run


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run(clock, ["--cores", "2", "mara"])


def record(event: str | None = None, text: str = "", level: int = logging.INFO, **more) -> logging.LogRecord:
    made = logging.LogRecord("snakemake.logging", level, "", 0, text, None, None)
    made.__dict__.update(more)
    if event:
        made.event = event
    return made


def take(run: Run, *records: logging.LogRecord) -> list[str]:
    return [line.text for one in records for line in run.take(one)]


def job(number: int, rule: str, log: str = "", **more) -> logging.LogRecord:
    values = {
        "jobid": number,
        "rule_name": rule,
        "rule_msg": f"mara: {rule}",
        "wildcards": {"character": "mara"},
        "log": [log] if log else [],
        "output": [f"results/mara/{rule}-{number}"],
        "reason": "Missing output files: x",
        "shellcmd": f"run {rule} --settings '{{}}'",
    }
    return record("job_info", **{**values, **more})


def end(number: int) -> logging.LogRecord:
    return record("job_finished", job_id=number)


def fail(number: int, rule: str, log: str) -> logging.LogRecord:
    return record("job_error", level=logging.ERROR, jobid=number, rule_name=rule, log=[log],
                  output=[f"results/mara/{rule}-{number}"], shellcmd="run x --settings '{\"a\": 1}'")  # fmt: skip


def test_a_second_call_for_the_same_files_names_the_character(run: Run) -> None:
    said = record(text="LockException:\nError: Directory cannot be locked. ... removed with the --unlock argument.")
    assert take(run, said) == ["error: another snakemake is making these files in this folder; wait"]
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.output.lock").write_text("work/bases/mini.lock.json\nresults/leyla/final.safetensors\n")
    making = "leyla is being made by another snakemake in this folder; "
    assert take(run, said) == [f"error: {making}wait, or end it with charloom stop leyla"]
    Path(".snakemake/locks/1.output.lock").write_text("results/mara/final.safetensors\n")
    both = "leyla, mara are being made by another snakemake in this folder; wait"
    assert take(run, said) == [f"error: {both}"]
    Path(".snakemake/locks/1.output.lock").unlink()
    dry = DryRun().take(record(text="Error: Directory cannot be locked. Another Snakemake instance is running."))
    assert [line.text for line in dry] == [f"note: {making}what it makes is still listed"]


def test_a_stage_is_one_line_when_its_last_job_is_done(run: Run, clock: Clock) -> None:
    assert take(run, record("run_info", stats={"crop_watermark": 30, "total": 30})) == ["30 jobs to do"]
    said = []
    for number in range(30):
        said += take(run, job(number, "crop_watermark"))
        clock.time += 2
        said += take(run, end(number))
        clock.time += 10  # nothing runs: not this stage's time
    assert said == ["30 pictures cropped  1:00"]


def test_a_target_that_makes_nothing_is_no_job(run: Run, clock: Clock) -> None:
    """As in a plan and in a dry run."""
    Path("config/characters").mkdir(parents=True)
    Path("config/characters/mara.yaml").touch()
    stats = {"write_prompts": 1, "write_report": 1, "mara": 1, "all": 1, "total": 4}
    assert take(run, record("run_info", stats=stats)) == ["2 jobs to do"]
    take(run, job(1, "write_prompts"), end(1), record("progress", done=1, total=4))
    take(run, job(2, "mara", output=[]), end(2), record("progress", done=2, total=4))
    assert (run.done, run.total) == (1, 2)
    take(run, job(3, "write_report"), end(3), record("progress", done=3, total=4), job(4, "all", output=[]), end(4))
    take(run, record("progress", done=4, total=4))
    assert [line.text for line in run.end()] == ["All 2 jobs done in 0 s."]
    assert set(run.stages) == {"write_prompts", "write_report"}


def test_snakemakes_own_talk_is_left_to_the_log_and_news_is_not(run: Run) -> None:
    noise = """Building DAG of jobs...
Using shell: /bin/bash
Provided cores: 2
Select jobs to execute...
Execute 3 jobs...
Job 7 has been submitted with SLURM jobid 12 (log: x).
"""
    for text in [*noise.splitlines(), ""]:
        assert take(run, record(text=text)) == []
    assert take(run, record(text="Creating conda environment a.yaml...")) == ["Creating conda environment a.yaml..."]
    alike = [line for n in range(9) for line in take(run, record(text=f"Retrieving file {n} from storage"))]
    assert len(alike) == 2
    assert take(run, record(text="Unlocked working directory.")) == ["Unlocked working directory."]


def test_warnings_of_jobs_come_once_below_their_stage(run: Run) -> None:
    Path("a.log").write_text("     0.1 s  warning: closeup-01: too short\n     0.2 s  30 images checked\n")
    take(run, record("run_info", stats={"lint_dataset": 1, "train_segment": 2, "total": 3}))
    said = take(run, job(1, "lint_dataset", "a.log"), end(1))
    assert said == ["Data set checked  0 s", "  warning: mara: closeup-01: too short"]
    Path("b.log").write_text("warning: lr 1 is unusual\n" * 2)
    said = take(run, job(2, "train_segment", "b.log"), end(2), job(3, "train_segment", "b.log"), end(3))
    assert [line for line in said if "unusual" in line] == ["  warning: mara: lr 1 is unusual"]


def test_many_warnings_are_counted(run: Run) -> None:
    Path("a.log").write_text("".join(f"     0.1 s  warning: {n}: too short\n" for n in range(30)))
    take(run, record("run_info", stats={"lint_dataset": 1, "total": 1}))
    said = take(run, job(1, "lint_dataset", "a.log"), end(1))
    assert len(said) == 7 and said[-1] == "  ... and 25 more warnings: a.log"


def test_a_mistake_of_the_users_is_a_line_with_file_and_remedy(run: Run) -> None:
    Path("a.log").write_text("  0.1 s  error: m-1: no trigger\n  0.1 s  3 checked\nerror: Mara: m-1.txt: add m4ra\n")
    said = take(run, job(4, "lint_dataset", "a.log"), record("error", "RuleException:\nCalledProcessError in file x",
                logging.ERROR, exception="RuleException"), fail(4, "lint_dataset", "a.log"))  # fmt: skip
    assert said == [
        "failed: mara: lint_dataset",
        "  Mara: m-1.txt: add m4ra",
        "  log:   a.log",
        "  again: snakemake --cores 2 results/mara/lint_dataset-4",
    ]
    assert take(run, fail(4, "lint_dataset", "a.log")) == [], "told once"
    assert "settings" not in "".join(said)


def test_another_failure_shows_its_last_ten_lines(run: Run) -> None:
    Path("a.log").write_text("".join(f"     0.1 s  line {n}\n" for n in range(50)) + "RuntimeError: no\n")
    said = take(run, job(4, "train_segment", "a.log"), fail(4, "train_segment", "a.log"))
    assert said[1:-2] == [*(f"  line {n}" for n in range(41, 50)), "  RuntimeError: no"]


def test_a_profile_is_part_of_the_command_to_repeat(clock: Clock) -> None:
    run = Run(clock, ["--profile", "profiles/gpu-16gb", "--cores", "8", "mara", "--rerun-triggers", "mtime"])
    assert run.command("results/a b") == "snakemake --profile profiles/gpu-16gb --cores 8 'results/a b'"


def test_a_stopped_training_is_no_failure(run: Run) -> None:
    Path("a.log").write_text("  1.0 s  step 3\nstopped: after step 3 of 9; all is saved\n")
    take(run, record("run_info", stats={"train_segment": 1, "total": 1}))
    said = take(run, job(4, "train_segment", "a.log"), fail(4, "train_segment", "a.log"))
    assert said == ["mara: stopped after step 3 of 9; all is saved"]
    assert run.end() == [], "all is saved, and 0 of 1 jobs done would sound like the contrary"


def test_what_ctrl_c_kills_has_not_failed(run: Run) -> None:
    Path("a.log").write_text("interrupted\n")
    take(run, record(text="Terminating processes on user request, this might take some time."))
    assert take(run, job(4, "encode_latents", "a.log"), fail(4, "encode_latents", "a.log")) == []


def test_the_time_left_follows_the_trainer_and_says_what_it_does_not_know(run: Run, clock: Clock) -> None:
    take(run, record("run_info", stats={"train_segment": 1, "sample_checkpoint": 4, "crop_watermark": 2, "total": 7}))
    assert run.left() == (0, True)
    writer = progress.Writer(results("mara").training, first=0, steps=100, clock=clock)
    take(run, job(1, "train_segment"))
    for step in range(1, 11):
        clock.time += 2
        writer.step(step, 0.5, 0.5)
    assert run.left() == (180, True)
    take(run, end(1), job(2, "sample_checkpoint"))
    clock.time += 5
    take(run, end(2))
    assert run.left() == (15, False)


def test_a_trial_counts_to_its_own_last_step(run: Run, clock: Clock) -> None:
    take(run, record("run_info", stats={"train_segment": 1, "total": 1}), job(1, "train_segment"))
    writer = progress.Writer(results("mara").training, first=0, steps=800, trial=30, clock=clock)
    for step in range(1, 11):
        clock.time += 2
        writer.step(step, 0.5, 0.5)
    assert [(one.step, one.steps, one.eta) for _, one in run.trainings()] == [(10, 30, 40)]
    assert run.left() == (40, False)
    assert progress.read(results("mara").training).steps == 800


def test_a_reference_of_the_users_own_is_named(run: Run) -> None:
    Path("a.log").write_text("taken: mara-dash.png\n")
    Path("b.log").write_text("warning: no hair\n")
    take(run, record("run_info", stats={"make_reference": 1, "total": 1}))
    assert take(run, job(1, "make_reference", "a.log"), end(1)) == ["Reference ready: mara-dash.png  0 s"]
    run = Run(lambda: 0.0, [])
    take(run, record("run_info", stats={"make_reference": 1, "total": 1}))
    assert take(run, job(1, "make_reference", "b.log"), end(1))[0] == "Reference ready  0 s"


def test_bars_name_step_loss_speed_and_time_left(run: Run, clock: Clock) -> None:
    from rich.console import Console

    take(
        run, record("run_info", stats={"train_segment": 1, "sample_checkpoint": 4, "total": 5}), job(1, "train_segment")
    )
    writer = progress.Writer(results("mara").training, first=0, steps=100, clock=clock)
    for step in range(1, 11):
        clock.time += 2
        writer.step(step, 0.5, 0.4321)
    made = display.Live(io.StringIO())
    made._run = run
    console = Console(file=io.StringIO(), width=200)
    console.print(made.bars())
    shown = console.file.getvalue()
    for words_ in ("0/5 jobs", "mara", "step 10/100", "loss 0.4321", "2.00 s/it", "3:00 left"):
        assert words_ in shown
    assert len(shown.splitlines()) == 2


@pytest.mark.parametrize("width", [60, 80, 120])
def test_bars_fit_the_terminal_and_cut_no_name_or_number(run: Run, clock: Clock, width: int) -> None:
    from rich.console import Console

    take(
        run,
        record("run_info", stats={"train_segment": 8, "sample_checkpoint": 340, "total": 301}),
        job(1, "train_segment"),
    )
    writer = progress.Writer(results("mara").training, first=1990, steps=3000, clock=clock)
    for step in range(1991, 2001):
        clock.time += 0.8
        writer.step(step, 0.5, 0.1431)
    made = display.Live(io.StringIO())
    made._run, made._console = run, Console(file=io.StringIO(), width=width)
    made._trainings, made._looked = run.trainings(), float("inf")
    made._trainings[0][1].previews_done = 40
    made._console.print(made.bars())
    shown = made._console.file.getvalue()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    wanted = ["0/301 jobs", "mara", "step 2000/3000", "loss 0.1431"]
    for part in [*wanted, *(["left", "s/it"] if width >= 80 else []), *(["40 previews"] if width >= 120 else [])]:
        assert part in shown


def test_a_stream_without_a_terminal_gets_lines_and_no_codes() -> None:
    stream = io.StringIO()
    made = display.of(stream)
    made.write([Line("30 pictures cropped  4 s", "green")])
    made.start(None)
    assert stream.getvalue() == "30 pictures cropped  4 s\n"


def test_an_old_console_gets_what_it_can_show() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    display.Plain(stream).write([Line("Zoë [bold]")])
    assert raw.getvalue().splitlines() == [b"Zo? [bold]"]


def test_every_rule_has_words() -> None:
    import re

    text = "".join(path.read_text() for path in (small_project.ROOT / "rules").glob("*.smk"))
    rules = set(re.findall(r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:", text, flags=re.MULTILINE))
    assert rules == set(words.STAGES)
    assert words.LIGHT | set(words.SHOWN) | set(words.TOLD) <= rules


def test_only_the_end_of_a_huge_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LARGEST", 100)
    (tmp_path / "a.log").write_text("first\n" + "x" * 200 + "\nlast\n")
    assert logs.lines(["missing.log", str(tmp_path / "a.log")])[-1] == "last"
    assert "first" not in logs.lines([str(tmp_path / "a.log")])


def test_a_dry_run_of_many_characters_is_counted_together() -> None:
    dry = DryRun()
    said = [line for n in range(20) for line in dry.take(job(n, "crop_watermark", wildcards={"character": f"p{n}"}))]
    said += dry.take(job(20, "all", wildcards={}, output=[]))  # makes nothing itself
    said += dry.take(record(text="Some jobs were triggered by provenance information, see 'reason' section in the"))
    said += dry.take(record(text="This was a dry-run (flag -n). The order"))
    assert [line.text for line in said][:3] == [
        "20 jobs to do; everything else is up to date.",
        "20 characters:",
        "  crop watermark    20  not made yet",
    ]


OWN_CHECKS = "snakemake_interface_logger_plugins.tests"


@pytest.mark.skipif(not find_spec(OWN_CHECKS), reason="Snakemake's own checks come with newer plugin interfaces")
class TestSnakemakesOwnChecks(import_module(OWN_CHECKS).TestLogHandlerBase if find_spec(OWN_CHECKS) else object):
    """What Snakemake asks of every logger plugin."""

    __test__ = True

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHARLOOM_JOBS_QUIET", "")

    def get_log_handler_cls(self):
        return plugin.LogHandler

    def get_log_handler_settings(self):
        return None


def test_jobs_are_quiet_only_where_their_log_is_shown(tmp_path: Path, monkeypatch, capfd) -> None:
    from charloom.workflow import jobs

    terminal = sys.stderr
    for quiet, expected in (("1", ""), ("", "  Mara: hello\n")):
        monkeypatch.setenv(jobs.QUIET, quiet)
        monkeypatch.setattr(sys, "stderr", terminal)
        jobs.Log(tmp_path / "a.log", "Mara")("hello")
        assert capfd.readouterr().err == expected
        assert "hello" in (tmp_path / "a.log").read_text()


def test_a_terminal_that_was_closed_ends_no_job(tmp_path: Path, monkeypatch) -> None:
    from charloom.workflow import jobs

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

        def flush(self) -> None:
            self.write("")

    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.delenv(jobs.QUIET, raising=False)
    jobs.Log(tmp_path / "a.log", "Mara")("hello")
    print("a warning", file=sys.stderr, flush=True)
    assert "hello" in (tmp_path / "a.log").read_text() and "a warning" in (tmp_path / "a.log").read_text()


def test_progress_of_another_version_is_read(tmp_path: Path) -> None:
    values = {"state": "running", "step": 1, "steps": 2, "first": 0, "new": 1}
    (tmp_path / progress.NAME).write_text(json.dumps(values))
    assert progress.read(tmp_path).step == 1
