"""Rules about pictures: size, focus, exposure, remains of a watermark, twins, faces, text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from charloom.core import pictures, words
from charloom.dataset import buckets
from charloom.dataset.lint.findings import Item
from charloom.dataset.lint.measure import CORNER, CORNERS, unpacked
from charloom.dataset.lint.registry import Data, Hit, rule
from charloom.dataset.lint.twins import MIRRORED, SAME_KIND, Thumbnails, Twin

SHARP = 12.0
"""Variance of the Laplacian (grey levels squared, 512 pixels wide) below which an image looks blurred."""
DARK, LIGHT = (20.0, 80.0), (200.0, 235.0)
"""An image is too dark if its median and its 95th percentile (grey levels) are below these, and too light if its 5th
percentile and its median are above those. White backgrounds pass, with black clothes and with a blonde in white."""
FLAT = 30.0
"""Below this distance of the 5th from the 95th percentile (grey levels) there is hardly any contrast."""
MARK = 6.0
"""Contrast (grey levels) that must appear in the same corner of most images to count as a watermark."""
FEWEST = 6
"""Number of images needed to judge a common mark, or a face detector."""
FACE = 0.4
"""Faces with an edge below this share of the largest one's count as background."""
SURE = 0.5
"""The face detector is trusted with this character if it finds a face in at least this share of the close-ups."""
LETTERS = 3
"""Letters that a text must have to count; single strokes are often misread."""
SAYS_SO = r"text|word|words|letter|letters|lettering|sign|signs|logo|label|poster|writing|reads|reading|title|print"


@rule("unreadable", "error", "A file cannot be read.", fixed=True)
def unreadable(data: Data) -> Iterator[Hit]:
    """Found where files are read (:mod:`charloom.workflow.lint_files`)."""
    yield from ()


@rule("size", "error", "A picture is smaller than the crop allows.", remedy="use a larger image", fixed=True)
def size(data: Data) -> Iterator[Hit]:
    """A side is below ``crop.minimum``."""
    for item in data.seen:
        width, height = item.facts["size"]
        minimum = data.sets[item.part].get("minimum", 64) if item.part else data.settings["minimum"]
        if min(width, height) < minimum:
            yield Hit(item.picture, f"{width}x{height} has a side below {minimum} pixels", (item.name,))


@rule("narrow", "warning", "A picture is so narrow that little of it is trained on.")
def narrow(data: Data) -> Iterator[Hit]:
    """By what the buckets cut off (:func:`charloom.dataset.buckets.problem`)."""
    for item in data.seen:
        own = data.sets.get(item.part, {}).get("resolutions", data.settings.get("resolutions", ()))
        if line := buckets.problem(*item.facts["size"], own):
            what, _, remedy = line.partition("; ")
            yield Hit(item.picture, what, (item.name,), remedy=remedy)


@rule("small", "note", "Pictures are smaller than the largest resolution.", remedy="larger ones show more detail")
def small(data: Data) -> Iterator[Hit]:
    """One finding for all of them: nothing is ever scaled up, so they are trained at their own size."""
    largest = max(data.settings.get("resolutions", ()), default=0)
    shots = [item for item in data.seen if data.role(item) == "shot"]
    few = [item for item in shots if np.prod(item.facts["size"]) < largest**2]
    if few:
        than = f"smaller than {largest}² pixels and trained at {'its' if len(few) == 1 else 'their'} own size"
        what = f"{len(few)} of {len(shots)} {'is' if len(few) == 1 else 'are'} {than}"
        yield Hit("images", what, tuple(item.name for item in few))


@rule("converted", "warning", "A picture had transparency or several frames.")
def converted(data: Data) -> Iterator[Hit]:
    """By the notes of the picture reader (:data:`charloom.core.pictures.NOTES`)."""
    for item in data.seen:
        for note in item.facts.get("notes", ()):
            what, _, remedy = pictures.NOTES[note].partition("; ")
            yield Hit(item.picture, what, (item.name,), remedy=remedy)


@rule("blur", "warning", "A picture is out of focus.", remedy="replace it")
def blur(data: Data) -> Iterator[Hit]:
    """By the variance of the Laplacian."""
    for item in data.seen:
        if item.facts["sharpness"] < SHARP:
            what = "looks blurred, and the LoRA would learn that"
            yield Hit(item.picture, what, (item.name,), {"sharpness": item.facts["sharpness"], "least": SHARP})


@rule("exposure", "warning", "A picture is too dark, too light, or without contrast.", remedy="correct or replace it")
def exposure(data: Data) -> Iterator[Hit]:
    """By percentiles of the grey levels."""
    for item in data.seen:
        _, low, middle, high, _ = item.facts["levels"]
        what = (
            "is almost black" if middle < DARK[0] and high < DARK[1]
            else "is almost white" if low > LIGHT[0] and middle > LIGHT[1]
            else "has hardly any contrast" if high - low < FLAT
            else ""
        )  # fmt: skip
        if what:
            yield Hit(item.picture, what, (item.name,), {"levels": item.facts["levels"]})


@rule("twins", "error", "Two pictures are the same.", remedy="replace one of them")
def twins(data: Data) -> Iterator[Hit]:
    """Their thumbnails hardly differ. An extra data set may repeat images of the plan on purpose."""
    for one, other, twin in _pairs(data):
        if twin.kind == SAME_KIND:
            level = "warning" if one.part or other.part else None
            yield _pair(one, other, twin, "are the same image", level)


@rule("near-twins", "warning", "Two pictures are almost the same, or mirrored.", remedy="replace one of them")
def near_twins(data: Data) -> Iterator[Hit]:
    """Their thumbnails differ little, apart from tones, or mirror each other."""
    for one, other, twin in _pairs(data):
        if twin.kind != SAME_KIND:
            mirrored = "are mirror images of each other"
            yield _pair(one, other, twin, mirrored if twin.kind == MIRRORED else "are almost the same image")


@rule(
    "holdout-twins",
    "error",
    "A held-out picture is trained on too, so its loss says nothing.",
    remedy="hold out pictures that nothing else shows",
)
def holdout_twins(data: Data) -> Iterator[Hit]:
    """Twins of which one is trained on and the other held out."""
    trained = [item for item in data.seen if data.role(item) != "holdout"]
    kept = [item for item in data.seen if data.role(item) == "holdout"]
    if not trained or not kept:
        return
    items = [*trained, *kept]
    for twin in Thumbnails([item.facts["thumb"] for item in items]).twins(len(trained)):
        what = {SAME_KIND: "are the same image", MIRRORED: "are mirror images"}.get(twin.kind, "are almost the same")
        level = None if twin.kind == SAME_KIND else "warning"
        yield _pair(items[twin.other], items[twin.index], twin, f"{what}, and only one of them is held out", level)


def _pairs(data: Data) -> Iterator[tuple[Item, Item, Twin]]:
    """Yield (earlier, image, twin), except pairs of a held-out and a trained picture, which have their own rule."""
    if "twins" not in data.memory:
        data.memory["twins"] = Thumbnails([item.facts["thumb"] for item in data.seen]).twins()
    for twin in data.memory["twins"]:
        one, other = data.seen[twin.other], data.seen[twin.index]
        if (data.role(one) == "holdout") == (data.role(other) == "holdout"):
            yield one, other, twin


def _pair(one: Item, other: Item, twin: Twin, what: str, level: str | None = None) -> Hit:
    where, evidence = f"{one.picture}, {other.picture}", {"difference": round(twin.difference, 2)}
    return Hit(where, what, (one.name, other.name), evidence, level)


@rule("watermark", "error", "Most pictures have the same mark in a corner, which the LoRA would learn.")
def watermark(data: Data) -> Iterator[Hit]:
    """Each set on its own; an error for shots, because the character is learnt from them alone."""
    raise_it = "raise {}, or the LoRA will learn it"
    show = f"charloom lint {data.settings.get('character', 'NAME')} --html"
    look = f"look at it with {show}, and if it is not a mark, write lint: {{allow: [{{rule: watermark}}]}}"
    groups = {"": ("images", raise_it.format("crop.right and crop.bottom"), None)}
    for name in data.sets:
        groups[name] = (f"datasets.{name}", raise_it.format("right and bottom of its crop"), "warning")
    for part, (where, remedy, level) in groups.items():
        items = [item for item in data.seen if item.part == part]
        for corner, contrast in marked_corners(items):
            what = f"most images have the same mark in the {corner} corner"
            off = remedy if corner == CORNERS[0] else "cut it off, or the LoRA will learn it"
            evidence = {"corner": corner, "contrast": round(contrast, 1), "least": MARK}
            yield Hit(where, what, tuple(item.name for item in items), evidence, level, f"{off}; {look}")


def marked_corners(items: Sequence[Item]) -> Iterator[tuple[str, float]]:
    """Yield the corners that have the same shape in most images, with its contrast in grey levels.

    The median of each corner is subtracted; the median over the images keeps what they share. The opposite corner gives
    the level without a watermark.
    """
    if len(items) < FEWEST:
        return
    corners = np.array([unpacked(item.facts["corners"], 4, CORNER, CORNER) for item in items], dtype=np.float32)
    middle = np.median(corners - np.median(corners, axis=(2, 3), keepdims=True), axis=0)
    shared = dict(zip(CORNERS, np.percentile(np.abs(middle), 95, axis=(1, 2)), strict=True))
    for name, contrast in shared.items():
        upright, side = name.split()
        opposite = shared[f"{upright} {'left' if side == 'right' else 'right'}"]
        if contrast > MARK and contrast > 2.5 * opposite:
            yield name, float(contrast)


@rule(
    "text",
    "warning",
    "A picture shows text that its caption does not mention (where OCR is installed).",
    remedy="crop or retouch it, or name it in the caption",
)
def text(data: Data) -> Iterator[Hit]:
    """What OCR has read, unless the caption mentions writing or quotes it."""
    for item in data.seen:
        read = [entry for entry in item.facts.get("text", ()) if len(re.sub(r"\W|\d|_", "", entry["text"])) >= LETTERS]
        caption = item.caption or ""
        if not read or re.search(rf"\b({SAYS_SO})\b", caption, re.IGNORECASE):
            continue
        new = [entry for entry in read if not words.count(caption, entry["text"])]
        if new:
            said = ", ".join(f'"{entry["text"]}"' for entry in new[:3])
            yield Hit(item.picture, f"shows the text {said}", (item.name,), {"text": new})


@rule(
    "faces", "warning", "A picture shows several people (where a face detector is installed).", remedy="crop the others"
)
def faces(data: Data) -> Iterator[Hit]:
    """More than one face of about the same size."""
    for item in data.seen:
        boxes = [entry["box"] for entry in item.facts.get("faces", ())]
        edges = sorted((box[3] - box[1] for box in boxes), reverse=True)
        number = sum(edge >= FACE * edges[0] for edge in edges)
        if number > 1 and data.role(item) != "regularisation":
            what = f"shows {number} faces, of which the LoRA would learn a mixture"
            yield Hit(item.picture, what, (item.name,), {"faces": boxes})


@rule(
    "no-face",
    "warning",
    "A close-up shows no face (where a face detector is installed).",
    remedy="replace it, or correct its tier and view",
)
def no_face(data: Data) -> Iterator[Hit]:
    """Only if the detector finds faces in most other close-ups: it knows photographs, not every kind of drawing."""
    close = [
        item
        for item in data.seen
        if "faces" in item.facts
        and (shot := data.shots.get(item.name)) is not None
        and shot["tier"] == "close-up"
        and shot["view"] not in ("side profile", "seen from behind")
    ]
    without = [item for item in close if not item.facts["faces"]]
    if not data.human or not without:
        return
    if len(close) < FEWEST or 1 - len(without) / len(close) < SURE:
        what = f"no face was found in {len(without)} of {len(close)} close-ups, too many to rely on the detector"
        yield Hit("images", what, tuple(item.name for item in without), level="note", remedy="look at them yourself")
        return
    for item in without:
        yield Hit(item.picture, "is a close-up, but no face was found in it", (item.name,))
