"""Obedience to free-text prompts, phrase by phrase, and bleed of phrases from the training captions.

A vision-language model gives a probability for each phrase. SigLIP can only compare, because its bare probabilities
mean little: the picture must look more like its own phrase than like every other phrase about the same thing in the
prompts and captions. If it looks more like a phrase of the captions than like what was asked for, it bleeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from charloom.core.words import count
from charloom.judge import phrases

if TYPE_CHECKING:
    from charloom.judge.backend import Picture
    from charloom.judge.panel import Panel

BLEEDING = ("outfit", "accessory", "background")
"""What may bleed from the training pictures."""
TYPICAL = 0.5
"""An item is typical of the training pictures if the model sees it in at least this share of them,"""
TAGGED = 0.5
"""and untagged if at most this share of those captions name it."""


class Words:
    """The phrases of the sample prompts and of the captions."""

    def __init__(self, prompts: Sequence[str], references: Sequence[Picture], trigger: str, line: str = "") -> None:
        self.trigger = trigger
        self.line = line
        self.references = list(references)
        self.captions = [self.of(picture.text) for picture in references]
        self.trained: dict[str, set[str]] = {}
        for one in self.captions:
            for name, phrase in one.items():
                self.trained.setdefault(name, set()).add(phrase)
        asked = [self.of(text) for text in prompts]
        self.all: dict[str, list[str]] = {}
        for one in [*asked, *self.captions]:
            for name, phrase in one.items():
                known = self.all.setdefault(name, [])
                if phrase not in known:
                    known.append(phrase)

    def of(self, text: str) -> dict[str, str]:
        """The phrases of a text, by what they are about."""
        return phrases.by_attribute(phrases.split(text, self.trigger, self.line))

    def is_new(self, sample: Picture, name: str) -> bool:
        """Whether the prompt asks for something about ``name`` that no training picture shows."""
        phrase = self.of(sample.text).get(name)
        return phrase is not None and phrase not in self.trained.get(name, set())


def measure(panel: Panel, words: Words, samples: Sequence[Picture], out: Sequence[Any]) -> None:
    """Add ``obedience.<attribute>`` and ``bleed.<attribute>`` to the drafts ``out``."""
    asked = [words.of(sample.text) for sample in samples]
    by_model = panel.has("vlm") and _by_answers(panel, samples, asked, out)
    if panel.has("siglip"):
        _by_comparison(panel, words, samples, asked, out, obedience=not by_model)
    if panel.has("vlm"):
        _untagged(panel, words, samples, out)


def _by_answers(
    panel: Panel, samples: Sequence[Picture], asked: Sequence[Mapping[str, str]], out: Sequence[Any]
) -> bool:
    """Score each phrase by the vision-language model's probability of yes; returns False if it failed."""
    wanted = {id(sample): list(one.values()) for sample, one in zip(samples, asked, strict=True)}
    looks = _answers(panel, samples, wanted)
    for one, look, draft in zip(asked, looks, out, strict=True):
        if not look:
            continue
        for (name, phrase), yes in zip(one.items(), look["yes"], strict=True):
            draft.put({f"obedience.{name}": float(yes)}, panel.by("vlm"))
            if yes < 0.5:
                draft.misses.append(f"{name}: asked for {phrase}, not seen (yes {yes:.2f})")
    return panel.has("vlm")


def _answers(panel: Panel, pictures: Sequence[Picture], wanted: Mapping[int, list[str]]) -> list[Any]:
    return panel.looks(
        "vlm",
        pictures,
        lambda model, new: [model.answers(picture, wanted[id(picture)]) for picture in new],
        lambda picture: wanted[id(picture)],
    )


def _by_comparison(
    panel: Panel,
    words: Words,
    samples: Sequence[Picture],
    asked: Sequence[Mapping[str, str]],
    out: Sequence[Any],
    obedience: bool,
) -> None:
    looks = panel.looks("siglip", samples)
    if not any(looks):
        return
    names = [name for name, known in words.all.items() if len(known) > 1]
    if not names:
        return
    flat = [phrase for name in names for phrase in words.all[name]]
    try:
        vectors = panel.opened("siglip").texts([f"a photo of {phrase}" for phrase in flat])
    except Exception as error:  # as in Panel.looks
        panel.failed_with("siglip", error)
        return
    table, start = {}, 0
    for name in names:
        table[name] = vectors[start : start + len(words.all[name])]
        start += len(words.all[name])
    for one, look, draft in zip(asked, looks, out, strict=True):
        if not look:
            continue
        for name, phrase in one.items():
            if name not in table:
                continue
            known = words.all[name]
            best = known[int(np.argmax(table[name] @ look["vector"]))]
            if obedience:
                draft.put({f"obedience.{name}": float(best == phrase)}, panel.by("siglip"))
                if best != phrase:
                    draft.misses.append(f"{name}: asked for {phrase}, looks more like {best}")
            if name in BLEEDING and phrase not in words.trained.get(name, set()):
                draft.put({f"bleed.{name}": float(best in words.trained.get(name, set()))}, panel.by("siglip"))


def _untagged(panel: Panel, words: Words, samples: Sequence[Picture], out: Sequence[Any]) -> None:
    """Score bleed of things that the training pictures show but no caption names."""
    from charloom.judge.vlm import ITEMS

    everything = list(ITEMS)
    seen = [look for look in _answers(panel, words.references, {id(p): everything for p in words.references}) if look]
    if not seen:
        return
    shown = np.stack([look["yes"] for look in seen]) >= 0.5
    texts = [picture.text for picture in words.references]
    items = [
        item
        for item, share in zip(everything, shown.mean(axis=0), strict=True)
        if share >= TYPICAL and sum(bool(count(text, _noun(item))) for text in texts) <= TAGGED * share * len(texts)
    ]
    if not items:
        return
    looks = _answers(panel, samples, {id(sample): items for sample in samples})
    for sample, look, draft in zip(samples, looks, out, strict=True):
        if not look:
            continue
        for item, yes in zip(items, look["yes"], strict=True):
            if count(sample.text, _noun(item)):
                continue
            draft.put({f"bleed.{_noun(item).replace(' ', '-')}": float(yes >= 0.5)}, panel.by("vlm"))
            if yes >= 0.5:
                draft.misses.append(f"{_noun(item)}: comes from the training pictures, whose captions do not name it")


def _noun(item: str) -> str:
    return item.removeprefix("a ").removeprefix("an ").split(" or ")[0]
