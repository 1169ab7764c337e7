"""Runs the user's command when a character is done or has failed (``notify:`` in ``config/config.yaml``).

What happened is in the environment, never in the command: ``CHARLOOM_CHARACTER``, ``CHARLOOM_STATUS`` (``done`` or
``failed``), ``CHARLOOM_PATH`` (the LoRA, or the log of the failed job) and ``CHARLOOM_MESSAGE``, one line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from charloom.core.errors import STOPPED
from charloom.core.layout import results

LONGEST = 60.0
"""Seconds after which the command is ended."""
LAST_RULE = "export_final"
"""Without a job of this rule a character is never done: only some of its files were requested."""


class Notifier(logging.Handler):
    """Listens to Snakemake's log. ``jobs`` are those of this call: number → (character, rule).

    ``command`` is a list (program and arguments) or a string for the system's shell. It never delays a job: it runs
    beside them; :meth:`wait` waits for what still runs.
    """

    def __init__(self, command: str | Sequence[str], jobs: Mapping[int, tuple[str, str]]) -> None:
        super().__init__()
        self._command = command
        self._jobs = {number: who for number, (who, _) in jobs.items() if who}
        self._whole = {who for who, rule in jobs.values() if rule == LAST_RULE}
        self._left: dict[str, set[int]] = {}
        for number, who in self._jobs.items():
            self._left.setdefault(who, set()).add(number)
        self._told: set[tuple[str, str]] = set()
        self._threads: list[threading.Thread] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; never raises."""
        try:
            event = str(getattr(record, "event", None) or "")
            if event == "job_finished":
                self._finished(record.__dict__["job_id"])
            elif event == "job_error":
                self._failed(record.__dict__["jobid"], list(record.__dict__.get("log") or []))
            elif event == "group_error":
                for job in record.__dict__.get("job_error_info") or []:
                    self._failed(job["jobid"], list(job.get("log") or []))
        except Exception:
            self.handleError(record)

    def _finished(self, number: int) -> None:
        who = self._jobs.get(number)
        if who is None:
            return
        self._left[who].discard(number)
        if not self._left[who] and who in self._whole:
            path = results(who).final.as_posix()
            self._tell(who, "done", path, f"{who} is done: {path}")

    def _failed(self, number: int, logs: list[str]) -> None:
        path = logs[0] if logs else ""
        if _stopped(path):
            return
        # A job of the base, for example, concerns all characters.
        who = self._jobs.get(number)
        for name in [who] if who else sorted(self._whole):
            self._tell(name, "failed", path, f"{name} has failed: {path or 'see the terminal'}")

    def _tell(self, who: str, status: str, path: str, message: str) -> None:
        # A character does not fail after it is done, but a job that is retried may succeed.
        if {(who, status), (who, "done")} & self._told:
            return
        self._told.add((who, status))
        told = {"CHARACTER": who, "STATUS": status, "PATH": path and str(Path(path).absolute()), "MESSAGE": message}
        environment = {**os.environ, **{f"CHARLOOM_{name}": value for name, value in told.items()}}
        thread = threading.Thread(target=self._run, args=(environment,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, environment: dict[str, str]) -> None:
        shell = isinstance(self._command, str)
        command = self._command if shell else list(self._command)
        try:
            done = subprocess.run(
                command, shell=shell, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST
            )
        except subprocess.TimeoutExpired:
            problem = f"took longer than {LONGEST:.0f} s and was ended"
        except (OSError, ValueError) as error:
            problem = f"cannot be run: {error}"
        else:
            if not done.returncode:
                return
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            problem = ": ".join([f"ended with status {done.returncode}", *last])
        name = self._command if isinstance(self._command, str) else " ".join(self._command)
        logging.getLogger("snakemake.logging").warning(f"notify: {name}: {problem}")

    def wait(self) -> None:
        """Wait until every command has ended."""
        for thread in self._threads:
            thread.join(LONGEST + 1)


def _stopped(log: str) -> bool:
    """Whether the job's log says that it was stopped on request."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
        return any(line.startswith(STOPPED) for line in lines[-3:])
    return False
