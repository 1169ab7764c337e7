"""Scores of checkpoints: their previews compared with the character's own images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charloom.core import files
from charloom.core.canonical import digest, file_digest
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.core.store import Store

if TYPE_CHECKING:
    from charloom.judge.backend import Backend, Picture
    from charloom.judge.memory import Memory

KIND = "scores"


def device_of(judge: dict[str, Any] | None, name: str, threads: int, log: Callable[[str], None]) -> Any:
    """The torch device to judge on: ``name``, or if that is missing the CPU and a log line, because judging stops no
    run.

    ``judge`` is the content of ``judge.json``. If that has no instruments, torch is not even imported.
    """
    if judge and not judge["lock"]["instruments"]:
        return "cpu"
    from charloom.workflow import jobs

    name = name if judge else "cpu"
    try:
        return jobs.torch_device(name, threads)
    except UserError as error:
        log(f"{error}; judging on the CPU")
        return jobs.torch_device("cpu", threads)


class Judgement:
    """The scores of a character's checkpoints; the character's files are in the folder ``results``.

    ``judge`` is the content of ``judge.json``, for the judge ``auto``.
    """

    def __init__(
        self, results: Path, settings: dict[str, Any], weights: Path | None, judge: dict[str, Any] | None = None
    ) -> None:
        self.files = Results(results)
        self.settings = settings
        self.weights = weights
        self.judge = judge
        self._references = references(self.files)
        images = [[content, caption] for _, caption, content in self._references]
        auto: dict[str, Any] = {}
        self._without = self.samples(0) if settings["judge"] == "look" else []
        if self._without:
            auto = {"without": [file_digest(path) for path in self._without if path.is_file()]}
        self.unfinished: dict[int, dict[str, Any]] = {}
        if judge:
            from charloom.judge import locking

            # What cannot be opened now is not scored now, and must not count as scored later.
            auto = {"auto": [judge, sorted(locking.changed(judge["lock"]))]}
        self.fixed = digest(
            {
                "references": images,
                "weights": file_digest(weights) if weights else None,
                **auto,
                **settings,
            }
        )

    def samples(self, step: int) -> list[Path]:
        """The previews of a checkpoint in the order of the prompts."""
        return [self.files.sample(step, prompt["name"]) for prompt in self.settings["prompts"]]

    def key(self, step: int) -> str | None:
        """Store key of a checkpoint's scores; None while previews are missing."""
        samples = self.samples(step)
        if not all(path.is_file() for path in samples):
            return None
        return digest({"fixed": self.fixed, "step": step, "samples": [file_digest(path) for path in samples]})

    def make(self, store: Store, device: Any = "cpu") -> tuple[list[int], list[str]]:
        """Score every checkpoint that has all its previews and no stored scores; returns steps and notes.

        Those during which an instrument failed are in :attr:`unfinished`, not in the store. What was seen in a picture
        is remembered (:mod:`charloom.judge.memory`), so each reference is read once per character, not for every
        checkpoint.
        """
        from charloom.judge import backend as judges
        from charloom.judge.memory import Memory

        memory, judge, levels = Memory(store), None, {}
        done = []
        for step in self.files.sampled_steps():
            entry = self.key(step)
            if entry is None or store.has(KIND, entry, ".json"):
                continue
            if judge is None:
                judge, levels = self.opened(memory, device)
            samples = shown(self.samples(step), self.settings["prompts"])
            who = self.settings["character"], step, samples, self.settings["trigger"]
            document = judges.score(judge, levels, *who)
            if judge.failed:
                self.unfinished[step] = document  # may be complete next time: not for the store
            else:
                with store.put(KIND, entry, ".json") as path:
                    files.write_json(path, document)
            done.append(step)
        return done, memory.notes

    def opened(self, memory: Memory, device: Any = "cpu") -> tuple[Backend, dict[str, float]]:
        """The judge, having studied the character's images, and the levels that these reach."""
        from charloom.judge import backend as judges

        more = {"judge": self.judge, "device": device} if self.judge else {}
        if self._without:
            drawn = [path for path in self._without if path.is_file()]
            more = {"without": [judges.later(path, "", file_digest(path)) for path in drawn]}
        judge = judges.open_backend(self.settings["judge"], self.weights, memory, **more)
        return judge, judge.study(pictures(self.files, self._references))

    def drift(self, step: int, store: Store, device: Any = "cpu") -> dict[str, Any]:
        """What the previews without the trigger and at many steps say about a checkpoint, as a score document."""
        from charloom.judge import backend as judges
        from charloom.judge import drift
        from charloom.judge.memory import Memory

        memory = Memory(store)
        judge, _ = self.opened(memory, device)
        prompts = {prompt["name"]: prompt for prompt in self.settings["prompts"]}

        def picture(path: Path, name: str, text: str, of: str) -> Picture:
            prompt = prompts[of]
            more = {"seed": prompt["seed"], "strength": prompt["scale"]}
            return judges.later(path, text, file_digest(path), name=name, **more)

        special = [
            (one, picture(path, one["name"], one["text"], one["of"]))
            for one in self.settings["drift"]
            if (path := self.files.drift_sample(step, one["name"])).is_file()
        ]
        usual = {
            one["of"]: picture(self.files.sample(step, one["of"]), one["of"], one["text"], one["of"])
            for one, _ in special
            if one["kind"] == "steps"
        }
        return drift.measure(judge, self.settings["character"], step, special, usual) | {"notes": memory.notes}


def shown(paths: list[Path], prompts: list[dict[str, Any]], strength: float | None = None) -> list[Picture]:
    """Pictures of prompts, read when they are first looked at; at ``strength``, or at each prompt's own."""
    from charloom.judge import backend as judges

    return [
        judges.later(
            path,
            prompt["text"],
            file_digest(path),
            name=prompt["name"],
            seed=prompt["seed"],
            strength=prompt["scale"] if strength is None else strength,
        )
        for path, prompt in zip(paths, prompts, strict=True)
    ]


def references(files_: Results) -> list[tuple[str, str, str]]:
    """Name, caption and content of the character's own images; extra data sets may show somebody else."""
    items = [item for item in files.read_json(files_.manifest)["items"] if "set" not in item]
    return [(item["name"], item["caption"], item["image"]) for item in items]


def pictures(files_: Results, known: list[tuple[str, str, str]]) -> list[Picture]:
    """The references, read when they are first looked at."""
    from charloom.judge import backend as judges

    return [judges.later(files_.image(name), text, content, name=name) for name, text, content in known]


def study(
    results: Path, lock: dict[str, Any], settings: dict[str, Any], base_samples: list[Path], store: Store, device: Any
) -> dict[str, Any]:
    """The content of ``judge.json``; ``base_samples`` are previews of the base alone, if there are any."""
    from charloom.judge import backend as judges
    from charloom.judge import study as studies
    from charloom.judge.memory import Memory

    files_ = Results(results)
    others = [judges.later(path, "", file_digest(path)) for path in base_samples if path.is_file()]
    return studies.study(lock, settings, pictures(files_, references(files_)), others, Memory(store), device)
