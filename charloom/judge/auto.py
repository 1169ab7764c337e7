"""The back end ``auto``: uses each instrument of the judge's lock file for what it measures best.

Which instrument measures what is decided once per character (:mod:`charloom.judge.study`) and recorded in
``judge.json``, so that all checkpoints are measured in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charloom.core.canonical import digest
from charloom.core.errors import UserError
from charloom.core.words import count
from charloom.judge import copies, identity, obedience, person
from charloom.judge.backend import Backend, Picture, Reading
from charloom.judge.instruments import KINDS
from charloom.judge.memory import Look, Memory
from charloom.judge.panel import Panel
from charloom.judge.plain import Plain


class Auto(Backend):
    """Identity, obedience, bleed, detail and contrast, as far as ``judge`` (``judge.json``) has instruments."""

    name = "auto"
    leaks = True

    def __init__(
        self,
        weights: Path | None = None,
        memory: Memory | None = None,
        judge: dict[str, Any] | None = None,
        device: Any = "cpu",
    ) -> None:
        if judge is None:
            raise UserError("judge auto: results/<character>/judge.json is missing; run snakemake, which makes it")
        self.memory = memory or Memory()
        self.judge = judge
        self.panel = Panel(judge["lock"], self.memory, device)
        self.weights = digest({name: one["sha256"] for name, one in judge["lock"]["instruments"].items()})
        self._plain = Plain(memory=self.memory)
        self._trial = identity.chosen_of(judge["identity"])
        self._vectors: np.ndarray | None = None
        self._copies: dict[str, copies.Copies] = {}
        self._words: obedience.Words | None = None
        self.seen = {"identity": [0, 0]}

    def study(self, references: Sequence[Picture]) -> dict[str, float]:
        """Study the references; levels are those of :class:`~charloom.judge.identity.Trial`, and the copy limits."""
        levels = self._plain.study(references)
        if self._trial:
            name = self._trial.instrument
            vectors = [
                look["vector"] for look in subject_looks(self.panel, name, self.judge["crop"], references) if look
            ]
            self._vectors = np.stack(vectors) if vectors else None
            levels |= {"identity": self._trial.level, "stranger": self._trial.stranger}
        for part, one in self._training(references).items():
            self._copies[part] = one
            levels[f"copy.{part}"] = one.limit
        self._words = obedience.Words(self.judge["prompts"], references, self.judge["trigger"], self.judge["line"])
        return levels

    def measure(self, samples: Sequence[Picture]) -> list[Reading]:
        """Measure samples: one reading each; metrics that no instrument measured are left out."""
        self.seen = {"identity": [0, 0]}
        out = [_Draft() for _ in samples]
        for draft, plain in zip(out, self._plain.measure(samples), strict=True):
            draft.put(plain.values, ("plain", ""))
        if not self._words:
            return [draft.reading() for draft in out]
        self._identity(samples, out)
        obedience.measure(self.panel, self._words, samples, out)
        self._copied(samples, out)
        self._brisque(samples, out)
        return [draft.reading() for draft in out]

    @property
    def failed(self) -> set[str]:
        """Instruments that failed at runtime and may work next time."""
        return self.panel.failed

    def about(self) -> dict[str, Any]:
        """What a score document contains besides its values."""
        return {
            "limits": self.judge["limits"],
            "instruments": self.judge["why"],
            "coverage": {metric: list(counts) for metric, counts in self.seen.items() if counts[1]},
            "remedies": self.judge["remedies"],
            "notes": list(self.memory.notes),
        }

    def _identity(self, samples: Sequence[Picture], out: list[_Draft]) -> None:
        if self._trial is None or self._vectors is None:
            return
        name = self._trial.instrument
        looks = subject_looks(self.panel, name, self.judge["crop"], samples)
        if not self.panel.has(name):
            return
        for sample, look, draft in zip(samples, looks, out, strict=True):
            if look is None:
                continue
            ours = bool(count(sample.text, self.judge["trigger"]))
            self.seen["identity"][1] += ours
            self.seen["identity"][0] += ours and bool(look)
            values = {"identity.found": float(bool(look))}
            if look:
                found = float(identity.similarities(self.panel.cls(name), look["vector"][None], self._vectors)[0])
                values["identity"] = found
                if (relative := self._trial.relative(found)) is not None:
                    values["identity_relative"] = relative
            elif ours:
                draft.misses.append(f"identity: {name} finds nobody here")
            draft.put(values, self.panel.by(name))

    def _training(self, references: Sequence[Picture]) -> dict[str, copies.Copies]:
        """The training pictures to compare with: whole, and, if there are masks, backgrounds and clothes separately."""
        name = self.judge["copies"]
        if not name or len(references) < 2:
            return {}
        found = {}
        for part, pictures in parts_of(self.panel, references).items():
            looks = self.panel.looks(name, pictures)
            near = self.panel.looks(name, [copies.near_copy(picture) for picture in pictures])
            bits = self.memory.looks(copies.VERSION, pictures, copies.hashes)
            kept = [i for i, look in enumerate(looks) if look and near[i] and bits[i]]
            if len(kept) >= 2:
                vectors = np.stack([looks[i]["vector"] for i in kept])
                found[part] = copies.Copies(
                    [pictures[i].name for i in kept],
                    vectors,
                    np.stack([bits[i]["bits"] for i in kept]),
                    copies.limit(vectors, np.stack([near[i]["vector"] for i in kept])),
                )
        return found

    def _copied(self, samples: Sequence[Picture], out: list[_Draft]) -> None:
        """Find copies of whole pictures; of background and clothes only if the prompt asks for different ones."""
        name = self.judge["copies"]
        if not self._copies or self._words is None:
            return
        index = {id(sample): i for i, sample in enumerate(samples)}
        for part, pictures in parts_of(self.panel, samples).items():
            if part not in self._copies:
                continue
            looks = self.panel.looks(name, pictures)
            bits = (
                self.memory.looks(copies.VERSION, pictures, copies.hashes) if part == "picture" else [None] * len(looks)
            )
            whose = [sample for sample in samples if part == "picture" or sample.name in {p.name for p in pictures}]
            for sample, look, hash_ in zip(whose, looks, bits, strict=True):
                draft = out[index[id(sample)]]
                if not look or (part != "picture" and not self._words.is_new(sample, part)):
                    continue
                near = self._copies[part].nearest(look["vector"], hash_["bits"] if hash_ else None)
                values = {f"bleed.{'copy' if part == 'picture' else part}": float(near.copied)}
                if part == "picture":
                    values |= {"copy.cosine": near.cosine, "copy.bits": float(near.bits)}
                draft.put({k: v for k, v in values.items() if k not in draft.values}, self.panel.by(name))
                if near.copied:
                    what = "the picture is" if part == "picture" else f"the {part} is that of"
                    draft.misses.append(f"copy: {what} nearly {near.name} of the training pictures ({near.cosine:.2f})")

    def _brisque(self, samples: Sequence[Picture], out: list[_Draft]) -> None:
        if self.panel.has("brisque"):
            for look, draft in zip(self.panel.looks("brisque", samples), out, strict=True):
                if look:
                    draft.put({"brisque": float(look["brisque"][0])}, self.panel.by("brisque"))


class _Draft:
    """A reading that several instruments add to."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.misses: list[str] = []
        self.by: dict[str, tuple[str, str]] = {}

    def put(self, values: dict[str, float], by: tuple[str, str]) -> None:
        """Add values and the instrument that measured them."""
        self.values |= values
        self.by |= dict.fromkeys(values, by)

    def reading(self) -> Reading:
        """The reading; ``obedience`` and ``bleed`` are the means of their parts."""
        for metric in ("obedience", "bleed"):
            parts = {key: value for key, value in self.values.items() if key.startswith(f"{metric}.")}
            if parts and metric not in self.values:
                makers = sorted({self.by[key] for key in parts})
                names = "+".join(name for name, _ in makers)
                sums = makers[0][1] if len(makers) == 1 else digest([weights for _, weights in makers])
                self.put({metric: float(np.mean(list(parts.values())))}, (names, sums))
        return Reading(self.values, tuple(self.misses), self.by)


def subject_looks(panel: Panel, name: str, crop: str, pictures: Sequence[Picture]) -> list[Look | None]:
    """What an identity instrument sees; an embedding looks only at the person, found by ``crop``.

    ``crop`` is ``mediapipe``, ``dlib`` or ``whole``. Looks are empty if nobody is found.
    """
    if "bleed" not in KINDS[name].measures or crop == "whole":
        return panel.looks(name, pictures)
    where = panel.looks(crop, pictures)
    cut = {i: (person.person if crop == "mediapipe" else person.around_face)(picture, look)
           for i, (picture, look) in enumerate(zip(pictures, where, strict=True)) if look}  # fmt: skip
    seen = dict(zip(cut, panel.looks(name, list(cut.values())), strict=True))
    return [seen[i] if i in seen else (None if where[i] is None else {}) for i in range(len(pictures))]


def parts_of(panel: Panel, pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """Whole pictures and, where a mask finds somebody, their ``background`` and ``outfit`` separately."""
    found: dict[str, list[Picture]] = {"picture": list(pictures)}
    if panel.has("mediapipe"):
        masks = panel.looks("mediapipe", pictures)
        seen = [(picture, look) for picture, look in zip(pictures, masks, strict=True) if look]
        found["background"] = [person.background(picture, look) for picture, look in seen]
        found["outfit"] = [person.clothes(picture, look) for picture, look in seen]
    return found
