"""The state of a run, from the records that Snakemake logs, and the lines to show for them.

Independent of any terminal: :meth:`Run.take` gets a record (see ``snakemake_interface_logger_plugins``) and returns
lines.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from logging import WARNING, LogRecord
from typing import Any

from charloom.cli import planning
from charloom.core import last_run
from charloom.core.layout import results
from charloom.train import progress
from charloom.workflow import stale_locks

from . import logs, words

ALIKE = 2
"""How many of Snakemake's lines with the same first three words are shown; the rest is left to the log."""
WARNINGS = 5
"""Warnings of one stage that are shown."""


@dataclass
class Stage:
    """The jobs of a rule; ``busy`` is the time in seconds during which at least one was running."""

    total: int = 0
    done: int = 0
    running: int = 0
    busy: float = 0.0
    since: float = 0.0
    warned: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    told: str = ""


@dataclass
class Line:
    """A line for the terminal; ``style`` is a style of rich."""

    text: str
    style: str = ""


class Run:
    """One call of snakemake. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, arguments: list[str] | None = None) -> None:
        self._clock, self._arguments = clock, sys.argv[1:] if arguments is None else arguments
        self.began = clock()
        self.stages: dict[str, Stage] = {}
        self.done = self.total = self.failed = 0
        self.cores = 0
        self.stopping = False
        self._jobs: dict[int, dict[str, Any]] = {}
        self._ended: set[int] = set()
        self._targets = [0, 0]  # jobs that make nothing, of all and so far: plans do not count them
        self._alike: dict[str, int] = {}
        self._once: set[str] = set()

    # Records

    def take(self, record: LogRecord) -> list[Line]:
        """The lines to show for a record."""
        event = str(getattr(record, "event", None) or "")
        take = getattr(self, f"_{event}", None)
        if take is not None:
            return list(take(record))
        if event and event != "error":
            return []
        return self._plain(record)

    def _plain(self, record: LogRecord) -> list[Line]:
        text = str(record.msg or "").strip()
        if planning.nothing_to_do(text):
            return [Line("Nothing to do: everything is up to date.")]
        if text.startswith("Terminating processes on user request"):
            self.stopping = True
            return [Line("Stopping: running jobs are saving their state ...")]
        if not text or words.NOISE.match(text):
            return []
        if words.LOCKED.search(text):
            names = stale_locks.holders(stale_locks.FOLDER)
            # If there are several, it is unknown which of them blocks this call.
            stop = f", or end it with charloom stop {names[0]}" if len(names) == 1 else ""
            return [Line(f"error: {words.in_use(names)}; wait{stop}", "red")]
        if record.levelno >= WARNING:
            if words.COMMAND_FAILED.search(text) or text in self._once or words.OVER.search(text):
                return []
            self._once.add(text)
            return [Line(line, "red" if record.levelno > WARNING else "yellow") for line in text.splitlines()]
        key = " ".join(re.sub(r"\d+", "0", text).split()[:3])
        self._alike[key] = self._alike.get(key, 0) + 1
        return [Line(line) for line in text.splitlines()] if self._alike[key] <= ALIKE else []

    def _run_info(self, record: LogRecord) -> list[Line]:
        stats = dict(getattr(record, "stats", None) or {})
        self.total = stats.pop("total", sum(stats.values()))
        for rule, jobs in stats.items():
            if words.only_named(rule):
                self._targets[0] += jobs
                continue
            self.stages.setdefault(rule, Stage()).total = jobs
        self.total -= self._targets[0]
        return [Line(f"{self.total} jobs to do" if self.total != 1 else "1 job to do")]

    def _resources_info(self, record: LogRecord) -> list[Line]:
        self.cores = getattr(record, "cores", None) or self.cores
        return []

    def _job_info(self, record: LogRecord) -> list[Line]:
        job = record.__dict__
        if job["jobid"] not in self._jobs and not words.only_named(job["rule_name"]):
            stage = self.stages.setdefault(job["rule_name"], Stage())
            if not stage.running:
                stage.since = self._clock()
            stage.running += 1
        self._jobs[job["jobid"]] = {
            key: job.get(key) for key in ("rule_name", "rule_msg", "wildcards", "log", "output", "reason", "shellcmd")
        }
        return []

    def _job_finished(self, record: LogRecord) -> list[Line]:
        job = self._jobs.get(number := record.__dict__["job_id"])
        if job is None or number in self._ended:
            return []
        self._ended.add(number)
        if words.only_named(job["rule_name"]):
            self._targets[1] += 1
            return []
        self.done += 1
        stage = self._leave(job)
        stage.done += 1
        rule = job["rule_name"]
        found = logs.lines(job["log"] or [])
        new = [line for line in dict.fromkeys(self._named(job, logs.warnings(found))) if line not in self._once]
        self._once.update(new)
        stage.warned += new
        if ending := words.SHOWN.get(rule):
            stage.files += [path for path in job["output"] or [] if path.endswith(ending)]
        if rule in words.TOLD and found and (line := logs.said(found[0])).startswith(words.TOLD[rule]):
            stage.told = line.removeprefix(words.TOLD[rule])
        # A rule without files only names its inputs.
        return self._stage_line(rule, stage, job) if stage.done >= stage.total and job["output"] else []

    def _progress(self, record: LogRecord) -> list[Line]:
        counted, done = self._targets
        self.done, self.total = record.__dict__["done"] - done, record.__dict__["total"] - counted
        return []

    def _job_error(self, record: LogRecord) -> list[Line]:
        number = record.__dict__["jobid"]
        job = self._jobs.get(number) or {"rule_name": record.__dict__["rule_name"], "wildcards": {}}
        if number in self._ended:
            return []
        self._ended.add(number)
        if number in self._jobs:
            self._leave(job)
        log = list(record.__dict__.get("log") or [])
        found = logs.lines(log)
        who = dict(job.get("wildcards") or {}).get("character", "")
        if text := logs.stopped(found):
            self.stopping = True
            return [Line(f"{who}: stopped {text}" if who else f"stopped {text}", "yellow")]
        if self.stopping:
            return []
        self.failed += 1
        what = job.get("rule_msg") or job["rule_name"].replace("_", " ")
        lines = [Line(f"failed: {what}", "bold red")]
        shown = logs.mistakes(found) or [logs.said(line) for line in found[-logs.LAST :]]
        # A mistake that many pictures share has a line for each.
        lines += [Line(f"  {line}") for line in shown[: logs.LAST]]
        if len(shown) > logs.LAST:
            lines.append(Line(f"  ... and {len(shown) - logs.LAST} more"))
        if log:
            lines.append(Line(f"  log:   {log[0]}"))
        output = record.__dict__.get("output") or []
        if output:
            lines.append(Line(f"  again: {self.command(str(output[0]))}"))
        return lines

    def _group_error(self, record: LogRecord) -> list[Line]:
        lines = []
        for job in record.__dict__.get("job_error_info") or []:
            one = LogRecord(record.name, record.levelno, "", 0, "", None, None)
            one.__dict__.update(job)
            lines += self._job_error(one)
        return lines

    # What follows

    def command(self, target: str) -> str:
        """The command that makes a target again, with the profile of this call."""
        return last_run.command(last_run.kept(self._arguments) or ("--cores", str(self.cores or 1)), target)

    def left(self) -> tuple[float, bool]:
        """Seconds until the end, and whether stages of unknown duration come on top."""
        whole, unknown = 0.0, False
        for rule, stage in list(self.stages.items()):
            rest = stage.total - stage.done
            if rest <= 0:
                continue
            if rule == words.TRAINING and (etas := [one.eta for _, one in self.trainings() if one.eta is not None]):
                whole += max(etas)
            elif stage.done:
                whole += self.busy(stage) / stage.done * rest
            elif rule not in words.LIGHT:
                unknown = True
        return whole, unknown

    def busy(self, stage: Stage) -> float:
        """Seconds that a stage has taken so far."""
        return stage.busy + (self._clock() - stage.since if stage.running else 0.0)

    def trainings(self) -> list[tuple[str, progress.Progress]]:
        """The characters in training, with what their trainers say."""
        names = [
            dict(job["wildcards"] or {}).get("character", "")
            for number, job in list(self._jobs.items())  # the display looks from a thread of its own
            if job["rule_name"] == words.TRAINING and number not in self._ended
        ]
        told = [(name, progress.read(results(name).training)) for name in dict.fromkeys(filter(None, names))]
        running = [(name, one) for name, one in told if one is not None and one.state == progress.RUNNING]
        return [(name, replace(one, steps=one.end)) for name, one in running]

    def end(self, log: str = "") -> list[Line]:
        """The last lines."""
        took = words.seconds(self._clock() - self.began)
        lines = []
        for rule, stage in self.stages.items():
            if 0 < stage.done < stage.total:
                lines.append(Line(f"{stage.done} of {words.stage(rule, stage.total)}"))
        if self.stopping and not self.failed and not self.done:
            pass  # no job was finished, and the stopped ones have said what is saved
        elif self.failed or self.stopping or self.done < self.total:
            failed = f", {self.failed} failed" if self.failed else ""
            lines.append(Line(f"{self.done} of {self.total} jobs done{failed}; what is finished is kept.", "yellow"))
        elif self.total:
            lines.append(
                Line(f"All {self.total} jobs done in {took}." if self.total > 1 else f"Done in {took}.", "bold")
            )
        return [*lines, Line(f"Full log: {log}", "dim")] if log and self.total else lines

    def _leave(self, job: dict[str, Any]) -> Stage:
        stage = self.stages.setdefault(job["rule_name"], Stage())
        stage.running -= 1
        if stage.running <= 0:
            stage.running = 0
            stage.busy += self._clock() - stage.since
        return stage

    def _named(self, job: dict[str, Any], found: list[str]) -> list[str]:
        who = dict(job.get("wildcards") or {}).get("character")
        return [line.replace(": ", f": {who}: ", 1) for line in found] if who else found

    def _stage_line(self, rule: str, stage: Stage, job: dict[str, Any]) -> list[Line]:
        text = words.stage(rule, stage.total)
        if len(stage.files) == 1:
            text += f": {stage.files[0]}"
        elif stage.told and stage.total == 1:
            text += f": {stage.told}"
        lines = [Line(f"{text}  {words.seconds(stage.busy)}", "green")]
        if len(stage.files) > 1:
            lines += [Line(f"  {path}") for path in stage.files]
        lines += [Line(f"  {line}", "yellow") for line in stage.warned[:WARNINGS]]
        if len(stage.warned) > WARNINGS:
            where = (job["log"] or ["the log"])[0]
            lines.append(Line(f"  ... and {len(stage.warned) - WARNINGS} more warnings: {where}", "yellow"))
        return lines
