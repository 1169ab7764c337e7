"""A dry run in a few lines: for each character and rule how many jobs, and why."""

from __future__ import annotations

from logging import ERROR, LogRecord

from charloom.cli import planning

from . import words
from .state import Line

MANY = 6
"""More characters than these are counted together."""


class DryRun:
    """Gathers the jobs of a dry run and tells them at its end."""

    def __init__(self) -> None:
        self._jobs: list[planning.Job] = []
        self._total = 0

    def take(self, record: LogRecord) -> list[Line]:
        """The lines that a record is worth."""
        event = str(getattr(record, "event", None) or "")
        text = str(record.msg or "").strip()
        if event == "job_info":
            job = record.__dict__
            who = dict(job["wildcards"] or {}).get("character", "")
            self._jobs.append(planning.Job(who, job["rule_name"], job["reason"], job["shellcmd"] or ""))
        elif event == "run_info":
            self._total = dict(getattr(record, "stats", None) or {}).get("total", 0)
        elif text.startswith("Nothing to be done"):
            return [Line(planning.summary([])[0])]
        elif text.startswith("This was a dry-run"):
            return self._lines()
        elif text and event in ("", "error") and not words.NOISE.match(text):
            style = "red" if record.levelno >= ERROR else ""
            return [Line(line, style) for line in text.splitlines()]
        return []

    def _lines(self) -> list[Line]:
        people = {job.who for job in self._jobs if job.who}
        jobs = self._jobs
        if len(people) > MANY:
            together = f"{len(people)} characters"
            jobs = [planning.Job(together if job.who else "", job.rule, job.reason, job.command) for job in jobs]
        lines = [Line(line) for line in planning.summary(planning.grouped(jobs))]
        return [*lines, Line("This was a dry run: nothing was made. Every job with its files: snakemake -n -p")]
