"""What whole calls of snakemake say in the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_project
from small_project import TARGET, snakemake

from charloom.core import last_run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose jobs only pretend, and fail for what is in a file ``bad``."""
    folder = small_project.add_code(small_project.make(tmp_path_factory.mktemp("terminal") / "project"))
    interpreter = small_project.pretender(folder)
    bad = 'import os\nif os.path.exists("bad") and "lint_dataset" in sys.argv[1]:\n'
    bad += '    log = open(sys.argv[sys.argv.index("--log") + 1], "w")\n'
    bad += '    log.write("error: Mara: closeup-01.txt: is empty; write a caption\\n")\n    sys.exit(1)\n'
    text = interpreter.read_text().replace("import sys\n", "import sys\n" + bad, 1)
    interpreter.write_text(text)
    return folder


def test_a_run_says_what_was_made_and_a_dry_run_what_would_be(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLOOM_PYTHON", str(project / "pretender"))
    (project / "bad").touch()
    failed = snakemake(project, "--cores", "2", TARGET, terminal="")
    assert failed.returncode == 1
    lines = failed.stderr.splitlines()
    at = lines.index("failed: mara: check the data set")
    assert lines[at + 1] == "  Mara: closeup-01.txt: is empty; write a caption"
    assert lines[at + 3] == "  again: snakemake --cores 2 results/mara/lint.json"
    assert "jobs done, 1 failed" in lines[-2] and "{" not in failed.stderr and "Exception" not in failed.stderr
    (project / "bad").unlink()
    made = snakemake(project, "--cores", "2", TARGET, "--config", "device=cpu", terminal="")
    assert made.returncode == 0, made.stderr
    small = snakemake(project, "--cores", "1", "results/mara/prompts.html", terminal="")
    assert small.returncode == 0, small.stderr
    one = last_run.of(project, "mara")
    assert (one.options, one.config) == (("--cores", "2", "--config", "device=cpu"), {"device": "cpu"})
    assert made.stderr.splitlines()[-2].startswith("All ") and "2 checkpoints trained" in made.stderr
    assert len(made.stderr.splitlines()) < 30 and made.stdout == ""
    full = (project / made.stderr.splitlines()[-1].removeprefix("Full log: ")).read_text()
    assert "Job stats:" in full and "Finished jobid" in full
    plan = snakemake(project, "-n", "-F", TARGET, terminal="")
    assert "  write caption         3  forced" in plan.stdout.splitlines()
    assert len((plan.stdout + plan.stderr).splitlines()) < 30
    own = snakemake(project, "-n", "-F", TARGET, "--printshellcmds", terminal="")
    assert "Job stats:" in own.stdout, "who asks for Snakemake's text gets it"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize(
    ("options", "reader"), [("-n -F", "2> /dev/null; echo $? > status; } | true"),
                            ("--cores 2 -F", "2>&1; echo $? > status; } | head -n 2 > /dev/null")]
)  # fmt: skip
def test_a_reader_that_exits_ends_no_run(project: Path, options: str, reader: str) -> None:
    environment = {**os.environ, "CHARLOOM_PYTHON": str(project / "pretender"), "PYTHONPATH": str(project)}
    environment.pop("CHARLOOM_TERMINAL", None)
    command = f"{{ {sys.executable} -m snakemake {options} {TARGET} {reader}"
    done = subprocess.run(["bash", "-c", command], cwd=project, env=environment, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert (project / "status").read_text() == "0\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_bars_and_is_left_as_it_was(project: Path) -> None:
    import pty

    environment = {
        **os.environ,
        "CHARLOOM_PYTHON": str(project / "pretender"),
        "PYTHONPATH": str(project),
        "TERM": "xterm",
    }
    environment.pop("CHARLOOM_TERMINAL", None)
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "-f", TARGET]
    done = subprocess.Popen(command, cwd=project, env=environment, stderr=theirs, stdout=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(mine, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert done.wait() == 0
    text = shown.decode()
    assert "\u2501" in text and "jobs" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"
