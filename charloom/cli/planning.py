"""``charloom plan``: which jobs Snakemake would run, and why, in a few lines instead of hundreds.

Runs ``snakemake --dry-run`` and parses its output; only this module and :mod:`charloom.cli.changes` know its format.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from charloom.cli import changes
from charloom.config import schema
from charloom.core import missing_package
from charloom.core.errors import UserError
from charloom.core.words import several
from charloom.workflow import arguments

TERMINAL = "CHARLOOM_TERMINAL"
"""Environment variable: ``plain`` selects Snakemake's own output, which is parsed here."""
MOST = 3
"""Causes listed per rule."""

_JOB = re.compile(r"^Job \d+: (?:(?P<who>[\w.-]+): )?(?P<what>.*)$")
_COMMAND = re.compile(r"^(?:Shell command: *)?(?:stored .*? \|\| )?run (\w+) .*?(?:(?:2>|--log) \S*?logs/(\w+)\b\S*)?$")
"""A script, and by its log (:class:`charloom.core.layout.Results`) the rule, because rules may share a script."""
_FOLLOWS = "Input files updated by another job"
_SETTINGS = "its settings changed"
PARAMS = "Params have changed"
"""In Snakemake's reason. Only then the command of a job, which names the user's file, is needed."""
_CAUSES = (
    ("Missing output files", "not made yet"),
    ("Updated input files", "its input changed"),
    (PARAMS, _SETTINGS),
    ("Set of input files has changed", "it reads other files now"),
    ("Code has changed", "its rule changed"),
    ("Software environment", "its environment changed"),
    ("Forced execution", "forced"),
    ("Incomplete", "it was interrupted"),
)


@dataclass(frozen=True)
class Job:
    """A job of a dry run: the character (or nobody), the rule, Snakemake's reason and the command."""

    who: str
    rule: str
    reason: str
    command: str


@dataclass
class Group:
    """Jobs of one rule for one character. ``causes`` maps a cause in words to the number of jobs."""

    who: str
    rule: str
    jobs: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    """The changed files that make the jobs run."""


def dry_run(arguments: Sequence[str], root: Path = Path(".")) -> str:
    """The output of a dry run with ``arguments``: targets, then options such as ``--profile``.

    Raises:
        UserError: the configuration or a target is wrong, with Snakemake's own lines.
    """
    missing_package.need("snakemake")
    environment = {**os.environ, TERMINAL: "plain"}
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        raise UserError(_complaint(output, root))
    if not nothing_to_do(output) and not re.search(r"^Job \d+:", output, re.MULTILINE):
        raise UserError("plan: snakemake listed no jobs; leave out options such as --quiet")
    return output


def nothing_to_do(output: str) -> bool:
    """Whether Snakemake says that everything is up to date."""
    return re.search("^Nothing to be done", output, re.MULTILINE) is not None


def _complaint(output: str, root: Path) -> str:
    """The lines of a failed dry run that matter to the user."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("Using ")]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return "\n".join(errors)
    for index, line in enumerate(lines):
        if match := re.search(r"No rule to produce (\S+)", line):
            return f"plan: nothing makes {match[1]}; name a character, or a file made for one"
        # Older releases of Snakemake name the profile only in the line before.
        if "Profile has to be given" in line and (match := re.search(r"^Using profiles? (\S+)", output, re.MULTILINE)):
            there = sorted(f"profiles/{path.name}" for path in (root / "profiles").glob("*/"))
            remedy = schema.meant(f"profiles/{Path(match[1]).name}", there)
            return f"plan: --profile {match[1]}: there is no such folder; {remedy}"
        if "Missing input files" in line:
            return f"plan: {' '.join(lines[index : index + 4])}"
    # The last line of a usage message or a traceback says what is wrong.
    headings = [n for n, line in enumerate(lines[:-1], 1) if re.search(r"(Error|Exception)( in .*)?:$", line)]
    usage = not lines or lines[0].startswith(("usage: ", "Traceback"))
    shown = lines[-1:] if usage else lines[headings[-1] :][:2] if headings else lines[-2:]
    return f"plan: snakemake failed: {' '.join(shown) or 'without a message'}"


def groups(output: str) -> list[Group]:
    """The jobs of a dry run by rule and character, in Snakemake's order."""
    found: list[Job] = []
    job: dict[str, str] | None = None

    def close(rule: str | None = None, command: str = "") -> None:
        if job is not None:
            # Without a command there is only the message, which ends with the item.
            rule = rule or " ".join(job["what"].split()[:-1]) or job["what"]
            found.append(Job(job["who"], rule, job["reason"], command))

    for line in output.splitlines():
        if match := _JOB.match(line):
            close()
            job = {"who": match["who"] or "", "what": match["what"], "reason": ""}
        elif job is not None and line.startswith("Reason: "):
            job["reason"] = line.removeprefix("Reason: ")
        elif job is not None and (command := _COMMAND.match(line)):
            close(command[2] or command[1], line)
            job = None
        elif line.startswith("Job stats:"):
            close()
            job = None
    close()
    return grouped(found)


def grouped(jobs: Iterable[Job]) -> list[Group]:
    """Jobs by rule and character, in the order of the first of each."""
    found: dict[tuple[str, str], Group] = {}
    for job in jobs:
        add(found, job)
    return list(found.values())


def add(found: dict[tuple[str, str], Group], job: Job) -> None:
    """Count a job in its group of ``found``, by character and rule."""
    group = found.setdefault((job.who, job.rule), Group(job.who, job.rule))
    _add(group, job.reason, job.command)


def together(found: Iterable[Group], who: str) -> list[Group]:
    """The groups of all characters merged under the name ``who``; shared ones stay separate."""
    made: dict[tuple[str, str], Group] = {}
    for group in found:
        name = who if group.who else ""
        whole = made.setdefault((name, group.rule), Group(name, group.rule))
        whole.jobs += group.jobs
        for cause, jobs in group.causes.items():
            whole.causes[cause] = whole.causes.get(cause, 0) + jobs
        whole.files += [file for file in group.files if file not in whole.files]
    return list(made.values())


def _file_in(command: str) -> str:
    """The user's file that a command names."""
    try:
        words = shlex.split(command)
        return str(arguments.path(words[words.index("--user-file") + 1]) or "")
    except (ValueError, IndexError):
        return ""


def _add(group: Group, reason: str, command: str) -> None:
    group.jobs += 1
    found = [words for sign, words in _CAUSES if re.search(rf"(^|; ){sign}", reason)]
    if _SETTINGS in found and (details := changes.causes(reason)):
        found = [*(words for words in found if words != _SETTINGS), *details]
        # Parsing a command is slow, and there may be ten thousand that name no changed file.
        file = _file_in(command) if changes.FILE_CHANGED in details else ""
        if file and file not in group.files:
            group.files.append(file)
    if updated := re.search(r"(?:^|; )Updated input files: ([^;]*)", reason):
        group.files += [name for name in updated[1].split(", ") if name not in group.files]
    if not found:
        found = ["follows from that"] if _FOLLOWS in reason else [reason or "no reason given"]
    for cause in dict.fromkeys(found):
        group.causes[cause] = group.causes.get(cause, 0) + 1


def remarks(output: str) -> list[str]:
    """Lines from the workflow itself: characters that are left out, and notes on the others."""
    said = [line for line in output.splitlines() if line.startswith(("left out: ", "note: "))]
    return sorted(said, key=lambda line: line.split(": ")[:2])  # Snakemake visits characters in any order


def summary(found: Sequence[Group]) -> list[str]:
    """The plan as lines: one block per character, one line per rule."""
    if not found:
        return ["Nothing to do: everything is up to date."]
    total = sum(group.jobs for group in found)
    lines = [f"{several(total, 'job')} to do; everything else is up to date."]
    width = max(len(group.rule) for group in found)
    # What characters share (bases) comes first.
    for who in sorted({group.who for group in found}, key=lambda name: (name != "", name)):
        lines.append(f"{who or 'shared'}:")
        for group in found:
            if group.who == who:
                why = ", ".join([*list(group.causes)[:MOST], *(["..."] if len(group.causes) > MOST else [])])
                files = group.files[:3]
                named = f" ({', '.join(files)}{', ...' if len(group.files) > 3 else ''})" if files else ""
                lines.append(f"  {group.rule.replace('_', ' '):{width}}  {group.jobs:4}  {why}{named}")
    return lines
