"""Rules about the plan, the recipe, and files beside the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from charloom.dataset import framing
from charloom.dataset.lint.registry import Data, Hit, rule

TIERS = ("close-up", "medium", "full-body")
TOLERANCE = 0.2
"""Largest deviation of the number of shots of a tier from its share, relative to the share."""
BLOCK = 8
"""A tier needs this many shots before its views and expressions are checked."""
PROFILES = 2
FEW = 15
"""With fewer pictures a style can hardly be separated from what they show."""
EMOTIONS = {
    "laughing": "laughing", "joyful": "joyful", "smile": "smile", "smiling": "smile", "neutral": "neutral",
    "serious": "serious", "contemplative": "contemplative", "thoughtful": "contemplative", "sad": "sad",
    "melancholic": "sad",
}  # fmt: skip


def blocks(data: Data, human: bool = False) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Yield (tier, its shots) if every shot has a tier and a view; with ``human`` only large blocks of people."""
    shots = data.settings.get("shots", ())
    if not all(shot["tier"] and shot["view"] for shot in shots) or (human and not data.human):
        return
    for tier in TIERS:
        block = [shot for shot in shots if shot["tier"] == tier]
        if not human or len(block) >= BLOCK:
            yield tier, block


@rule(
    "flips",
    "warning",
    "Pictures of a face are mirrored.",
    remedy="turn them off",
)
def flips(data: Data) -> Iterator[Hit]:
    """Flips in the recipe and in extra sets that show the character."""
    places = {"recipe.data": data.settings.get("flips", [False, False])}
    places |= {f"datasets.{name}": part["flips"] for name, part in data.sets.items() if not part["regularization"]}
    for where, axes in () if data.style else places.items():
        if any(axes):
            yield Hit(where, "flips teach that faces are symmetric, which most are not")


@rule("tiers", "warning", "Some distances are shown much more often than others.")
def tiers(data: Data) -> Iterator[Hit]:
    """Compared with the plan's own shares (``balance``), or a third each."""
    shots = data.settings.get("shots", ())
    shares = data.settings.get("balance") or dict.fromkeys(() if data.style else TIERS, 1 / 3)
    for tier, block in blocks(data) if shares else ():
        wanted = len(shots) * shares.get(tier, 0.0)
        if not (1 - TOLERANCE) * wanted <= len(block) <= (1 + TOLERANCE) * wanted:
            even = len(set(shares.values())) == 1
            aim = "aim for a third each" if even else f"aim for {shares.get(tier, 0.0):.0%}"
            what = f"{len(block)} of {len(shots)} shots are {tier}"
            yield _of(block, what, f"{aim}, to learn every distance")


@rule(
    "few",
    "warning",
    "A style has few pictures.",
    remedy="20 to 60 of different subjects teach a style and not what they show",
)
def few(data: Data) -> Iterator[Hit]:
    """A plan sets its own number of pictures; a style has no plan."""
    own = data.of_character()
    if data.style and len(own) < FEW:
        yield Hit("images", f"{len(own)} pictures", tuple(item.name for item in own), {"least": FEW})


@rule("framing", "note", "What the pictures of a whole folder show, by their captions and faces.")
def guessed(data: Data) -> Iterator[Hit]:
    """For folders whose shots are not described (:mod:`charloom.dataset.framing`)."""
    for level, where, line in framing.findings(data.items, data.settings):
        what, _, remedy = line.partition("; ")
        yield Hit(where, what, level=level, remedy=remedy)


@rule("profiles", "warning", "A tier has too few or too many profiles.", remedy="use 2, to learn the silhouette")
def profiles(data: Data) -> Iterator[Hit]:
    """Each large block should have two."""
    for tier, block in blocks(data, human=True):
        shown = [shot for shot in block if shot["view"] == "side profile"]
        if len(shown) != PROFILES:
            yield _of(shown, f"{len(shown)} profiles among the {tier} shots")


@rule(
    "tipped-head",
    "warning",
    "No shot of a tier looks up.",
    remedy="else the model tips the head back only for laughing",
)
def tipped_head(data: Data) -> Iterator[Hit]:
    """Each large block needs a shot that looks up without laughing."""
    for tier, block in blocks(data, human=True):
        tipped = [shot for shot in block if "looking up" in shot["expression"]]
        if not tipped:
            yield _of((), f"no {tier} shot looks up with the head tipped back")
        for shot in tipped:
            if "laugh" in shot["expression"]:
                what = "combines looking up and laughing"
                yield Hit(shot["name"], what, (shot["name"],), remedy="show them in separate shots")


@rule("expressions", "warning", "Expressions repeat or are missing.")
def expressions(data: Data) -> Iterator[Hit]:
    """Each of :data:`EMOTIONS` should appear once in a large block."""
    for tier, block in blocks(data, human=True):
        shown = [
            (band, shot) for shot in block for word, band in EMOTIONS.items() if word in shot["expression"].split()
        ]
        bands = Counter(band for band, _ in shown)
        twice = [band for band, times in bands.items() if times > 1]
        missing = [band for band in dict.fromkeys(EMOTIONS.values()) if band not in bands]
        if twice:
            where = [shot for band, shot in shown if band in twice]
            yield _of(where, f"{', '.join(twice)} more than once among the {tier} shots", "vary it")
        if missing:
            yield _of((), f"no {', '.join(missing)} among the {tier} shots", "add one of each")


@rule("from-behind", "warning", "A tier is never seen from behind.", remedy="add one")
def from_behind(data: Data) -> Iterator[Hit]:
    """Each large block should have one, except at medium distance."""
    for tier, block in blocks(data, human=True):
        if tier != "medium" and not any(shot["view"] == "seen from behind" for shot in block):
            yield _of((), f"no {tier} shot from behind")


@rule("learning-rate", "warning", "The learning rate is unusual for its optimiser.")
def learning_rate(data: Data) -> Iterator[Hit]:
    """Judged where the recipe is read (:func:`charloom.config.knobs.odd_rate`)."""
    yield from _of_recipe(data, "rate")


@rule("running-mean", "warning", "The running mean (EMA) is too slow for the number of steps.")
def running_mean(data: Data) -> Iterator[Hit]:
    """Judged where the recipe is read (:func:`charloom.config.knobs.odd_mean`)."""
    yield from _of_recipe(data, "mean")


def _of_recipe(data: Data, key: str) -> Iterator[Hit]:
    """A line about the recipe that stands among the settings, with its remedy after the semicolon."""
    if line := data.settings.get(key):
        what, _, remedy = line.partition("; ")
        yield Hit("recipe", what, remedy=remedy)


@rule(
    "layers",
    "error",
    "A pattern of network.modules is found in no layer of Z-Image.",
    remedy="correct it, for example to feed_forward or adaLN_modulation",
)
def layers(data: Data) -> Iterator[Hit]:
    """Names of other models, mostly; found by :func:`charloom.lora.network.unmatched`."""
    for pattern in data.settings.get("modules", ()):
        yield Hit("recipe", f"network.modules: no layer of Z-Image is called {pattern}")


@rule("unused-files", "warning", "Files lie among the pictures that nothing reads.")
def unused_files(data: Data) -> Iterator[Hit]:
    """Found by :mod:`charloom.config.inventory`."""
    for where, line in data.settings.get("unused", ()):
        what, _, remedy = line.partition("; ")
        yield Hit(where, what, remedy=remedy)


@rule("crop", "note", "Edges are cut off your own pictures.")
def crop(data: Data) -> Iterator[Hit]:
    """Says how much is cut off the user's own images."""
    cut = data.settings.get("crop") or {"right": 0, "bottom": 0}
    sides = [f"{cut[side]} pixels at the {side}" for side in ("right", "bottom") if cut[side]]
    if sides:
        off = "set crop: {right: 0, bottom: 0} if they have no watermark"
        yield Hit("crop", f"{' and '.join(sides)} are cut off each of your images", remedy=off)


def _of(shots: Sequence[Mapping[str, Any]], what: str, remedy: str | None = None) -> Hit:
    return Hit("plan", what, tuple(shot["name"] for shot in shots), remedy=remedy)
