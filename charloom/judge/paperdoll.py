"""The back end ``paperdoll``: a probe network recognises who is drawn, and with which attributes.

In the paper-doll world every attribute has a name and a value, so obedience and bleed can be counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.judge.backend import Backend, Picture, Reading
from charloom.judge.memory import Look, Memory
from charloom.judge.plain import Plain
from charloom.paperdoll import attributes, language
from charloom.paperdoll.attributes import TABLES
from charloom.paperdoll.probe import SIZE, Probe

ACCESSORIES = ("earrings", "necklace", "glasses", "hat")
TYPICAL_SHARE = 0.1
"""An accessory is typical if it is worn in at least this share of the references that could show it."""


@dataclass(frozen=True)
class _Wardrobe:
    """What the references typically show."""

    outfits: frozenset[tuple[str, str]]
    backgrounds: frozenset[str]
    accessories: dict[str, frozenset[str]]


class Paperdoll(Backend):
    """Identity, obedience and bleed by the probe; detail and contrast by :class:`Plain`."""

    name = "paperdoll"
    cut = 0.5
    """The :meth:`similarity` that separates same from different: for the five shipped characters, every picture was
    above 0.57 to its own reference and below 0.44 to any other."""

    def __init__(self, weights: Path | None, probe: Probe | None = None, memory: Memory | None = None) -> None:
        if probe is None:
            if weights is None or not Path(weights).is_file():
                raise UserError(f"judge paperdoll: there is no probe at {weights}; restore resources/bases/paperdoll")
            probe = Probe.load(Path(weights))
        self.weights = file_digest(weights) if weights else ""
        self._probe = probe
        self._memory = memory or Memory()
        self._plain = Plain(memory=self._memory)
        self._mean: np.ndarray | None = None
        self._levels: dict[str, float] = {}
        self._wardrobe = _Wardrobe(frozenset(), frozenset(), {})

    def study(self, references: Sequence[Picture]) -> dict[str, float]:
        """Learn the mean identity and the wardrobe; levels are mean leave-one-out cosines of all and of back views."""
        levels = self._plain.study(references)
        if len(references) < 2:
            return levels  # leave-one-out needs two references; identity stays unscored
        references = self._readable(references)
        if len(references) < 2:
            return levels
        read, vectors = self._read(references)
        named = [language.parse(picture.text) for picture in references]
        self._mean = _unit(vectors.sum(axis=0))
        cosines = [float(vector @ _unit(vectors.sum(axis=0) - vector)) for vector in vectors]
        # A back view shows only hair and skin, so it is compared with the level of back views.
        backs = [words.get("view") == "back" for words in named]
        groups = {"identity": cosines, "identity_back": [c for c, back in zip(cosines, backs, strict=True) if back]}
        self._levels = {key: float(np.mean(values)) for key, values in groups.items() if len(values) >= 2}
        self._wardrobe = _wardrobe(named, read)
        return {**levels, **self._levels}

    def measure(self, samples: Sequence[Picture]) -> list[Reading]:
        """Measure all metrics of each sample; identity only if there were references."""
        readings = list(self._plain.measure(samples)) if samples else []
        legible = self._readable(samples)
        if not legible:
            return readings
        read, vectors = self._read(legible)
        places = [index for index, sample in enumerate(samples) if any(sample is one for one in legible)]
        for index, sample, values, vector in zip(places, legible, read, vectors, strict=True):
            named = {k: v for k, v in language.parse(sample.text).items() if k in attributes.SCENE_VALUES}
            seen = attributes.visible(language.scene_from(sample.text))
            out: dict[str, float] = {}
            if self._mean is not None:
                out["identity"] = float(vector @ self._mean)
                level = self._levels.get("identity_back" if named.get("view") == "back" else "identity")
                level = level if level is not None else self._levels["identity"]
                if level > 0:
                    out["identity_relative"] = out["identity"] / level
            obeyed = {key: values[key] == value for key, value in named.items() if seen[key]}
            out |= _share("obedience", obeyed)
            bled = _bleed(named, seen, values, self._wardrobe) if self._mean is not None else {}
            out |= _share("bleed", bled)
            misses = [f"{key}: asked for {named[key]}, got {values[key]}" for key, right in obeyed.items() if not right]
            misses += [f"{key}: {values[key]} comes from the training pictures" for key in ACCESSORIES if bled.get(key)]
            readings[index] = Reading(out | readings[index].values, tuple(misses))
        return readings

    def vectors(self, pictures: Sequence[Picture]) -> list[Look | None]:
        """``vector`` (E,), the identity in each picture; None if the picture cannot be read."""
        return [{"vector": look["identity"]} if look else look for look in self._looks(pictures)]

    @staticmethod
    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Cosines between :meth:`vectors` (N, E) and (M, E)."""
        return one @ other.T

    def _read(self, pictures: Sequence[Picture]) -> tuple[list[dict[str, str]], np.ndarray]:
        """The most likely value of every attribute, and identity vectors (B, E), of readable pictures."""
        looks = self._looks(pictures)
        read = [{key: TABLES[key][int(look[key][0])] for key in TABLES} for look in looks]
        return read, np.stack([look["identity"] for look in looks])

    def _readable(self, pictures: Sequence[Picture]) -> list[Picture]:
        return [picture for picture, look in zip(pictures, self._looks(pictures), strict=True) if look]

    def _looks(self, pictures: Sequence[Picture]) -> list[Look]:
        return self._memory.looks(f"probe 1 {self.weights}", pictures, self._look)

    def _look(self, pictures: Sequence[Picture]) -> list[Look]:
        from PIL import Image

        pixels = [
            np.asarray(Image.fromarray(p.pixels).resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for p in pictures
        ]
        result = self._probe.read(np.stack(pixels))
        best = {key: probabilities.argmax(axis=1) for key, probabilities in result["attributes"].items()}
        return [
            {"identity": vector, **{key: index[i : i + 1] for key, index in best.items()}}
            for i, vector in enumerate(result["identity"])
        ]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _share(metric: str, hits: dict[str, bool]) -> dict[str, float]:
    """The metric as the share of ``hits``, and one value per attribute; empty if there was no opportunity."""
    if not hits:
        return {}
    return {metric: sum(hits.values()) / len(hits), **{f"{metric}.{key}": float(hit) for key, hit in hits.items()}}


def _wardrobe(named: list[dict[str, str]], read: list[dict[str, str]]) -> _Wardrobe:
    """What the references show: outfits and backgrounds by caption, or by the probe if the caption does not say.

    Accessories come from the probe, because the uncaptioned ones are those that bleed.
    """
    described = [{**seen, **words} for words, seen in zip(named, read, strict=True)]
    accessories = {}
    for key in ACCESSORIES:
        # The probe is unreliable on accessories that are not visible; the caption tells which are.
        shown = [seen[key] for words, seen in zip(named, read, strict=True) if _visible(words)[key]]
        counts = Counter(value for value in shown if value != "none")
        accessories[key] = frozenset(value for value, count in counts.items() if count >= TYPICAL_SHARE * len(shown))
    return _Wardrobe(
        outfits=frozenset((values["outfit"], values["color"]) for values in described),
        backgrounds=frozenset(values["background"] for values in described),
        accessories=accessories,
    )


def _visible(words: dict[str, str]) -> dict[str, bool]:
    return attributes.visible(attributes.Scene(**{k: v for k, v in words.items() if k in attributes.SCENE_VALUES}))


def _bleed(named: dict[str, str], seen: dict[str, bool], read: dict[str, str], wardrobe: _Wardrobe) -> dict[str, bool]:
    """For every opportunity to copy the training pictures, whether it was taken.

    There is one if the prompt asks for an outfit or background that they do not show, and one for each accessory that
    they typically show and the prompt does not ask for. An outfit or background that the prompt leaves open is no
    opportunity, because something has to be drawn there.
    """
    chances: dict[str, bool] = {}
    if "outfit" in named:
        asked = (named["outfit"], named.get("color", read["color"]))
        got = (read["outfit"], read["color"])
        if asked not in wardrobe.outfits:
            chances["outfit"] = got != asked and got in wardrobe.outfits
    if "background" in named and named["background"] not in wardrobe.backgrounds:
        chances["background"] = read["background"] in wardrobe.backgrounds
    for key in ACCESSORIES:
        if seen[key] and wardrobe.accessories.get(key):
            asked_for = named.get(key, "none")
            if asked_for not in wardrobe.accessories[key]:
                chances[key] = read[key] in wardrobe.accessories[key]
    return chances
