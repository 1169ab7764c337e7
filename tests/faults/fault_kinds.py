"""The faults: what is prepared, what happens during a run, and what must come of it.

Each is a function of (project, random number generator) that says what it did. The plain call after it and the checks
of bytes are the same for all (:func:`undergo`).
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fault_plan import ABOUT, place_of
from fault_project import Project, Run, Template, outputs
from small_project import TARGET

KINDS: dict[str, Callable[[Project, random.Random], str]] = {}
INSIDE = ("kill_every_rule", "kill_job", "out_of_memory", "gpu_lost", "clock_set_back", "disk_full")
"""Kinds that a job notes when it meets them."""
IN_FLIGHT = (
    *("kill_every_rule", "kill_job", "kill_snakemake", "kill_everything", "power_cut", "kill_in_flight"),
    "server_fails",
)
"""Kinds that may keep an answer from being stored."""
SPREAD = (math.sqrt(5) - 1) / 2
"""Its multiples, without their whole part, are spread evenly however many there are."""
LEFT = ("logs", "benchmarks")
"""Folders of files that nobody reads back."""


@dataclass
class Outcome:
    """``detail`` says what exactly was done, ``how`` the project got well again."""

    kind: str
    seed: int
    detail: str = ""
    how: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    project: str = ""
    met: bool = True
    """Whether the job lived to see the fault."""


def kind(function: Callable[[Project, random.Random], str]) -> Callable[[Project, random.Random], str]:
    KINDS[function.__name__] = function
    return function


def about(what: str) -> Callable[[Callable[[Project, random.Random], str]], Callable[[Project, random.Random], str]]:
    """The kind is about a job of :attr:`Project.rule`: every rule in turn, seed by seed."""

    def mark(function: Callable[[Project, random.Random], str]) -> Callable[[Project, random.Random], str]:
        ABOUT[function.__name__] = what
        return kind(function)

    return mark


def undo(project: Project, chance: random.Random) -> dict:
    """Make sure that the rule runs: its files are gone, and mostly what is stored of them; its job."""
    rule = project.rule
    project.undo({rule}, store=rule in project.template.computing or chance.random() < 0.7)
    return project.template.job(rule)


@about("rules")
def kill_every_rule(project: Project, chance: random.Random) -> str:
    """SIGKILL of a job that has all of its work to do: seeds are spread over its length, and some come at its end."""
    project.undo({project.rule}, store=True)
    job = project.template.job(project.rule)
    event = 1 + int(1.2 * (project.seed * SPREAD % 1) * job["events"])
    run = project.run({"kind": "kill", "rule": job["rule"], "event": event})
    if not (project.notes / "met").exists():
        raise AssertionError("no job was killed")
    where = f"system call {event} of {job['events']}" if event <= job["events"] else "at its end"
    return f"{job['rule']}, {where}: Snakemake ended with {run.code}"


@about("rules")
def kill_job(project: Project, chance: random.Random) -> str:
    job = undo(project, chance)
    if chance.random() < 0.7:
        moment = {"event": chance.randint(1, job["events"])}
    else:
        moment = {"seconds": chance.uniform(0, 1.2) * job["seconds"]}
    run = project.run({"kind": "kill", "rule": job["rule"], **moment})
    return f"{job['rule']} {moment}: Snakemake ended with {run.code}"


def _killed(project: Project, chance: random.Random, everything: bool) -> str:
    job = undo(project, chance)
    started = project.start()
    if chance.random() < 0.4:
        delay = chance.uniform(0, 3)
        time.sleep(delay)
    else:
        # In the middle of the job.
        until = time.monotonic() + 60
        while not project.pids(job["rule"]) and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(delay := chance.uniform(0, job["seconds"]))
    if everything:
        project.kill_all()
    else:
        for pid in project.pids("snakemake"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    run = project.wait(started, 60)
    if not everything and chance.random() < 0.5:
        project.settle()
        return f"{job['rule']} after {delay:.2f} s ({run.code}), then waited for the orphan"
    return f"{job['rule']} after {delay:.2f} s ({run.code})"


@about("rules")
def kill_snakemake(project: Project, chance: random.Random) -> str:
    return _killed(project, chance, everything=False)


@about("rules")
def kill_everything(project: Project, chance: random.Random) -> str:
    return _killed(project, chance, everything=True)


def made_files(project: Project) -> list[Path]:
    """Files of results/ and work/ that a job reads or a user gets; no logs, no locks."""
    found = [path for part in ("results", "work") for path in sorted((project.folder / part).rglob("*"))]
    return [
        path
        for path in found
        if path.is_file() and path.stat().st_size and not set(path.relative_to(project.folder).parts) & {*LEFT, "locks"}
    ]


@about("rules")
def power_cut(project: Project, chance: random.Random) -> str:
    """Everything stops; of what was written since and not synced, a random part is there, under the right name."""
    job = undo(project, chance)
    since = time.time_ns() - 10**6
    started = project.start({"kind": "none", "everywhere": True, "synced": True})
    time.sleep(delay := chance.uniform(0.3, 4))
    project.kill_all()
    project.wait(started, 60)
    with contextlib.suppress(FileNotFoundError):
        synced = set(map(int, (project.notes / "synced").read_text().split()))
    synced = synced if (project.notes / "synced").exists() else set()
    lost = []
    for part in ("results", "work", ".snakemake"):
        for path in sorted((project.folder / part).rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                state = path.lstat()
                if not path.is_file() or state.st_ino in synced or state.st_mtime_ns < since or not state.st_size:
                    continue
                if chance.random() < 0.7:
                    os.truncate(path, chance.randrange(state.st_size))
                    lost.append(str(path.relative_to(project.folder)))
    return f"{job['rule']} after {delay:.2f} s; truncated: {' '.join(lost[:6])}{' ...' if lost[6:] else ''}"


def _damage(project: Project, chance: random.Random, path: Path, truncate: bool) -> str:
    """Truncate a file or flip a bit of it; its date stays half of the time."""
    state = path.stat()
    path.chmod(0o644)
    if truncate:
        where = chance.randrange(state.st_size)
        os.truncate(path, where)
    else:
        where = chance.randrange(state.st_size)
        with open(path, "r+b") as file:
            file.seek(where)
            byte = file.read(1)[0]
            file.seek(where)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))
    if kept := chance.random() < 0.5:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    name = path.relative_to(project.folder)
    project.damaged[path] = path.read_bytes()
    return f"{name} {'cut at' if truncate else 'bit flipped at'} {where} of {state.st_size}{', date kept' * kept}"


def _read_again(project: Project, chance: random.Random, path: Path) -> None:
    """Something that reads the file has to be made again, mostly without the store, and what is shipped at the end."""
    name = str(path.relative_to(project.folder))
    outputs_of = {output: job["rule"] for job in project.template.jobs for output in outputs(job)}
    readers = {outputs_of.get(output) for output, read in project.template.inputs.items() if name in read}
    readers -= {None, outputs_of.get(name)}
    if readers:
        project.undo({chance.choice(sorted(readers))}, store=chance.random() < 0.7, but={name})


def _choice(project: Project, chance: random.Random, found: list[Path]) -> Path:
    """A file, each folder of them in turn."""
    folders = sorted({path.parent if "store" not in path.parts else path.parents[1] for path in found})
    folder = folders[project.seed % len(folders)]
    return chance.choice([path for path in found if folder in path.parents])


@kind
def truncated_file(project: Project, chance: random.Random) -> str:
    path = _choice(project, chance, [p for p in made_files(project) if "store" not in p.parts])
    detail = _damage(project, chance, path, truncate=True)
    _read_again(project, chance, path)
    return detail


@kind
def flipped_result(project: Project, chance: random.Random) -> str:
    """Latents, embeddings, checkpoints, masks, the prepared base."""
    files = [p for p in made_files(project) if "store" not in p.parts and p.suffix == ".safetensors"]
    path = _choice(project, chance, [p for p in files if p != project.folder / TARGET])
    detail = _damage(project, chance, path, truncate=False)
    _read_again(project, chance, path)
    return detail


@kind
def flipped_store(project: Project, chance: random.Random) -> str:
    """Up to three entries of the store damaged, and everything under results/ has to come out of it."""
    entries = [p for p in made_files(project) if "store" in p.parts and not p.name.endswith(".sha256")]
    first = _choice(project, chance, entries)
    others = chance.sample([path for path in entries if path != first], chance.randint(0, 2))
    details = [_damage(project, chance, path, chance.random() < 0.3) for path in (first, *others)]
    rules = {job["rule"] for job in project.template.jobs if job["stored"]}
    chosen = {rule for rule in sorted(rules) if chance.random() < 0.6} | {"export_final", "sample_checkpoint"}
    project.undo(chosen, store=False)
    return "; ".join(details)


@kind
def flipped_state(project: Project, chance: random.Random) -> str:
    """The newest training state is damaged, and training has to go on from it."""
    states = sorted((project.folder / "work/store/state").glob("*/*-*.safetensors"))
    detail = _damage(project, chance, chance.choice(states[-2:]), chance.random() < 0.3)
    for kind_ in ("checkpoint", "metrics"):
        for path in (project.folder / "work/store" / kind_).glob("*/*"):
            if chance.random() < 0.8:
                path.unlink()
    project.undo({"train_segment"}, store=False)
    return detail


@about("rules")
def disk_full(project: Project, chance: random.Random) -> str:
    if not project.mounted:
        raise NotImplementedError("needs to mount a tmpfs")
    job = undo(project, chance)
    room = chance.choice([0, 4096, 8192, 16384, 65536, 2**18])
    fault = {"kind": "disk full", "rule": job["rule"], "room": room, "mount": str(project.place / "disk")}
    run = project.run(fault)
    subprocess.run(["mount", "-o", "remount,size=200m", project.place / "disk"], check=True)
    said = "said so" if "the disk is full" in run.text else "did not say so"
    return f"{job['rule']} with {room} bytes left: ended with {run.code}, {said if run.code else 'enough'}"


@about("rules")
def read_only(project: Project, chance: random.Random) -> str:
    if not project.mounted:
        raise NotImplementedError("needs to mount")
    job = undo(project, chance)
    part = chance.choice(["results", "work"])
    folder = project.folder / part
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    try:
        run = project.run()
    finally:
        project.kill_all()
        subprocess.run(["umount", folder], check=True)
    said = re.search(r"^.*(?:read-only|Read-only file system).*$", run.text, re.MULTILINE)
    return f"{part} while {job['rule']}: ended with {run.code}: {said[0].strip()[:120] if said else '-'}"


@about("rules")
def clock_set_back(project: Project, chance: random.Random) -> str:
    job = undo(project, chance)
    by = chance.choice([2, 3600, 86400, 10 * 365 * 86400])
    run = project.run(
        {"kind": "clock set back", "rule": job["rule"], "by": by, "everywhere": (everywhere := chance.random() < 0.5)}
    )
    return f"{job['rule']} by {by} s{', and Snakemake' * everywhere}: ended with {run.code}"


@about("rules")
def two_snakemakes(project: Project, chance: random.Random) -> str:
    job = undo(project, chance)
    one = project.start()
    time.sleep(delay := chance.choice([0, 0.05, chance.uniform(0, 3)]))
    other = project.start()
    codes = [project.wait(one).code, project.wait(other).code]
    if 0 not in codes:
        raise AssertionError(f"both ended with an error: {codes}")
    return f"{job['rule']}, {delay:.2f} s apart: {codes}"


def _device(project: Project, chance: random.Random, what: str) -> str:
    job = undo(project, chance)
    number = chance.randint(1, max(1, job["calls"]))
    run = project.run({"kind": what, "rule": job["rule"], "call": number})
    return f"{job['rule']}, product {number} of {job['calls']}: ended with {run.code}"


@about("computing")
def out_of_memory(project: Project, chance: random.Random) -> str:
    return _device(project, chance, "out of memory")


@about("computing")
def gpu_lost(project: Project, chance: random.Random) -> str:
    return _device(project, chance, "GPU lost")


NAMED = re.compile(r"\b((?:results|work)/[^\s:;,'\"()]+)")


def undergo(templates: list[Template], place: Path, name: str, seed: int) -> Outcome:
    """One fault and the plain call after it. What that names as damaged is deleted, as it says, before the next one."""
    outcome, started = Outcome(name, seed), time.monotonic()
    chance = random.Random(f"{name} {seed}")
    template, rule = place_of(templates, name, seed)
    outcome.project = template.name
    with Project(template, place, rule, seed) as project:
        try:
            outcome.detail = KINDS[name](project, chance)
        except AssertionError as error:
            outcome.problems.append(str(error))
        # Where it was tried is nobody's business in a table that is kept.
        outcome.detail = outcome.detail.replace(f"{project.folder}/", "")
        project.in_flight = name in IN_FLIGHT
        if name in INSIDE:
            outcome.met = (project.notes / "met").exists()
        run = project.run()
        outcome.how = "finished"
        for _ in range(3):
            if run.code == 0:
                break
            named = damaged(run)
            if not named or not any((project.folder / file).is_file() for file in named):
                break
            outcome.how = "named in one line, finished once it was deleted"
            for file in named:
                (project.folder / file).unlink(missing_ok=True)
            run = project.run()
        if run.code:
            outcome.problems.append(f"the plain call ended with {run.code}: {run.text[-3000:]}")
        outcome.problems += project.problems()
        left = [path for path, data in project.damaged.items() if path.is_file() and path.read_bytes() == data]
        if left and outcome.how == "finished":
            outcome.how = "finished, the damaged file is still there"
            # What is asked for is read by nothing.
            names = {name for path in left for name in (path.name, str(path.relative_to(project.folder)))}
            unread = {f"{name} has other bytes" for name in names}
            outcome.problems = [problem for problem in outcome.problems if problem not in unread]
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def damaged(run: Run) -> list[str]:
    """Files that an error line names as damaged."""
    lines = [line for line in run.text.splitlines() if line.strip().startswith("error:")]
    return sorted({match for line in lines for match in NAMED.findall(line)})
