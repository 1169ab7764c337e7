"""The project that faults happen to: the whole workflow in seconds, and what must be true of it afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
import uuid
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asked_project
import fault_shop
import small_project
from fault_server import Server
from PIL import Image
from small_project import CHARACTER, TARGET, edit, write_yaml
from tiny_models import build_base

from charloom.workflow.describing_api import AT_ONCE

RECIPE = {
    "network": {"rank": 2, "alpha": 2},
    "train": {"steps": 3, "lr": 1.0e-3},
    "save": {"every": 1, "keep": "all"},
    "sample": {"every": 2, "steps": 1, "width": 64, "height": 64, "strengths": [0.7]},
    "data": {"resolutions": [64]},
}
SECRET = "marker-5e1f2b7c"
"""A key in the environment that must turn up nowhere."""
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "GEMINI_API_KEY", "FAL_KEY", "AWS_SECRET_ACCESS_KEY")
OURS = {"results", "work", "logs", ".snakemake"}
"""What a run may write to."""
USERS = ("config", "resources", "pics", "masks")
"""Folders that belong to the user: nothing in them may ever change."""
PAGES = tuple(f"results/mara/{name}" for name in ("bundle.zip", "compare.html", "gallery/index.html"))
PROJECTS: dict[str, tuple[str, ...]] = {"plan": (TARGET,), "folder": ("mara", *PAGES, "results/index.html")}
"""What is asked for: the LoRA of a plan of shots, and everything there is of a whole folder of pictures with masks."""
ASKED = "asked"
PROJECTS[ASKED] = asked_project.TARGETS


def prepare(folder: Path, name: str, url: str = "") -> Path:
    """The configuration, a tiny base, two small pictures, a prompt, three checkpoints."""
    small_project.make(folder)
    shutil.rmtree(folder / small_project.BASE["path"])
    build_base(folder / small_project.BASE["path"])
    base = {**small_project.BASE, "adapters": {}, "run_ahead": 2}
    base["recipe"] = {**base["recipe"], "training_adapter": "none"}
    if name == ASKED:
        return asked_project.prepare(folder, base, url)
    write_yaml(folder / "config/bases/mini.yaml", base)
    recipe: dict[str, Any] = RECIPE
    mara = folder / "config/characters/mara.yaml"
    images: dict[str, Any] = {"source": "folder", "path": "pics"}
    if name == "folder":
        preservation = {"differential": {"enabled": True}}
        recipe = {**recipe, "train": {**recipe["train"], "preservation": preservation}, "validation": {"drift": "last"}}
        write_yaml(
            mara,
            {
                **{key: CHARACTER[key] for key in ("name", "trigger", "concept", "appearance", "identity_line")},
                "images": {**images, "masks": "masks"},
                "gallery": {"prompts": ["{trigger} on a beach"], "width": 64, "height": 64, "steps": 1},
            },
        )
    else:
        edit(mara, images={**images, "count": 2}, shots=CHARACTER["shots"][:2], crop={"minimum": 64, "right": 8})
    edit(mara, sample_prompts=CHARACTER["sample_prompts"][:1])
    edit(folder / "config/config.yaml", recipe=recipe, device="cpu")
    (folder / "pics").mkdir()
    for number, shot in enumerate(CHARACTER["shots"][:2]):
        small_project.picture(folder / f"pics/{shot['name']}.png", (96, 80), number)
        if name == "folder":
            (folder / f"pics/{shot['name']}.txt").write_text(f"m4ra, number {number}\n")
            (folder / "masks").mkdir(exist_ok=True)
            Image.new("L", (96, 80), 255 - number).save(folder / f"masks/{shot['name']}.png")
    return folder


def digests(folder: Path, *parts: str) -> dict[str, str]:
    files = [path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass
class Run:
    """A start of Snakemake: how it ended and what it said."""

    code: int | None
    text: str


@dataclass
class Template:
    """A finished project with everything that was noted while it was made."""

    name: str
    folder: Path
    server: Server
    jobs: list[dict[str, Any]]
    final: str
    users: dict[str, str]
    inputs: dict[str, set[str]] = field(default_factory=dict)

    @property
    def rules(self) -> list[str]:
        """Those that faults are about."""
        found = {job["rule"] for job in self.jobs}
        return sorted(found & set(asked_project.RULES) if self.name == ASKED else found)

    @property
    def asking(self) -> list[str]:
        """Rules whose jobs ask a server."""
        return [rule for rule in self.rules if rule in asked_project.ASKING]

    def job(self, rule: str) -> dict[str, Any]:
        """The job of a rule that does most: the first of its rule makes what its siblings fetch."""
        return max((job for job in self.jobs if job["rule"] == rule), key=lambda job: job["events"])

    @property
    def computing(self) -> list[str]:
        """Rules whose jobs would use a GPU."""
        return [rule for rule in self.rules if self.job(rule)["calls"]]


@dataclass
class Project:
    """A copy of the template that something happens to, on a disk of its own where ``mount`` works."""

    template: Template
    place: Path
    rule: str = ""
    """The one that the fault is about, where it is about one."""
    seed: int = 0
    mounted: bool = False
    damaged: dict[Path, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    """Files that were taken away."""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What servers know the project by."""
    in_flight: bool = False
    """Whether something may have been asked for, and stopped before it was kept."""

    @property
    def folder(self) -> Path:
        return self.place / "disk" / "project"

    @property
    def notes(self) -> Path:
        return self.place / "notes"

    def __enter__(self) -> Project:
        (self.place / "disk").mkdir(parents=True)
        self.notes.mkdir()
        self.mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200m", "faults", self.place / "disk"], capture_output=True
        ).returncode
        # Dates as they were: Snakemake compares them.
        subprocess.run(["cp", "-a", self.template.folder, self.folder], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        if self.mounted:
            for _ in range(50):
                if not subprocess.run(["umount", self.place / "disk"], capture_output=True).returncode:
                    break
                time.sleep(0.1)
        shutil.rmtree(self.place, ignore_errors=True)

    def start(
        self,
        fault: dict[str, Any] | None = None,
        *arguments: str,
        count: bool = False,
        temporary: Path | None = None,
    ) -> tuple[Any, Path]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(small_project.ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CHARLOOM_TERMINAL": "plain",
            "XDG_CACHE_HOME": str(self.place / "cache"),
            **dict.fromkeys(SECRETS, f"{SECRET}-{self.key}"),
            "FAULTS_NOTES": str(self.notes),
            "FAULT": json.dumps(fault or {}),
            **({"FAULTS_COUNT": "1"} if count else {}),
            **({"TMPDIR": str(temporary)} if temporary else {}),
        }
        output = self.place / f"output-{time.monotonic_ns()}"
        words = [
            "-s",
            str(small_project.ROOT / "Snakefile"),
            "--cores",
            "1",
            *(arguments or PROJECTS[self.template.name]),
        ]
        return self.template.server.start(self.folder, words, environment, output), output

    def wait(self, started: tuple[socket.socket, Path], seconds: float = 600) -> Run:
        connection, output = started
        ready, _, _ = select.select([connection], [], [], seconds)
        if not ready:
            self.kill_all()
            return Run(None, output.read_text(errors="replace"))
        answer = connection.recv(64)
        connection.close()
        return Run(int(answer or b"-9"), output.read_text(errors="replace"))

    def run(self, fault: dict[str, Any] | None = None, *arguments: str, seconds: float = 600, **more: Any) -> Run:
        return self.wait(self.start(fault, *arguments, **more), seconds)

    def pids(self, only: str | None = None) -> list[int]:
        """Processes started for this project, by the rule whose job they are or ``snakemake``."""
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in (self.notes / "pids").read_text().splitlines()]
            return [int(pid) for pid, rule in lines if only in (None, rule)]
        return []

    def kill_all(self) -> None:
        """SIGKILL everything of this run; pids are of processes that the server started for this folder."""
        for _ in range(2):  # a job may have been about to start
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    if Path(f"/proc/{pid}/cwd").resolve() == self.folder:
                        os.killpg(pid, signal.SIGKILL)
            time.sleep(0.02)

    def settle(self, seconds: float = 60) -> None:
        """Wait for jobs that outlived their Snakemake."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(
            os.path.exists(f"/proc/{pid}") and _state(pid) not in "ZX" for pid in self.pids()
        ):
            time.sleep(0.02)

    def undo(self, rules: set[str], store: bool, but: set[str] = frozenset()) -> None:
        """Take away what the jobs of ``rules`` made and all that is made from it, and with ``store`` what is stored of
        the former. Snakemake makes no file that nothing asks for."""
        gone: set[str] = set()
        for job in self.template.jobs:
            if job["rule"] in rules:
                gone |= {*outputs(job), *(job["stored"] if store else ())}
        while more := {name for name, read in self.template.inputs.items() if gone & read} - gone:
            gone |= more
        self.gone |= gone - but
        for name in gone - but:
            (self.folder / name).unlink(missing_ok=True)

    def problems(self) -> list[str]:
        """What is not as it must be after the end of it all."""
        found = []
        final = self.folder / TARGET
        if not final.is_file():
            found.append("no final.safetensors")
        elif hashlib.sha256(final.read_bytes()).hexdigest() != self.template.final:
            found.append("final.safetensors has other bytes")
        others = asked_project.TARGETS[1:] if self.template.name == ASKED else ()
        for name in others:
            path = self.folder / name
            if not path.is_file() or path.read_bytes() != (self.template.folder / name).read_bytes():
                found.append(f"{name} has other bytes")
        after = digests(self.folder, *USERS)
        before = self.template.users
        found += [f"{name} of the user's changed" for name in before | after if before.get(name) != after.get(name)]
        found += [f"{name} was written" for name in {*os.listdir(self.folder)} - OURS - {*USERS}]
        found += [f"{name} holds a key of the environment" for name in secrets_in(self.folder)]
        litter = [path for part in ("results", "work") for path in (self.folder / part).rglob(".*.tmp")]
        found += [] if len(litter) < 40 else [f"{len(litter)} temporary files are left"]
        return found + self._paid_twice()

    def asked(self, kind: str) -> list[str]:
        """What was asked of servers, by :mod:`fault_shop`'s kind."""
        return fault_shop.asked(self.template.server.shop, self.key, kind)

    def _paid_twice(self) -> list[str]:
        """What was asked for although it is stored, beside what was in flight: one picture, or several captions."""
        lost = self.gone | {str(path.relative_to(self.folder)) for path in self.damaged}
        found = []
        for kind, at_once in ((fault_shop.PICTURE, 1), (fault_shop.CAPTION, AT_ONCE)):
            entries = {Path(name).name.partition(".")[0] for name in lost if name.startswith(f"work/store/{kind}/")}
            may = len(entries) + (at_once if self.in_flight else 0)
            if len(asked := self.asked(kind)) > may:
                found.append(f"{kind}: asked for {len(asked)} times, {may} allowed: {asked}")
        return found


def secrets_in(folder: Path) -> list[str]:
    """Files that hold a key of the environment, also inside of bundles."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        texts = [path.read_bytes()]
        if texts[0].startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                texts += [archive.read(name) for name in archive.namelist()]
        if any(SECRET.encode() in text for text in texts):
            found.append(str(path.relative_to(folder)))
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def outputs(job: dict[str, Any]) -> list[str]:
    return [name for name in job["made"] if not name.startswith("work/store")]


def build_template(place: Path, server: Server, name: str = "plan") -> Template:
    """Make the project once, undisturbed, noting each job's system calls, products, files and duration."""
    folder = prepare(place / f"template-{name}", name, server.url)
    template = Template(name, folder, server, [], "", digests(folder, *USERS))
    one = Project(template, place / f"first-{name}")
    (one.place / "disk").mkdir(parents=True)
    one.notes.mkdir()
    shutil.copytree(folder, one.folder)
    made = one.run(count=True)
    if made.code:
        raise RuntimeError(made.text[-6000:])
    for kind in (fault_shop.PICTURE, fault_shop.CAPTION):
        if len(asked := one.asked(kind)) != len({*asked}):
            raise RuntimeError(f"{kind}: something was asked for twice: {asked}")
    if SECRET in made.text:
        raise RuntimeError("the terminal shows a key of the environment")
    shutil.rmtree(folder)
    subprocess.run(["cp", "-a", one.folder, folder], check=True)
    template.jobs = [json.loads(line) for line in (one.notes / "jobs").read_text().splitlines()]
    rows = _summary(one)
    producers = {row[0]: row[2] for row in rows}
    template.inputs = {row[0]: set(row[4].split(",")) for row in rows}
    for job in template.jobs:
        own = [name for name, rule in producers.items() if rule == job["rule"]]
        # Where a job is told a folder instead of its files, it is the only one of its rule.
        job["made"] = [name for name in job["named"] if name in own] or own
    template.final = hashlib.sha256((folder / TARGET).read_bytes()).hexdigest()
    return template


def _summary(project: Project) -> list[list[str]]:
    """Snakemake's account of every file: name, date, rule, log, inputs, command."""
    text = project.run(None, *PROJECTS[project.template.name], "--detailed-summary").text
    return [line.split("\t") for line in text.splitlines() if line.count("\t") > 5][1:]
