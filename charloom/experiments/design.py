"""Defines experiments: a question, arms that differ as little as possible, and which of them should do better.

It reads ``config/experiments/<name>.yaml``. An arm changes the recipe, the crop or the data set of a character, or uses
another step or strength of the same training. Arms that need the same training share it. No torch here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from charloom.config import schema, yaml
from charloom.config.character import Character, Shot
from charloom.config.project import load
from charloom.core.canonical import canonical_json, digest
from charloom.core.errors import UserError
from charloom.workflow import slices

FOLDER = Path("config/experiments")
TIERS = ("close-up", "medium", "full-body")
_CLAIM = re.compile(r"(\S+) ([<>~]) (\S+)")


@dataclass(frozen=True)
class Training:
    """One training of the miniature. ``changes`` holds ``recipe``, ``crop`` and ``data`` (see :func:`changed`)."""

    character: str
    seed: int
    changes: str
    """As canonical JSON, so that equal changes are equal."""

    @cached_property
    def key(self) -> str:
        """Equal for trainings that give the same checkpoints, whichever of them are looked at."""
        person, drawn = self.person, self.drawn
        return digest(
            {
                "train": slices.train(person),
                "base": slices.prepared_name(person),
                "sampling": slices.samples(person),
                "pictures": [slices.source_image(drawn, name) for name in drawn.shot_names],
                "captions": [slices.caption(person, name) for name in person.shot_names],
                "latents": slices.latents(person, person.shot_names[0]),
                "crop": slices.crop(person, person.shot_names[0]),
                "worn": self.data.get("worn"),
            }
        )

    @cached_property
    def drawn(self) -> Character:
        """The character with its shots as they are drawn."""
        return self._characters[0]

    @cached_property
    def person(self) -> Character:
        """The character with its shots as captions describe them."""
        return self._characters[1]

    @property
    def data(self) -> dict[str, Any]:
        """How the data set differs from the character's own."""
        return dict(json.loads(self.changes).get("data", {}))

    @cached_property
    def _characters(self) -> tuple[Character, Character]:
        changes = json.loads(self.changes)
        recipe = yaml.merge(changes.get("recipe", {}), {"train": {"seed": self.seed}})
        overrides = {"base": "paperdoll", "characters": [self.character], "recipe": recipe}
        if "crop" in changes:
            overrides["crop"] = changes["crop"]
        character = load(Path("."), overrides).characters[self.character]
        return changed(character, self.data)


@dataclass(frozen=True)
class Look:
    """One thing to look at in a training: the checkpoint of a step, at a strength."""

    training: Training
    step: int
    strength: float = 1.0

    @property
    def name(self) -> str:
        """Stem of the files about it, and the key of its line of results."""
        return f"{self.training.key[:16]}-{self.step:06d}-{self.strength:.2f}"


@dataclass(frozen=True)
class Claim:
    """A claim that ``left`` is better than (``>``), worse than (``<``) or as good as (``~``) ``right`` by a measure."""

    measure: str
    left: str
    sign: str
    right: str

    def __str__(self) -> str:
        return f"{self.measure}: {self.left} {self.sign} {self.right}"


@dataclass(frozen=True)
class Experiment:
    """An experiment as its file describes it."""

    name: str
    question: str
    advice: str
    measures: tuple[str, ...]
    """The first one is what the question is about."""
    claims: tuple[Claim, ...]
    characters: tuple[str, ...]
    seeds: tuple[int, ...]
    recipe: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    finding: str = ""
    """The outcome in words, written when the results are known."""

    def looks(self, seeds: Iterable[int] | None = None) -> Iterator[tuple[str, Look]]:
        """Yield (arm, look) for each character, seed and arm."""
        for seed in seeds or self.seeds:
            for character in self.characters:
                for arm, changes in self.arms.items():
                    yield arm, self.look(arm, character, seed, changes)

    def look(self, arm: str, character: str, seed: int, changes: dict[str, Any] | None = None) -> Look:
        """The look of one arm."""
        changes = self.arms[arm] if changes is None else changes
        whole: dict[str, Any] = {"recipe": yaml.merge(self.recipe, changes.get("recipe", {}))}
        whole |= {key: changes[key] for key in ("crop", "data") if key in changes}
        training = Training(character, seed, canonical_json(whole))
        step = changes.get("step", training.person.recipe["train"]["steps"])
        return Look(training, step, changes.get("strength", 1.0))


def names(root: Path = Path(".")) -> list[str]:
    """Names of all experiments."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def read(name: str, root: Path = Path(".")) -> Experiment:
    """Read the experiment called ``name``.

    Raises:
        UserError: there is none, or its file has mistakes, one line each.
    """
    path = root / FOLDER / f"{name}.yaml"
    label = (FOLDER / f"{name}.yaml").as_posix()
    if name not in names(root):
        raise UserError(f"there is no {label}; {schema.meant(name, names(root))}")
    data, problems = schema.check(yaml.read_yaml(path, label), "experiment", label)
    if problems:
        raise UserError.several(problems)
    arms = {arm: changes or {} for arm, changes in data["arms"].items()}
    measures = tuple(data["measures"])
    claims = []
    for text in data["expect"]:
        measure, _, rest = text.rpartition(": ")
        match = _CLAIM.fullmatch(rest)
        if not match or not {match[1], match[3]} <= set(arms) or (measure or measures[0]) not in measures:
            known = f"arms: {', '.join(arms)}; measures: {', '.join(measures)}"
            problems.append(f"{label}: expect: '{text}' is not a claim such as 'measure: arm > arm'; {known}")
            continue
        claims.append(Claim(measure or measures[0], *match.groups()))
    if problems:
        raise UserError.several(problems)
    return Experiment(
        name=name,
        question=data["question"],
        advice=data["advice"],
        measures=measures,
        claims=tuple(claims),
        characters=tuple(data.get("characters", ["leyla"])),
        seeds=tuple(data.get("seeds", [42, 43, 44, 45, 46])),
        recipe=data.get("recipe", {}),
        arms=arms,
        finding=data.get("finding", ""),
    )


def changed(character: Character, data: dict[str, Any]) -> tuple[Character, Character]:
    """The character as drawn and as captioned, with a changed data set.

    ``tiers`` is the number of shots per tier; surplus shots change their tier and keep everything else. ``worn`` puts
    an accessory ``{phrase, pictures}`` on her in that many pictures, replacing others of its kind, starting with the
    shots closest to the face. ``unsaid`` are words that captions leave out.
    """
    shots = list(character.shots)
    if tiers := data.get("tiers"):
        shots = _tiers(shots, tiers)
    if worn := data.get("worn"):
        near = sorted(
            range(len(shots)), key=lambda i: (shots[i].view == "seen from behind", TIERS.index(shots[i].tier))
        )
        wearing = set(near[: worn["pictures"]])
        kind = worn["phrase"].split()[-1]
        for i, shot in enumerate(shots):
            others = [item for item in shot.accessories if not item.endswith(kind)]
            shots[i] = replace(shot, accessories=tuple([worn["phrase"]] * (i in wearing) + others))
    unsaid = data.get("unsaid", [])
    said = [replace(s, accessories=tuple(a for a in s.accessories if a not in unsaid)) for s in shots]
    return replace(character, shots=tuple(shots)), replace(character, shots=tuple(said))


def _tiers(shots: list[Shot], wanted: dict[str, int]) -> list[Shot]:
    """``shots`` with the ``wanted`` number of each tier."""
    left = {tier: wanted.get(tier, 0) for tier in TIERS}
    if sum(wanted.values()) != len(shots) or sum(left.values()) != len(shots):
        raise UserError(
            f"data.tiers: {wanted} are not the {len(shots)} shots of the plan; divide those among {', '.join(TIERS)}"
        )
    keeps = []
    for shot in shots:
        keeps.append(left[shot.tier] > 0)
        left[shot.tier] -= keeps[-1]
    spare = iter([tier for tier in TIERS for _ in range(left[tier])])
    return [shot if kept else _moved(shot, next(spare)) for shot, kept in zip(shots, keeps, strict=True)]


def _moved(shot: Shot, tier: str) -> Shot:
    """``shot`` at another distance; a close-up shows no pose."""
    return replace(shot, tier=tier, pose="" if tier == "close-up" else shot.pose)
