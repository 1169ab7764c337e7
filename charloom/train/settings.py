"""The training part of a recipe as the trainer reads it, and which runs share their results.

Defaults and bounds are the schema's (:mod:`charloom.config.knobs`). No torch, so that light scripts can compute store
keys. It must not know how any of the settings is carried out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from charloom.config import knobs, schema, yaml
from charloom.config.knobs import _knob, _value
from charloom.core.errors import UserError
from charloom.lora.network import Network

SECTIONS = ("network", "train", "save", "data")
"""What the trainer reads of a recipe; the other sections are not its business."""


@dataclass(frozen=True)
class Preservation:
    """One preservation term: the adapted model must predict what the bare base predicts for other prompts."""

    enabled: bool = False
    multiplier: float = 1.0


@dataclass(frozen=True)
class Optimisation:
    """How the adapter is fitted. ``steps`` counts optimiser updates; ``ema`` is the decay of the running mean."""

    steps: int = _knob("train.steps")
    batch_size: int = _knob("train.batch_size")
    gradient_accumulation: int = _knob("train.gradient_accumulation")
    optimizer: str = _knob("train.optimizer")
    lr: float = _knob("train.lr")
    weight_decay: float = _knob("train.weight_decay")
    lr_scheduler: str = _knob("train.lr_scheduler")
    warmup_steps: int = _knob("train.warmup_steps")
    max_grad_norm: float = _knob("train.max_grad_norm")
    timestep_type: str = _knob("train.timestep_type")
    timestep_bias: str = _knob("train.timestep_bias")
    loss: str = _knob("train.loss")
    ema: float | None = _knob("train.ema")
    seed: int = _knob("train.seed")
    differential: Preservation = field(default_factory=Preservation)
    blank: Preservation = field(default_factory=Preservation)
    dtype: str = _knob("train.dtype")

    @property
    def draws_per_step(self) -> int:
        """Training samples that enter one update."""
        return self.batch_size * self.gradient_accumulation


@dataclass(frozen=True)
class Save:
    """What is written, when, and how much of it stays. ``keep`` is a number, ``all`` or ``score:N``."""

    dtype: str = _knob("save.dtype")
    every: int = _knob("save.every")
    keep: int | str = _knob("save.keep")


@dataclass(frozen=True)
class Data:
    """How the data set is presented; weights and repeats of single items are in the manifest."""

    resolutions: tuple[int, ...] = _knob("data.resolutions")
    caption_dropout: float = _knob("data.caption_dropout")
    dropout_caption: str = _knob("data.dropout_caption")
    flip_x: bool = _knob("data.flip_x")
    flip_y: bool = _knob("data.flip_y")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that the trainer reads from a recipe."""

    network: Network = field(default_factory=Network)
    train: Optimisation = field(default_factory=Optimisation)
    save: Save = field(default_factory=Save)
    data: Data = field(default_factory=Data)

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> TrainSettings:
        """Read the sections :data:`SECTIONS` of a recipe.

        Raises:
            UserError: an unknown key, a wrong type, a value out of range or a contradiction; all of them are named.
        """
        given = {section: recipe[section] for section in SECTIONS if recipe.get(section) is not None}
        given, problems = schema.check(given, "recipe", "recipe")
        if problems:
            raise UserError.several(problems)
        whole = yaml.merge(schema.defaults(schema.load_schema("recipe")), given)
        whole["train"]["lr"] = knobs.learning_rate(given, {})
        if wrong := knobs.contradictions(whole):
            raise UserError.several([f"recipe: {knob}: {line}" for knob, line in wrong])
        terms = {
            kind: Preservation(part["enabled"], part["multiplier"])
            for kind, part in whole["train"]["preservation"].items()
        }
        return cls(
            network=_read(Network, whole),
            train=_read(Optimisation, whole, **terms),
            save=_read(Save, whole),
            data=_read(Data, whole),
        )

    def slice(self) -> dict[str, Any]:
        """The settings that the bytes of a checkpoint depend on, as plain values.

        ``train.steps`` enters only when the learning rate depends on it, so that raising it extends a run
        instead of starting another; what is saved when and kept never enters.
        """
        out = _plain(asdict(self))
        if self.train.lr_scheduler == "constant":
            del out["train"]["steps"]
        out["save"] = {"dtype": self.save.dtype}
        return out

    def checkpoint_steps(self, steps: int | None = None) -> list[int]:
        """The steps that leave a checkpoint: every multiple of ``save.every``, and the last step."""
        last = self.train.steps if steps is None else steps
        return sorted({*range(self.save.every, last + 1, self.save.every), last})


DATASET_STAGE_KEYS = ("repeats", "weight", "default_caption")
"""Keys of ``data`` that the data set stage writes into the manifest; the trainer reads them there."""


def kept_steps(steps: Iterable[int], keep: int | str, scores: Mapping[int, float] | None = None) -> list[int]:
    """Which of the checkpoints stay: all of them, the newest N, or the N with the highest score.

    ``score:N`` needs ``scores``; a step without a score is kept, because nothing speaks against it yet.
    """
    steps = sorted(steps)
    if keep == "all":
        return steps
    if isinstance(keep, int):
        return steps[-keep:]
    number = int(keep.removeprefix("score:"))
    scores = scores or {}
    best = sorted((step for step in steps if step in scores), key=lambda step: (-scores[step], -step))[:number]
    return [step for step in steps if step in best or step not in scores]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _read(cls: type, recipe: Mapping[str, Any], **others: Any) -> Any:
    """An instance of a settings class out of a whole recipe; ``others`` are fields that are no knobs."""
    values = {}
    for made in fields(cls):
        if knob := made.metadata.get("knob"):
            section, name = knob.split(".")
            values[made.name] = _value(knob, recipe[section][name])
    return cls(**values, **others)
