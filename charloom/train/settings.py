"""The training part of a recipe: what every knob may be, and which runs share their results.

Standard library only, so that light scripts can compute store keys without importing torch. It must
not know how any of the settings is carried out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from charloom.canonical import digest
from charloom.errors import UserError

CHECKPOINT, METRICS = "checkpoint", "metrics"
"""Kinds of store entries, one of each for every step that is saved."""

RECIPE = 2
"""Raised by hand whenever the same settings and data would train to other bytes than before."""

NETWORK_TYPES = ("lora", "lokr", "dora")
MODULE_PRESETS = ("default", "attention", "attention+mlp")
OPTIMIZERS = ("adamw8bit", "adamw", "adafactor", "prodigy", "lion")
SCHEDULES = ("constant", "linear", "cosine")
TIMESTEP_TYPES = ("sigmoid", "linear", "shift", "weighted")
TIMESTEP_BIASES = ("balanced", "high_noise", "low_noise")
LOSSES = ("mse", "mae", "huber")
SAVE_DTYPES = ("bf16", "fp16", "fp32")
TRAIN_DTYPES = ("auto", "bf16", "fp32")
DROPOUT_CAPTIONS = ("trigger", "empty")


@dataclass(frozen=True)
class Network:
    """The adapter. ``modules`` is a preset or a list of regular expressions matched against module names."""

    type: str = "lora"
    rank: int = 32
    alpha: float = 32.0
    modules: str | tuple[str, ...] = "default"
    dropout: float = 0.0
    lokr_factor: int = -1


@dataclass(frozen=True)
class Preservation:
    """One preservation term: the adapted model must predict what the bare base predicts for other prompts."""

    enabled: bool = False
    multiplier: float = 1.0
    cls: str = "person"


@dataclass(frozen=True)
class Optimisation:
    """How the adapter is fitted. ``steps`` counts optimiser updates."""

    steps: int = 3000
    batch_size: int = 1
    gradient_accumulation: int = 1
    optimizer: str = "adamw8bit"
    lr: float = 1e-4
    weight_decay: float = 1e-4
    lr_scheduler: str = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    timestep_type: str = "sigmoid"
    timestep_bias: str = "balanced"
    loss: str = "mse"
    ema: float | None = None
    seed: int = 42
    differential: Preservation = field(default_factory=Preservation)
    blank: Preservation = field(default_factory=Preservation)
    dtype: str = "auto"

    @property
    def draws_per_step(self) -> int:
        """Training samples that enter one update."""
        return self.batch_size * self.gradient_accumulation


@dataclass(frozen=True)
class Save:
    """What is written, when, and how much of it stays. ``keep`` is a number, ``all`` or ``score:N``."""

    dtype: str = "bf16"
    every: int = 250
    keep: int | str = 4


@dataclass(frozen=True)
class Data:
    """How the data set is presented; weights and repeats of single items are in the manifest."""

    resolutions: tuple[int, ...] = (512, 768, 1024)
    caption_dropout: float = 0.05
    dropout_caption: str = "trigger"
    flip_x: bool = False
    flip_y: bool = False


@dataclass(frozen=True)
class TrainSettings:
    """Everything that the trainer reads from a recipe."""

    network: Network = field(default_factory=Network)
    train: Optimisation = field(default_factory=Optimisation)
    save: Save = field(default_factory=Save)
    data: Data = field(default_factory=Data)

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> TrainSettings:
        """Read the sections ``network``, ``train``, ``save`` and ``data`` of a recipe; the others are not ours.

        Raises:
            UserError: an unknown key, a wrong type or a value out of range; all of them are named.
        """
        problems: list[str] = []
        network = dict(recipe.get("network") or {})
        if isinstance(network.get("modules"), list):
            network["modules"] = tuple(network["modules"])
        train = dict(recipe.get("train") or {})
        preservation = dict(train.pop("preservation", None) or {})
        for kind in ("differential", "blank"):
            part = dict(preservation.pop(kind, None) or {})
            if "class" in part:
                part["cls"] = part.pop("class")
            train[kind] = _read(Preservation, part, f"train.preservation.{kind}", problems)
        problems += [f"recipe key train.preservation.{key} is unknown" for key in preservation]
        train["ema"] = _ema(train.get("ema"), problems)
        data = {k: v for k, v in (recipe.get("data") or {}).items() if k not in DATASET_STAGE_KEYS}
        if isinstance(data.get("resolutions"), list):
            data["resolutions"] = tuple(data["resolutions"])
        settings = cls(
            network=_read(Network, network, "network", problems),
            train=_read(Optimisation, train, "train", problems),
            save=_read(Save, dict(recipe.get("save") or {}), "save", problems),
            data=_read(Data, data, "data", problems),
        )
        problems += settings.problems() if not problems else []
        if problems:
            raise UserError.several(problems)
        return settings

    def problems(self) -> list[str]:
        """One line for every value that is out of range."""
        n, t, s, d = self.network, self.train, self.save, self.data

        def one_of(section: object, key: str, allowed: tuple[str, ...]) -> tuple[str, Any, bool, str]:
            value = getattr(section, key.split(".")[-1])
            return key, value, value in allowed, f"one of {', '.join(allowed)}"

        presets = ", ".join(MODULE_PRESETS)
        checks = [
            one_of(n, "network.type", NETWORK_TYPES),
            ("network.rank", n.rank, n.rank >= 1, "at least 1"),
            ("network.alpha", n.alpha, n.alpha > 0, "above 0"),
            ("network.modules", n.modules, _modules_valid(n.modules), f"{presets} or a list of regexes"),
            ("network.dropout", n.dropout, 0 <= n.dropout < 1, "in [0, 1)"),
            ("network.lokr_factor", n.lokr_factor, n.lokr_factor == -1 or n.lokr_factor >= 1, "-1 or at least 1"),
            ("train.steps", t.steps, t.steps >= 1, "at least 1"),
            ("train.batch_size", t.batch_size, t.batch_size >= 1, "at least 1"),
            ("train.gradient_accumulation", t.gradient_accumulation, t.gradient_accumulation >= 1, "at least 1"),
            one_of(t, "train.optimizer", OPTIMIZERS),
            ("train.lr", t.lr, t.lr > 0, "above 0"),
            ("train.weight_decay", t.weight_decay, t.weight_decay >= 0, "0 or more"),
            one_of(t, "train.lr_scheduler", SCHEDULES),
            ("train.warmup_steps", t.warmup_steps, 0 <= t.warmup_steps <= t.steps, "between 0 and train.steps"),
            ("train.max_grad_norm", t.max_grad_norm, t.max_grad_norm >= 0, "0 (no clipping) or more"),
            one_of(t, "train.timestep_type", TIMESTEP_TYPES),
            one_of(t, "train.timestep_bias", TIMESTEP_BIASES),
            one_of(t, "train.loss", LOSSES),
            (
                "train.preservation",
                "differential and blank at once",
                not (t.differential.enabled and t.blank.enabled),
                "one of them",
            ),
            ("train.ema.decay", t.ema, t.ema is None or 0 < t.ema < 1, "between 0 and 1"),
            ("train.seed", t.seed, t.seed >= 0, "0 or more"),
            one_of(t, "train.dtype", TRAIN_DTYPES),
            one_of(s, "save.dtype", SAVE_DTYPES),
            ("save.every", s.every, s.every >= 1, "at least 1"),
            ("save.keep", s.keep, _keep_valid(s.keep), "a number of checkpoints, all, or score:N"),
            ("data.resolutions", d.resolutions, _resolutions_valid(d.resolutions), "multiples of 16 in a list"),
            ("data.caption_dropout", d.caption_dropout, 0 <= d.caption_dropout <= 1, "between 0 and 1"),
            one_of(d, "data.dropout_caption", DROPOUT_CAPTIONS),
        ]
        return [f"recipe key {key} is {value!r}: use {allowed}" for key, value, right, allowed in checks if not right]

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


DATASET_STAGE_KEYS = ("repeats", "weight", "default_caption", "regularization")
"""Keys of ``data`` that the data set stage writes into the manifest; the trainer reads them there."""


ITEM_OVERRIDES = ("resolutions", "caption_dropout", "flip_x", "flip_y")
"""Keys of ``data`` that an item of the manifest may have of its own."""


def run_key(settings_slice: Mapping[str, Any], dataset: str, base: str, recipe_number: int = RECIPE) -> str:
    """The key of a training run; checkpoints and states of a run are named ``<run_key>-<step:06d>``.

    ``settings_slice`` is :meth:`TrainSettings.slice`; ``dataset`` and ``base`` are digests.
    """
    return digest({"recipe": recipe_number, "settings": dict(settings_slice), "dataset": dataset, "base": base})


def manifest_digest(manifest: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Digest of what training reads of a manifest: contents and weights, in order; neither paths nor captions' text."""
    entries, variants = manifest_parts(manifest)
    held_out = manifest.get("holdout") if isinstance(manifest, Mapping) else None
    return digest(
        {
            "items": [[e["latents_sha256"], e["embeddings_sha256"], *_shares(e), *_own(e)] for e in entries],
            # They change no weight, but their losses are part of the run's record.
            **({"holdout": [[e["latents_sha256"], e["embeddings_sha256"]] for e in held_out]} if held_out else {}),
            "variants": {name: entry["embeddings_sha256"] for name, entry in variants.items()},
        }
    )


def manifest_parts(
    manifest: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]:
    """Items and caption variants (``empty``, ``trigger``) of a manifest; a bare list has no variants."""
    if isinstance(manifest, Mapping):
        return list(manifest["items"]), manifest.get("variants") or {}
    return list(manifest), {}


def checkpoint_key(key: str, step: int) -> str:
    """Name of step ``step`` of a run in the store."""
    return f"{key}-{step:06d}"


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


def _shares(entry: Mapping[str, Any]) -> list[Any]:
    return [float(entry.get("weight", 1)), int(entry.get("repeats", 1)), bool(entry.get("is_reg", False))]


def _own(entry: Mapping[str, Any]) -> list[Any]:
    """What only some items have, so that the others keep their digest."""
    keys = ("class_embeddings_sha256", *ITEM_OVERRIDES)
    own = {key: list(entry[key]) if key == "resolutions" else entry[key] for key in keys if key in entry}
    return [own] if own else []


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", tuple: "a list"}


def _read(cls: type, values: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """An instance of a settings class from plain values; unknown keys and wrong types are added to ``problems``."""
    default = cls()
    good: dict[str, Any] = {}
    known = [f.name for f in fields(cls)]
    for key, value in values.items():
        if key not in known:
            problems.append(f"recipe key {where}.{key} is unknown: use one of {', '.join(known)}")
            continue
        kind = float if key == "alpha" else type(getattr(default, key))
        if kind is float and type(value) is int:
            value = float(value)
        # These three take several types; their values are checked later.
        if key not in ("keep", "modules", "ema") and type(value) is not kind and not isinstance(value, Preservation):
            problems.append(f"recipe key {where}.{key} is {value!r}: use {_WORDS[kind]}")
            continue
        good[key] = value
    return cls(**good)


def _ema(value: Any, problems: list[str]) -> float | None:
    """``off``, ``{decay: 0.99}`` or nothing. YAML reads a bare ``off`` as false."""
    if value in (None, False, "off"):
        return None
    if isinstance(value, Mapping) and set(value) == {"decay"} and isinstance(value["decay"], int | float):
        return float(value["decay"])
    problems.append(f"recipe key train.ema is {value!r}: use off or {{decay: 0.99}}")
    return None


def _modules_valid(modules: str | tuple[str, ...]) -> bool:
    if isinstance(modules, str):
        return modules in MODULE_PRESETS
    try:
        return bool(modules) and all(re.compile(pattern) for pattern in modules)
    except (re.error, TypeError):
        return False


def _keep_valid(keep: int | str) -> bool:
    if isinstance(keep, int):
        return keep >= 1 and keep is not True
    return keep == "all" or bool(re.fullmatch(r"score:[1-9]\d*", str(keep)))


def _resolutions_valid(resolutions: tuple[int, ...]) -> bool:
    return bool(resolutions) and all(isinstance(r, int) and r >= 16 and r % 16 == 0 for r in resolutions)
