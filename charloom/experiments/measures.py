"""Measures a checkpoint, from readings of its pictures and the renderer's knowledge of character and prompts.

Who the character is and what a prompt asks for are known exactly, because the world is drawn. What a picture shows is
read by :mod:`charloom.experiments.reader`, never by the probe that scores checkpoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from charloom.experiments.watermark import LIKE
from charloom.paperdoll import attributes, language
from charloom.paperdoll.attributes import IDENTITY_VALUES, SCENE_VALUES, TABLES, Identity, Scene

ACCESSORIES = ("earrings", "necklace", "glasses", "hat")
TYPICAL_SHARE = 0.1
"""An accessory is typical if it is worn in at least this share of the training pictures that would show it."""


@dataclass(frozen=True)
class World:
    """What is known about a character: who she is, what the sample prompts ask for, what her training pictures show."""

    identity: Identity
    prompts: Mapping[str, str]
    """Text by name."""
    scenes: Sequence[Scene]


def names(reading: Sequence[int]) -> dict[str, str]:
    """Turn a reading (indices in the order of ``TABLES``) into words."""
    return {key: values[index] for (key, values), index in zip(TABLES.items(), reading, strict=True)}


def identity_of(text: str, read: Mapping[str, str], identity: Identity) -> float:
    """Share of her features that the picture shows, among those that one for the prompt ``text`` should show."""
    seen = attributes.visible(language.scene_from(text), identity)
    return fmean(read[key] == getattr(identity, key) for key in IDENTITY_VALUES if seen[key])


def obedience_of(text: str, read: Mapping[str, str]) -> float:
    """Share of the visible things that the prompt names which the picture shows."""
    seen = attributes.visible(language.scene_from(text))
    asked = {key: value for key, value in language.parse(text).items() if key in SCENE_VALUES and seen[key]}
    return fmean(read[key] == value for key, value in asked.items())


def chances(text: str, read: Mapping[str, str], scenes: Sequence[Scene]) -> dict[str, bool]:
    """For each opportunity to copy the training pictures, whether it was taken.

    There is one if the prompt asks for an outfit or background that the training pictures do not show, and one for each
    accessory that they typically show and the prompt leaves out.
    """
    asked = language.parse(text)
    seen = attributes.visible(language.scene_from(text))
    outfits = {(scene.outfit, scene.color) for scene in scenes}
    backgrounds = {scene.background for scene in scenes}
    found: dict[str, bool] = {}
    if "outfit" in asked and seen["outfit"]:
        wanted, got = (asked["outfit"], asked.get("color", read["color"])), (read["outfit"], read["color"])
        if wanted not in outfits:
            found["outfit"] = got != wanted and got in outfits
    if "background" in asked and asked["background"] not in backgrounds:
        found["background"] = read["background"] in backgrounds
    for key in ACCESSORIES:
        shown = [getattr(scene, key) for scene in scenes if attributes.visible(scene)[key]]
        typical = {v for v, n in Counter(shown).items() if v != "none" and n >= TYPICAL_SHARE * len(shown)}
        if seen[key] and typical and asked.get(key, "none") not in typical:
            found[key] = read[key] in typical
    return found


def _rows(line: Mapping[str, Any], world: World) -> list[tuple[str, dict[str, str], Mapping[str, Any]]]:
    return [(world.prompts[one["prompt"]], names(one["reader"]), one) for one in line["pictures"]]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def identity(line: Mapping[str, Any], world: World, tier: str | None = None) -> float | None:
    """Share of her features that the pictures show; with ``tier``, of the pictures of that tier."""
    rows = [row for row in _rows(line, world) if _is(row[0], tier)]
    return _mean([identity_of(text, read, world.identity) for text, read, _ in rows])


def obedience(line: Mapping[str, Any], world: World, tier: str | None = None) -> float | None:
    """Share of what the prompts name that the pictures show."""
    return _mean([obedience_of(text, read) for text, read, _ in _rows(line, world) if _is(text, tier)])


def bleed(line: Mapping[str, Any], world: World) -> float | None:
    """Share of the opportunities to copy the training pictures that were taken, picture by picture."""
    found = [chances(text, read, world.scenes) for text, read, _ in _rows(line, world)]
    return _mean([fmean(one.values()) for one in found if one])


def truth(line: Mapping[str, Any], world: World) -> float | None:
    """Identity x obedience x (1 - bleed)."""
    one, two, three = identity(line, world), obedience(line, world), bleed(line, world)
    return None if one is None or two is None or three is None else one * two * (1.0 - three)


def watermark(line: Mapping[str, Any], world: World) -> float | None:
    """Share of the pictures with the watermark's star in the corner."""
    return _mean([float(one["star"] >= LIKE) for one in line["pictures"]])


def hoops(line: Mapping[str, Any], world: World) -> float | None:
    """Share of the pictures with hoop earrings, among those that could show them and were not asked to."""
    open_ = [
        read["earrings"] == "hoops"
        for text, read, _ in _rows(line, world)
        if attributes.visible(language.scene_from(text))["earrings"] and "earrings" not in language.parse(text)
    ]
    return _mean([float(one) for one in open_])


def _is(text: str, tier: str | None) -> bool:
    return tier is None or language.parse(text).get("tier") == tier


def _judged(metric: str) -> Callable[[Mapping[str, Any], World], float | None]:
    return lambda line, world: _mean([p["judge"][metric] for p in line["pictures"] if metric in p["judge"]])


MEASURES: dict[str, Callable[[Mapping[str, Any], World], float | None]] = {
    "truth": truth,
    "identity": identity,
    "obedience": obedience,
    "bleed": bleed,
    "watermark": watermark,
    "hoops": hoops,
    "identity.full-body": lambda line, world: identity(line, world, "full-body"),
    "obedience.full-body": lambda line, world: obedience(line, world, "full-body"),
    "identity.close-up": lambda line, world: identity(line, world, "close-up"),
    "judge.identity": _judged("identity_relative"),
    "judge.obedience": _judged("obedience"),
    "judge.bleed": _judged("bleed"),
    "detail": _judged("detail"),
}
"""The measures, by their name in experiment files. ``judge.*`` and ``detail`` come from charloom's own judge."""
