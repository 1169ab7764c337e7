"""The knobs of a training run: what they are when nobody says, and what does not go together.

Defaults, bounds and allowed words are those of ``config/schemas/recipe.schema.yaml``, for the workflow and for the
trainer alike; here is what a schema cannot say. Must not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from charloom.config import knobs, schema

FACTOR = ("prodigy",)
"""Optimisers that find the size of their steps themselves; their learning rate is a factor on it."""
FAR = 100.0
"""How many times a learning rate may be above or below what is usual for its optimiser before it is mentioned."""


def default(knob: str) -> Any:
    """The default of a knob by its dotted name, e.g. ``train.steps``."""
    value: Any = schema.defaults(schema.load_schema("recipe"))
    for part in knob.split("."):
        value = value[part]
    return value


def usual_rates() -> dict[str, float]:
    """The usual learning rate of each optimiser."""
    return schema.load_schema("recipe")["properties"]["train"]["properties"]["lr"]["by_optimizer"]


def learning_rate(given: Mapping[str, Any], base: Mapping[str, Any]) -> float:
    """The learning rate of a recipe: the one that is ``given``, else that of the ``base``'s recipe, else the usual one.

    What the base's recipe says is meant for the base's optimiser. For another it is put in proportion: a base that
    wants twenty times the usual of AdamW wants twenty times the usual of Lion too.
    """
    usual = usual_rates()
    own, of_base = given.get("train") or {}, base.get("train") or {}
    if own.get("lr", "auto") != "auto":
        return own["lr"]
    meant_for = of_base.get("optimizer", default("train.optimizer"))
    optimizer = own.get("optimizer", meant_for)
    rate = of_base.get("lr", "auto")
    if rate == "auto":
        return usual[optimizer]
    if usual[optimizer] == usual[meant_for]:
        return rate
    if optimizer in FACTOR or meant_for in FACTOR:
        return usual[optimizer]
    return float(f"{rate * usual[optimizer] / usual[meant_for]:.6g}")


def odd_rate(optimizer: str, rate: float) -> str | None:
    """What to say of a learning rate that is not of its optimiser's kind; None if it is."""
    usual = usual_rates()[optimizer]
    if usual / FAR <= rate <= usual * FAR:
        return None
    expected = "hardly anything will be learnt" if rate < usual else "the adapter will probably break"
    return (
        f"train.lr {rate:g} is far from what is usual for {optimizer} (about {usual:g}): {expected}; "
        "leave train.lr out, or set it to auto"
    )


def contradictions(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(knob, what is wrong; what to do) for knobs that are right alone and wrong together, and broken patterns."""
    found = []
    train, modules = recipe["train"], recipe["network"]["modules"]
    preservation = train["preservation"]
    if preservation["differential"]["enabled"] and preservation["blank"]["enabled"]:
        found.append(("train.preservation", "differential and blank are both on; switch one of them off"))
    if train["warmup_steps"] > train["steps"]:
        found.append(("train.warmup_steps", f"is more than train.steps {train['steps']}; lower it"))
    for pattern in modules if isinstance(modules, list) else ():
        try:
            re.compile(pattern)
        except re.error as error:
            found.append(("network.modules", f"'{pattern}' is no regular expression ({error}); correct it"))
    return found


def _value(knob: str, value: Any) -> Any:
    """The value of a knob as the settings hold it."""
    if knob == "train.ema":
        return value["decay"] if value else None
    if value == "auto" and knob == "train.lr":
        return knobs.usual_rates()[knobs.default("train.optimizer")]
    return tuple(value) if isinstance(value, list) else value


def _knob(name: str) -> Any:
    """A field for the knob ``name`` of the recipe, with the schema's default."""
    return field(default_factory=lambda: _value(name, knobs.default(name)), metadata={"knob": name})
