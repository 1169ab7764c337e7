"""The training part of a recipe as the trainer reads it, and which runs share their results.

Defaults and bounds are the schema's (:mod:`charloom.config.knobs`). No torch, so that light scripts can compute store
keys. Independent of how the settings are implemented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from charloom.base.locks import SHIFT
from charloom.config import knobs, schema, yaml
from charloom.config.knobs import setting, setting_field
from charloom.core.errors import UserError
from charloom.lora.network import Network

SECTIONS = ("network", "train", "save", "data")
"""Sections of a recipe that the trainer reads."""


@dataclass(frozen=True)
class Preservation:
    """One preservation term: the adapted model must predict what the bare base predicts for other prompts."""

    enabled: bool = False
    multiplier: float = 1.0


@dataclass(frozen=True)
class Optimisation:
    """How the adapter is fitted. ``steps`` counts optimizer updates; ``ema`` is the decay of the running mean."""

    steps: int = setting_field("train.steps")
    batch_size: int = setting_field("train.batch_size")
    gradient_accumulation: int = setting_field("train.gradient_accumulation")
    optimizer: str = setting_field("train.optimizer")
    lr: float = setting_field("train.lr")
    weight_decay: float = setting_field("train.weight_decay")
    lr_scheduler: str = setting_field("train.lr_scheduler")
    warmup_steps: int = setting_field("train.warmup_steps")
    max_grad_norm: float = setting_field("train.max_grad_norm")
    timestep_type: str = setting_field("train.timestep_type")
    timestep_bias: str = setting_field("train.timestep_bias")
    loss: str = setting_field("train.loss")
    ema: float | None = setting_field("train.ema")
    seed: int = setting_field("train.seed")
    differential: Preservation = field(default_factory=Preservation)
    blank: Preservation = field(default_factory=Preservation)
    dtype: str = setting_field("train.dtype")
    shift: float = SHIFT
    """Shift of the noise levels of the base, which only the timestep type ``shift`` depends on."""

    @property
    def draws_per_step(self) -> int:
        """Training samples that enter one update."""
        return self.batch_size * self.gradient_accumulation


@dataclass(frozen=True)
class Save:
    """What is saved, when, and how much of it is kept. ``keep`` is a number, ``all`` or ``score:N``."""

    dtype: str = setting_field("save.dtype")
    every: int = setting_field("save.every")
    keep: int | str = setting_field("save.keep")


@dataclass(frozen=True)
class Data:
    """How the data set is presented; weights and repeats of single items are in the manifest."""

    resolutions: tuple[int, ...] = setting_field("data.resolutions")
    caption_dropout: float = setting_field("data.caption_dropout")
    dropout_caption: str = setting_field("data.dropout_caption")
    flip_x: bool = setting_field("data.flip_x")
    flip_y: bool = setting_field("data.flip_y")


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
            UserError: unknown keys, wrong types, values out of range and contradictions, a line for each.
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
        instead of starting another. What is saved when, and what is kept, never enters.
        """
        out: dict[str, Any] = _plain(asdict(self))
        if self.train.lr_scheduler == "constant":
            del out["train"]["steps"]
        if self.train.timestep_type != "shift" or self.train.shift == SHIFT:
            del out["train"]["shift"]
        out["save"] = {"dtype": self.save.dtype}
        return out

    def one_by_one(self) -> TrainSettings:
        """The same samples, each in a forward pass of its own."""
        train = replace(self.train, batch_size=1, gradient_accumulation=self.train.draws_per_step)
        return replace(self, train=train)

    def checkpoint_steps(self, steps: int | None = None) -> list[int]:
        """The steps with a checkpoint: every multiple of ``save.every``, and the last step."""
        last = self.train.steps if steps is None else steps
        return sorted({*range(self.save.every, last + 1, self.save.every), last})


DATASET_STAGE_KEYS = ("repeats", "weight", "default_caption", "mask_weight")
"""Keys of ``data`` that the data set stage writes into the manifest; the trainer reads them there."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _read(cls: type, recipe: Mapping[str, Any], **others: Any) -> Any:
    """A settings class from a complete recipe; ``others`` are fields that are not knobs."""
    values = {}
    for made in fields(cls):
        if knob := made.metadata.get("knob"):
            section, name = knob.split(".")
            values[made.name] = setting(knob, recipe[section][name])
    return cls(**values, **others)
