"""charloom's terminal: one line per finished stage, bars for what is running, and failures that say what to do.

A Snakemake logger plugin (``--logger charloom``). The Snakefile attaches it itself (:func:`attach`), so that the plain
command has it whether the plugin is installed or not. With another logger, ``--verbose``, ``--printshellcmds``,
``--quiet``, ``--debug-dag`` or ``CHARLOOM_TERMINAL=plain`` Snakemake's own text is shown. The log file is always
complete.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

from charloom.core import missing_package

with missing_package.named():
    from charloom.cli.planning import TERMINAL
    from charloom.workflow.jobs import QUIET

    from . import display
    from .dry_run import DryRun
    from .state import Run


class LogHandler(LogHandlerBase):
    """Writes a run, or a dry run, to the terminal."""

    def __post_init__(self) -> None:
        settings = self.common_settings
        stream = self._stream = sys.stdout if getattr(settings, "stdout", False) else sys.stderr
        self._dry = DryRun() if settings.dryrun else None
        self._run = Run()
        self._display = display.Plain(stream) if self._dry else display.of(stream, not settings.nocolor)
        self._log = ""
        self._over = False
        # Inherited by jobs: they write to their logs only, from which the lines here are made.
        os.environ[QUIET] = "1"

    def emit(self, record: logging.LogRecord) -> None:
        """Write the lines for a record. Never ends a run."""
        try:
            if self._dry is not None:
                self._display.write(self._dry.take(record))
                return
            text = str(record.msg or "")
            if text.startswith("Complete log"):
                self._log = os.path.relpath(text.partition(": ")[2].split(", ")[-1])
            self._display.write(self._run.take(record))
            if self._run.total and not self._over:
                self._display.start(self._run)
            if text.startswith("Elapsed time"):
                self._finish()
        except BrokenPipeError:
            # The reader has exited (`| head`): no reason to end a run, whose log has everything.
            display.silence(self._stream)
        except Exception:
            self.handleError(record)

    def takes_job(self, job: Any) -> None:
        """Count a job of a dry run, without the texts of a record (:func:`charloom.planning.lean.plan_lean`)."""
        if self._dry is not None:
            self._dry.add(job)

    def _finish(self) -> None:
        if not self._over and self._dry is None:
            self._over = True
            self._display.stop()
            self._display.write(self._run.end(self._log))

    def close(self) -> None:
        """Write the last lines, if they are still missing, and restore the terminal."""
        try:
            self._finish()
        except (OSError, ValueError):
            pass  # the stream is closed already
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """To standard error; a dry run to standard output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """The log file is Snakemake's own."""
        return False

    @property
    def has_filter(self) -> bool:
        """Every record is wanted."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Records are read, not formatted."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """The jobs come one by one."""
        return False


def attach(settings: Any, logger: logging.Logger) -> LogHandler | None:
    """Replace Snakemake's own stream handler by this display.

    Does nothing if the user has asked for Snakemake's text, or if this version of Snakemake has no handler of that
    name: then its text is shown as usual.
    """
    asked = ("printshellcmds", "verbose", "debug_dag", "quiet", "log_handler_settings", "skip_plugin_handlers")
    if os.environ.get(TERMINAL) == "plain" or any(getattr(settings, name, None) for name in asked):
        return None
    for handler in list(logger.handlers):
        if handler.name == "DefaultStreamHandler":
            made = LogHandler(settings, None)
            logger.removeHandler(handler)
            logger.addHandler(made)
            return made
    return None
