"""The knobs of a recipe: their defaults and choices, and combinations that are contradictory.

Names, types, defaults, bounds and allowed words come from ``config/schemas/recipe.schema.yaml``, for the workflow and
the trainer alike. This module adds only what a schema cannot express. Must not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from charloom.config import schema

FACTOR = ("prodigy",)
"""Optimisers that estimate their own step size; their learning rate is a factor on it."""
FAR = 100.0
"""A learning rate this many times above or below the usual one of its optimiser is reported."""
STILL_START = 0.25
"""Share of a running mean that may still be its start at the last step."""
ITEM_OVERRIDES = ("resolutions", "caption_dropout", "flip_x", "flip_y")
"""Keys of ``recipe.data`` that one data set, and so a single image, may override for the trainer."""


def default(knob: str) -> Any:
    """The default of a knob by its dotted name, e.g. ``train.steps``."""
    value: Any = schema.defaults(schema.load_schema("recipe"))
    for part in knob.split("."):
        value = value[part]
    return value


def leaves(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The knobs of a schema by their dotted names, each with its part of the schema, in the order of the file."""
    for key, node in group["properties"].items():
        if "properties" in node and "default" not in node:
            yield from leaves(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node


def choices(knob: str) -> tuple[str, ...]:
    """The words that a knob may be set to, e.g. of ``quantization.transformer``, in the order of the schema."""
    node = dict(leaves(schema.load_schema("recipe")))[knob]
    return tuple(word for part in (node, *node.get("anyOf", ())) for word in part.get("enum", ()))


def usual_rates() -> dict[str, float]:
    """The usual learning rate of each optimiser."""
    rates: dict[str, float] = dict(leaves(schema.load_schema("recipe")))["train.lr"]["by_optimizer"]
    return rates


def learning_rate(given: Mapping[str, Any], base: Mapping[str, Any]) -> float:
    """The learning rate of a recipe: the one that is ``given``, else that of the ``base``'s recipe, else the usual one.

    The base's rate is meant for the base's optimiser and scaled for any other: a base that needs 20 times the usual
    rate of AdamW needs 20 times the usual rate of Lion too.
    """
    usual = usual_rates()
    own, of_base = given.get("train") or {}, base.get("train") or {}
    if own.get("lr", "auto") != "auto":
        return float(own["lr"])
    meant_for = of_base.get("optimizer", default("train.optimizer"))
    optimizer = own.get("optimizer", meant_for)
    rate = of_base.get("lr", "auto")
    if rate == "auto":
        return usual[optimizer]
    if usual[optimizer] == usual[meant_for]:
        return float(rate)
    if optimizer in FACTOR or meant_for in FACTOR:
        return usual[optimizer]
    return float(f"{rate * usual[optimizer] / usual[meant_for]:.6g}")


def told(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as pages show it: without a negative prompt where there is none."""
    sample = recipe["sample"]
    return recipe if sample["negative"] else {**recipe, "sample": {k: v for k, v in sample.items() if k != "negative"}}


def odd_rate(optimizer: str, rate: float) -> str | None:
    """A warning about a learning rate that is far from the usual one of its optimiser, else None."""
    usual = usual_rates()[optimizer]
    if usual / FAR <= rate <= usual * FAR:
        return None
    expected = "hardly anything will be learnt" if rate < usual else "the adapter will probably break"
    return (
        f"train.lr {rate:g} is far from what is usual for {optimizer} (about {usual:g}): {expected}; "
        "leave train.lr out, or set it to auto"
    )


def odd_mean(decay: float | None, steps: int) -> str | None:
    """A warning about a running mean (``train.ema``) that is too slow for the length of the run, else None.

    It begins at the adapter's start, which changes nothing: what is left of that weakens the exported LoRA.
    """
    if not decay or (left := decay**steps) <= STILL_START:
        return None
    shorter = max(1.0 - 3.0 / steps, 0.5)  # leaves 5 % of the start
    return (
        f"train.ema.decay {decay:g} averages over about {1.0 / (1.0 - decay):,.0f} steps, and train.steps is {steps}: "
        f"{left:.0%} of the exported LoRA would still be its start; set it to {shorter:.3g} or less, or train.ema to "
        "false"
    )


def samples_per_step(recipe: Mapping[str, Any]) -> int:
    """Training samples that enter one update of a complete recipe."""
    return int(recipe["train"]["batch_size"] * recipe["train"]["gradient_accumulation"])


def contradictions(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(knob, what is wrong; what to do) for knobs that contradict each other, and for invalid regular expressions."""
    found = []
    train, modules = recipe["train"], recipe["network"]["modules"]
    preservation = train["preservation"]
    if preservation["differential"]["enabled"] and preservation["blank"]["enabled"]:
        found.append(("train.preservation", "differential and blank are both on; switch one of them off"))
    if train["warmup_steps"] > train["steps"]:
        found.append(("train.warmup_steps", f"is more than train.steps {train['steps']}; lower it"))
    if "init" in recipe["network"] and (kind := recipe["network"]["type"]) != "lora":
        found.append(("network.init", f"needs network.type lora, not {kind}; set it so, or remove init"))
    for pattern in modules if isinstance(modules, list) else ():
        try:
            re.compile(pattern)
        except re.error as error:
            found.append(("network.modules", f"'{pattern}' is not a regular expression ({error}); correct it"))
    return found


def setting(knob: str, value: Any) -> Any:
    """The value of a knob as the trainer's settings hold it.

    Lists become tuples, ``train.ema`` its decay or None, and a ``train.lr`` of ``auto`` the usual rate of the default
    optimiser.
    """
    if knob == "train.ema":
        return value["decay"] if value else None
    if value == "auto" and knob == "train.lr":
        return usual_rates()[default("train.optimizer")]
    return tuple(value) if isinstance(value, list) else value


def setting_field(knob: str) -> Any:
    """A dataclass field for a knob: its default is the schema's, its metadata holds the knob's name."""
    return field(default_factory=lambda: setting(knob, default(knob)), metadata={"knob": knob})
