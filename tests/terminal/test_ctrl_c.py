"""Ctrl-C as a user presses it: in an interactive shell, in a terminal of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_project

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

TRAINER = """
if "train_segment" in sys.argv[1]:
    import signal, time
    def stop(number, frame):
        time.sleep(1)  # longer than subprocess.run waits after Ctrl-C
        with open(sys.argv[sys.argv.index("--log") + 1], "w") as log:
            log.write("stopped: after step 3 of 100; all is saved\\n")
        sys.exit(1)
    signal.signal(signal.SIGINT, stop)
    open("training", "w").close()
    time.sleep(120)
"""
PROMPT = "ready> "
PASTE = "\x1b[?2004h"
"""What bash writes before its prompt."""
LONGEST = 120.0


class Shell:
    """``bash -i`` with a controlling terminal, so that Ctrl-C reaches the job in the foreground and no other."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        import fcntl
        import pty
        import termios

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where these tests run in the background

        self._mine, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], cwd=folder, env={**environment, "PS1": PROMPT},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""
        self.read_until(lambda: self.shown.endswith(PROMPT))

    def read_until(self, done) -> None:
        """Take what the terminal shows until ``done()``."""
        ends = time.monotonic() + LONGEST
        while not done():
            assert time.monotonic() < ends, self.shown
            if select.select([self._mine], [], [], 0.1)[0]:
                self.shown += os.read(self._mine, 65536).decode(errors="replace")

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self._mine, text.encode())

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGHUP)
        os.close(self._mine)
        self.process.wait()


@pytest.fixture
def shell(tmp_path: Path):
    folder = small_project.add_code(small_project.make(tmp_path / "project"))
    interpreter = small_project.pretender(folder)
    interpreter.write_text(interpreter.read_text().replace("import sys\n", "import sys\n" + TRAINER, 1))
    environment = {
        **os.environ,
        "CHARLOOM_PYTHON": str(interpreter),
        "PYTHONPATH": str(folder),
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    environment.pop("CHARLOOM_TERMINAL", None)
    made = Shell(folder, environment)
    yield made
    made.close()


def test_ctrl_c_ends_a_trial_as_it_ends_snakemake(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    command = f"{sys.executable} -c 'from charloom.cli.main import app; app()' try mara --steps 10 --cores 2"
    shell.type(f"{command}\n")
    shell.read_until((folder / "training").exists)
    shell.type("\x03")
    shell.read_until(lambda: PROMPT in shell.shown)
    text = shell.shown
    assert "stopped after step 3 of 100; all is saved" in text[: text.index(PROMPT)]
    assert "did not get to" not in text, "Ctrl-C is no failure"
    assert "\x1b[?25h" in text, "the cursor is back"
    assert text[: text.index(PROMPT)].removesuffix(PASTE).endswith("\n"), "the prompt begins a line"
    assert not list((folder / ".snakemake").glob("locks/*"))
    shell.type("echo status $?\n")
    shell.read_until(lambda: "status 130" in shell.shown)
