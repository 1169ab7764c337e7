"""Decides which instrument measures what for a character, by trying them on its own pictures: ``judge.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from charloom.judge import identity
from charloom.judge.auto import subject_looks
from charloom.judge.backend import Picture
from charloom.judge.instruments import KINDS
from charloom.judge.memory import Memory
from charloom.judge.panel import Panel

EMBEDDINGS = ("dinov2", "siglip", "efficientnet")
"""Picture embeddings, best first."""


def study(
    lock: dict[str, Any],
    settings: dict[str, Any],
    references: Sequence[Picture],
    others: Sequence[Picture],
    memory: Memory,
    device: Any = "cpu",
) -> dict[str, Any]:
    """Try the instruments on the character's ``references`` and on ``others``, which the base draws without the LoRA.

    ``settings`` has ``identity`` (``auto``, ``none`` or a kind of instrument), ``trigger``, ``prompts`` (texts) and
    ``line``, the identity line. Returns the content of ``judge.json`` as plain values: the lock, which instrument
    measures what and why, the limits of the choice on this character's scale, and remedies for what is not scored.
    """
    panel = Panel(lock, memory, device)
    crop = _crop(panel, references)
    candidates = _candidates(panel, settings["identity"])
    trials = []
    for name in candidates:
        own = subject_looks(panel, name, crop, references)
        trials.append(identity.trial(panel.cls(name), own, subject_looks(panel, name, crop, others) if others else ()))
    trials = [one for one in trials if panel.has(one.instrument)]
    chosen, why = identity.best(trials, bool(others))
    if settings["identity"] == "none":
        chosen, why = None, "identity is not scored: validation.identity is none"
    elif settings["identity"] != "auto" and not candidates:
        why = f"identity is not scored: validation.identity is {settings['identity']}, and there is no such instrument"
    reasons = [why]
    obedience = panel.first(("vlm", "siglip"))
    copying = panel.first(EMBEDDINGS)
    reasons.append(f"obedience by {obedience}" if obedience else "obedience is not scored: no model for it")
    reasons.append(f"copies of training pictures by {copying}" if copying else "copies are not scored: no embedding")
    return {
        "lock": lock,
        "trigger": settings["trigger"],
        "prompts": settings["prompts"],
        "line": settings["line"],
        "crop": crop,
        "identity": chosen.values() if chosen else None,
        "trials": [one.values() for one in trials],
        "copies": copying,
        "obedience": obedience,
        "why": reasons,
        "limits": identity.limits(chosen, getattr(panel.cls(chosen.instrument), "cut", None)) if chosen else {},
        "remedies": remedies(lock, bool(chosen), obedience, copying),
        "notes": list(memory.notes),
    }


def remedies(lock: dict[str, Any], identity: bool, obedience: str | None, copies: str | None) -> list[str]:
    """One line for each metric that is not scored, which says how to get it scored."""
    missing = lock["missing"]
    lines = []

    def add(metric: str, names: Sequence[str]) -> None:
        known = [name for name in names if name in missing]
        ways = [f"{name}: {missing[name]['install']}" for name in known]
        if ways:
            again = f"then delete work/judges/{lock['name']}.lock.json"
            lines.append(f"{metric} is not scored; to have it scored install one of these ({'; '.join(ways)}), {again}")

    if not identity:
        add("identity", ("dlib", "ccip", "dinov2", "efficientnet"))
    if not obedience:
        add("obedience", ("siglip", "vlm"))
    if not copies:
        add("bleed", ("efficientnet", "dinov2"))
    return lines


def _candidates(panel: Panel, wanted: str) -> list[str]:
    """Identity instruments to try, in order of preference."""
    embedding = panel.first(EMBEDDINGS)
    kinds = {"dlib": ["dlib"], "ccip": ["ccip"], "image": [embedding] if embedding else [], "none": []}
    names = [*kinds["dlib"], *kinds["ccip"], *kinds["image"]] if wanted == "auto" else kinds[wanted]
    return [name for name in names if name and panel.has(name) and "identity" in KINDS[name].measures]


def _crop(panel: Panel, references: Sequence[Picture]) -> str:
    """How to crop the person for an embedding: by the first detector that sees somebody in half of the references."""
    for name in ("mediapipe", "dlib"):
        if panel.has(name) and references:
            seen = sum(bool(look) for look in panel.looks(name, references))
            if seen >= identity.COVERED * len(references):
                return name
    return "whole"
