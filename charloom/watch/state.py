"""Reads what the live page shows from ``config/`` and ``results/``, as plain values.

Whatever a run has written so far is shown; what is missing, half written or broken is left out, so that the page works
before the first checkpoint and after a crash.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from charloom.config import inventory, project
from charloom.config.base import Base
from charloom.config.character import Character
from charloom.core import files
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.judge.choice import how_in_words
from charloom.train import progress
from charloom.watch import logs, machine
from charloom.watch.editing import digest
from charloom.watch.metrics import Metrics
from charloom.watch.stored import Checkpoints, Pictures, Stored
from charloom.workflow import samples, stale_locks

SILENT = 90.0
"""A training whose process is unknown counts as stopped after this many seconds without news."""
KEY = re.compile(r"[0-9a-f]{64}")
"""A key of the store."""
PAUSE = 3.0
"""Seconds between reads of the configuration and of the characters that a run is working on."""
NOT_STARTED = "not started"


class Watcher:
    """Reads the project in the folder ``root``; shared by all pages, used by one thread at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.results = root / "results"
        self.machine = machine.Machine()
        self._metrics: dict[str, Metrics] = {}
        self._stored: dict[str, Stored] = {}
        self._workflows: dict[str, project.Workflow] = {}
        self._working: tuple[float, set[str]] = (-PAUSE, set())
        self._config: tuple[float, dict[str, Character], dict[str, list[str]], str] = (-PAUSE, {}, {}, "")

    def config(self) -> tuple[dict[str, Character], dict[str, list[str]], str]:
        """Characters as last trained, mistakes by character, and a line if the configuration cannot be read now."""
        if time.monotonic() - self._config[0] > PAUSE:
            people, broken, problem = self._config[1], self._config[2], ""
            try:
                found = project.all_as_last_run(self.root)
                people = {name: one.projects[name] for name, one in found.items() if name in one.projects}
                broken = {
                    name: {**one.broken_styles, **one.broken}[name] for name, one in found.items() if name not in people
                }
                self._workflows |= found
            except UserError as error:  # in the middle of an edit, say; the former state is still useful
                problem = str(error).splitlines()[0]
            self._config = (time.monotonic(), people, broken, problem)
        return self._config[1:]

    def forget(self) -> None:
        """Read the configuration again the next time."""
        self._config = (-PAUSE, *self._config[1:])

    def base_of(self, character: Character) -> Base | None:
        """The base of a character that has been read."""
        return self._workflows[character.id].bases.get(character.base)

    def store_of(self, character: Character) -> Store:
        """The store of a character that has been read."""
        return Store(self.root / self._workflows[character.id].store)

    def names(self) -> list[str]:
        """All characters, finished or not, including broken ones."""
        people, broken, _ = self.config()
        return [*people, *broken]

    def file_of(self, name: str) -> Path | None:
        """The file of a character."""
        folders = [self.root / "config" / folder for folder in inventory.PROJECTS]
        places = (folder / f"{name}{suffix}" for folder in folders for suffix in (".yaml", ".yml"))
        return next((path for path in places if path.is_file()), None) if name in self.names() else None

    def everybody(self) -> dict[str, Any]:
        """The page of all characters."""
        people, broken, problem = self.config()
        cards = [self._card(name, character) for name, character in people.items()]
        cards += [{"name": name, "title": name, "problem": lines[0]} for name, lines in broken.items()]
        return {"kind": "all", "characters": cards, "problem": problem, "machine": self.machine.now()}

    def _card(self, name: str, character: Character) -> dict[str, Any]:
        made = Results(self.results / name)
        training = self.training(character)
        _, drawn = self._made(character)
        shown = list(self._pictures(name, drawn[max(drawn)], {}))[:4] if drawn else []
        if not shown:
            url = self._url(made.reference)
            shown = [{"file": url, "prompt": "reference"}] if url else []
        return {
            "name": name,
            "title": character.name,
            "training": training,
            "final": made.final.is_file(),
            "pictures": shown,
            "problem": "",
        }

    def character(self, name: str) -> dict[str, Any]:
        """The page of one character."""
        people, broken, problem = self.config()
        character = people.get(name)
        if character is None:
            lines = broken.get(name) or [problem or f"there is no character {name} any more"]
            return {"kind": "one", "name": name, "title": name, "problem": lines[0]}
        made = Results(self.results / name)
        choice = files.read_mapping(made.validation)
        scores = {step: files.read_mapping(made.scores(step)) for step in [0, *character.saved_steps]}
        saved, drawn = self._made(character)
        if (told := progress.read(made.training)) and told.goes_on:
            # What is older than its checkpoint was measured on that of the run before.
            def of_this_run(step: int, file: Path) -> bool:
                return step in saved and files.changed(file) >= files.changed(saved[step])

            scores = {step: one for step, one in scores.items() if not step or of_this_run(step, made.scores(step))}
            if not of_this_run(choice.get("step"), made.validation):
                choice = {}
        training = self.training(character)
        metrics = self._metrics_of(name, made)
        file = self.file_of(name)
        return {
            "kind": "one",
            "name": name,
            "title": character.name,
            "trigger": character.trigger,
            "base": character.base,
            "problem": problem,
            "bars": bars(made, character, saved, drawn),
            "training": training,
            "curves": metrics.curves(),
            "scores": curves(scores),
            "prompts": {one.name: one.text for one in character.sample_prompts},
            "previews": [
                {"step": step, "pictures": list(self._pictures(name, drawn[step], scores.get(step, {})))}
                for step in sorted(drawn, reverse=True)
            ],
            "checkpoints": checkpoints(character, saved, choice, scores),
            "chosen": choice.get("step"),
            "how": how_in_words(choice.get("how", "")),
            "why": [str(line) for line in choice.get("why", ())],
            "configured": character.checkpoint,
            "seen": digest(file.read_bytes()) if file else "",
            "final": made.final.is_file(),
            "pages": [
                [words, url]
                for words, path in (("Report", made.report), ("Gallery", made.gallery), ("Before and now", made.versus))
                if (url := self._url(path))
            ],
            "machine": self.machine.now(),
            "log": logs.newest(made.root / "logs"),
        }

    def _metrics_of(self, name: str, made: Results) -> Metrics:
        known = self._metrics.get(name)
        if known is None or known.path != made.metrics:
            known = self._metrics[name] = Metrics(made.metrics)
        known.read()
        return known

    def training(self, character: Character) -> dict[str, Any]:
        """Progress: ``state``, ``step``, ``steps``, ``loss``, ``seconds_per_step``, ``eta``, ``problem``."""
        made, steps = Results(self.results / character.id), character.recipe["train"]["steps"]
        found = files.read_mapping(made.progress)
        metrics = self._metrics_of(character.id, made)
        if not found:
            told = _from_metrics(metrics, steps, made)
            waits = told["state"] == NOT_STARTED and character.id in self._at_work()
            return {**told, "state": "being prepared"} if waits else told
        state, problem = str(found.get("state", "")), str(found.get("problem") or "")
        if state == "running" and not _alive(found):
            state = "crashed"
            problem = "the trainer ended without saying why; start snakemake again, it goes on from the last checkpoint"
        steps, trial = found.get("steps", steps), found.get("trial")
        if trial and state == "running":  # after the trial the whole run remains
            steps = min(steps, trial)
        keys = ("step", "saved", "loss", "smoothed", "seconds_per_step", "eta", "memory", "first")
        return {"state": state, "problem": problem, "steps": steps} | {key: found.get(key) for key in keys}

    def _at_work(self) -> set[str]:
        """Characters of a run that is going on; looked up every few seconds, for its locks name all files to make."""
        at, found = self._working
        if time.monotonic() - at > PAUSE:
            found = stale_locks.at_work(self.root / stale_locks.FOLDER)
            self._working = time.monotonic(), found
        return found

    def _made(self, character: Character) -> tuple[Checkpoints, Pictures]:
        """The checkpoints and previews of a character that exist so far."""
        stored = self._stored.setdefault(character.id, Stored(self.root))
        return stored.look(character, self.base_of(character), self.store_of(character))

    def preview(self, name: str, key: str) -> Path | None:
        """A preview that is only in the store, by its key."""
        character = self.config()[0].get(name)
        if character is None or not KEY.fullmatch(key):
            return None
        path = self.store_of(character).path(samples.KIND, key, ".png")
        return path if path.is_file() else None

    def _pictures(self, name: str, paths: Mapping[str, Path], document: dict[str, Any]) -> Iterable[dict[str, Any]]:
        for prompt, path in sorted(paths.items()):
            values = {r["metric"]: r["value"] for r in _rows(document) if r["prompt"] == prompt}
            file = self._url(path) if path.is_relative_to(self.results) else f"/previews/{name}/{path.stem}"
            if not file:  # Snakemake has just removed it to draw it again
                continue
            yield {
                "prompt": prompt,
                "file": file,
                "identity": values.get("identity_relative", values.get("identity")),
                "obedience": values.get("obedience"),
                "misses": [str(miss) for miss in (document.get("misses") or {}).get(prompt, ())],
            }

    def _url(self, path: Path) -> str:
        """The URL of a file of the results, which changes when the file does; empty if there is no file."""
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return ""
        return f"/files/{path.relative_to(self.results).as_posix()}?{changed:x}"


def bars(made: Results, character: Character, saved: Checkpoints, drawn: Pictures) -> list[dict[str, Any]]:
    """Progress by stage: ``name``, ``done`` and ``of`` files."""
    images, prompts, steps = character.image_names, character.prompt_names, character.sampled_steps
    stages: list[tuple[str, list[Path | None]]] = [
        ("images", [made.image(name) for name in images]),
        ("captions", [made.caption(name) for name in images]),
        ("latents", [made.latents(name) for name in images]),
        ("embeddings", [made.embedding(name) for name in images]),
        ("checkpoints", [saved.get(step) for step in character.saved_steps]),
        ("previews", [drawn.get(step, {}).get(prompt) for step in steps for prompt in prompts]),
        ("scores", [made.scores(step) for step in steps]),
        ("results", [made.validation, made.report, made.final]),
    ]
    return [
        {"name": name, "done": sum(path is not None and path.is_file() for path in paths), "of": len(paths)}
        for name, paths in stages
        if paths
    ]


def curves(scores: dict[int, dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Mean of each measured metric by step; parts of a metric (``bleed.outfit``) are left out."""
    found: dict[str, list[tuple[int, float]]] = {}
    for step, document in sorted(scores.items()):
        values: dict[str, list[float]] = {}
        for row in _rows(document):
            values.setdefault(row["metric"], []).append(row["value"])
        if "identity_relative" in values:
            values["identity"] = values.pop("identity_relative")
        for metric, numbers in values.items():
            if "." not in metric and metric != "contrast":
                found.setdefault(metric, []).append((step, round(sum(numbers) / len(numbers), 4)))
    return found


def checkpoints(
    character: Character, saved: Collection[int], choice: dict[str, Any], scores: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every checkpoint of the run: whether it exists, its verdict and mean scores."""
    verdicts = {v.get("step"): v for v in choice.get("verdicts", ()) if isinstance(v, dict)}
    means = curves(scores)
    return [
        {
            "step": step,
            "there": step in saved,
            "verdict": (verdicts.get(step) or {}).get("verdict", ""),
            "scores": {metric: dict(points)[step] for metric, points in means.items() if step in dict(points)},
        }
        for step in character.saved_steps
    ]


def _rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The usable rows of a score document."""
    rows = document.get("rows")
    known = rows if isinstance(rows, list) else []
    return [
        row
        for row in known
        if isinstance(row, dict) and {"metric", "prompt"} <= row.keys() and isinstance(row.get("value"), int | float)
    ]


def _alive(found: dict[str, Any]) -> bool:
    """Whether the process that wrote the progress still trains; one on another machine must have written recently."""
    fresh = time.time() - float(found.get("updated") or 0.0) < SILENT
    process = found.get("pid")
    return fresh or (isinstance(process, int) and machine.lives(process))


def _from_metrics(metrics: Metrics, steps: int, made: Results) -> dict[str, Any]:
    """Progress from the trainer's records, for runs without a progress file."""
    last = metrics.last
    if not last:
        return {"state": NOT_STARTED, "step": 0, "steps": steps, "problem": ""}
    step = int(last["step"])
    rate = last.get("rate")
    pace = 1.0 / rate if isinstance(rate, int | float) and rate > 0 else None
    age = time.time() - made.metrics.stat().st_mtime if made.metrics.is_file() else SILENT
    state = "finished" if step >= steps else "running" if age < SILENT else "stopped"
    problem = "nothing new for a while; start snakemake again, it goes on from the last checkpoint"
    return {
        "state": state,
        "step": step,
        "steps": steps,
        "loss": last.get("loss"),
        "smoothed": last.get("smoothed"),
        "seconds_per_step": pace,
        "eta": pace * (steps - step) if pace and state == "running" else None,
        "memory": last.get("memory"),
        "problem": problem if state == "stopped" else "",
    }
