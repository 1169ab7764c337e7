"""A dry run in a few lines: for each character and rule, how many jobs would run and why."""

from __future__ import annotations

from logging import ERROR, LogRecord
from typing import Any

from charloom.cli import planning
from charloom.workflow import stale_locks

from . import words
from .state import Line

MANY = 6
"""If there are more characters than this, their jobs are counted together."""


class DryRun:
    """Counts the jobs of a dry run and lists them at its end."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], planning.Group] = {}

    def add(self, job: Any) -> None:
        """Count a Snakemake job. Its command, which is long, is formatted only if it is needed."""
        if not job.output:  # a target such as `all` or a character's name makes nothing itself
            return
        reason = str(job.dag.reason(job))
        who = (job.wildcards_dict or {}).get("character", "")
        command = (job.shellcmd or "") if planning.PARAMS in reason else ""
        planning.add(self._found, planning.Job(who, job.rule.name, reason, command))

    def take(self, record: LogRecord) -> list[Line]:
        """The lines to show for a record."""
        event = str(getattr(record, "event", None) or "")
        text = str(record.msg or "").strip()
        if event == "job_info":
            job = record.__dict__
            if not job["output"]:
                return []
            who = dict(job["wildcards"] or {}).get("character", "")
            planning.add(self._found, planning.Job(who, job["rule_name"], job["reason"], job["shellcmd"] or ""))
        elif planning.nothing_to_do(text):
            return [Line(planning.summary([])[0])]
        elif text.startswith("This was a dry-run"):
            return self._lines()
        elif words.LOCKED.search(text):
            names = stale_locks.holders(stale_locks.FOLDER)
            return [Line(f"note: {words.in_use(names)}; what it makes is still listed", "yellow")]
        elif text and event in ("", "error") and not words.NOISE.match(text):
            style = "red" if record.levelno >= ERROR else ""
            return [Line(line, style) for line in text.splitlines()]
        return []

    def _lines(self) -> list[Line]:
        people = {who for who, _ in self._found if who}
        found = list(self._found.values())
        if len(people) > MANY:
            found = planning.together(found, f"{len(people)} characters")
        lines = [Line(line) for line in planning.summary(found)]
        return [*lines, Line("This was a dry run: nothing was made. Every job with its files: snakemake -n -p")]
