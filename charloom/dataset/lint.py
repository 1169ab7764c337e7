"""Finds what is wrong with a data set before hours are spent on training.

Errors stop the workflow; warnings are listed and left to the user. Captions and the plan are checked as text, images by
a few facts each (:func:`facts`), which can be cached because they depend only on the bytes. Everything is passed as
:class:`Item`, so that the user's own files and the workflow's copies are checked alike. Runs no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from charloom.config import kinds
from charloom.core import pictures, tokens, words
from charloom.core.errors import UserError
from charloom.core.layout import Results
from charloom.dataset import buckets, captions, framing, style_lint
from charloom.dataset.findings import LEVELS, Finding, Item

LONG_WORDS = 90
SHARP = 12.0
"""Variance of the Laplacian (grey levels squared, 512 pixels wide) below which an image looks blurred."""
SAME = 0.4
NEAR = 3.0
"""Mean difference of two 64-pixel thumbnails (grey levels) below which images count as the same, or nearly the same."""
MARK = 6.0
"""Contrast (grey levels) that must appear in the same corner of most images to count as a watermark."""

THUMB = 64
CORNER = 24
CORNER_SHARE = 0.1

ORDINARY = frozenset(
    """adam alice anna ben bella black blonde blue brown camila clara dark david elena ella emily emma eva face
    female girl green hair hanna hannah jane john julia kate laura leila lena leyla light lily linda lisa lucy
    man mara maria marie mary maya mia model mona nadia name nina nora olga olivia orla person peter photo pink
    portrait queen red rosa rose sara sarah shot sofia sophia star style token vera white woman yuna""".split()
)
"""Words and first names that models already know; a hint, not a dictionary."""

IDENTITY_WORDS = (
    "cheekbone", "cheekbones", "complexion", "eyebrow", "eyebrows", "face shape", "jawline", "lips", "nose",
    "skin", "skin tone", "eyelashes", "chin dimple", "freckles", "oval face", "round face", "almond-shaped",
)  # fmt: skip
EMOTIONS = {
    "laughing": "laughing", "joyful": "joyful", "smile": "smile", "smiling": "smile", "neutral": "neutral",
    "serious": "serious", "contemplative": "contemplative", "thoughtful": "contemplative", "sad": "sad",
    "melancholic": "sad",
}  # fmt: skip


def made(
    results: Results, settings: Mapping[str, Any], facts_of: Mapping[str, dict[str, Any] | UserError]
) -> tuple[list[Item], list[Finding]]:
    """The images and captions that the workflow has made for a character, and findings about unreadable images.

    ``facts_of`` has :func:`facts` of each image, or the error with which reading it failed.
    """
    items, found = [], []
    folders = {part["name"]: part.get("folder", part["name"]) for part in settings.get("sets", ())}
    for name in names(settings):
        part, _, image = name.rpartition("/")
        usual = str(Path(folders[part], image)) if part else image
        picture, text = settings.get("files", {}).get(name) or (f"{usual}.png", f"{usual}.txt")
        fact = facts_of[name]
        if isinstance(fact, UserError):
            found.append(Finding("error", picture, str(fact)))
            fact = None
        items.append(Item(name, captions.read(results.caption(name)), fact, text, picture))
    return items, found


def names(settings: Mapping[str, Any]) -> list[str]:
    """Names of all images: those of the plan, then those of the extra data sets."""
    return [shot["name"] for shot in settings["shots"]] + [
        name for part in settings.get("sets", ()) for name in part["items"]
    ]


def lint(items: Sequence[Item], settings: Mapping[str, Any], count: tokens.Counter | None = None) -> list[Finding]:
    """All findings about images, captions and plan, most severe first. ``count`` counts the tokens of a text."""
    count = count or tokens.Counter()
    found = [
        *_subject(items, settings),
        *(Finding(*one) for one in framing.findings(items, settings)),
        *([Finding("warning", "recipe", settings["rate"])] if "rate" in settings else []),
        *_lengths(items, count),
        *_images(items, settings),
        *(Finding("warning", where, what) for where, what in settings.get("unused", ())),
        *_cut(settings),
    ]
    return in_order(found)


def _subject(items: Sequence[Item], settings: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with the trigger, the captions and the plan of a character, or of a style."""
    own = [item for item in items if not item.part]
    if settings.get("kind") == "style":
        return [*style_lint.check(items, settings), *_identical(own)]
    return [*_trigger(settings), *_captions(own, settings), *_plan(settings), *_sets(items, settings)]


def in_order(found: Sequence[Finding]) -> list[Finding]:
    """Findings with the most severe first, otherwise in order."""
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _cut(settings: Mapping[str, Any]) -> list[Finding]:
    """What is cut off the user's own images."""
    crop = settings.get("crop") or {"right": 0, "bottom": 0}
    if not crop["right"] and not crop["bottom"]:
        return []
    cut = " and ".join(f"{crop[side]} pixels at the {side}" for side in ("right", "bottom") if crop[side])
    off = "set crop: {right: 0, bottom: 0} if they have no watermark"
    return [Finding("note", "crop", f"{cut} are cut off each of your images; {off}")]


def prompts(texts: Mapping[str, str], count: tokens.Counter) -> list[Finding]:
    """Findings about sample prompts, given by name."""
    found = ((where, count.too_long(text)) for where, text in texts.items())
    return [Finding("error" if count.exact else "warning", where, what) for where, what in found if what]


def as_record(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as plain values, with the number of errors and warnings."""
    levels = Counter(finding.level for finding in findings)
    counts = {"errors": levels["error"], "warnings": levels["warning"]}
    return {**counts, "findings": [asdict(finding) for finding in findings]}


def facts(path: Path) -> dict[str, Any]:
    """What the checks need to know about an image, as plain values.

    ``size`` (width, height) in pixels; ``sharpness``, variance of the Laplacian at a width of 512 pixels; ``thumb``,
    64 x 64 grey levels; ``right`` and ``left``, the bottom corners as 24 x 24 grey levels, the left one mirrored;
    ``notes`` (only if there are any), keys of :data:`charloom.core.pictures.NOTES`.
    """
    return facts_of(pictures.read(path))


def facts_of(picture: pictures.Picture) -> dict[str, Any]:
    """The same for a picture that is already open."""
    from PIL import Image

    grey = picture.image.convert("L")
    size = grey.size
    middle = np.asarray(grey.resize((512, max(1, 512 * size[1] // size[0])), Image.Resampling.BOX), dtype=np.float32)
    edge = max(2, int(min(size) * CORNER_SHARE))
    box = (size[0] - edge, size[1] - edge, size[0], size[1])
    mirrored = (0, size[1] - edge, edge, size[1])
    shrink = {"size": (CORNER, CORNER), "resample": Image.Resampling.BOX}
    left = np.asarray(grey.resize(**shrink, box=mirrored))[:, ::-1]
    return {
        "size": list(size),
        "sharpness": round(float(_laplacian(middle).var()), 3),
        "thumb": np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX)).flatten().tolist(),
        "right": np.asarray(grey.resize(**shrink, box=box)).flatten().tolist(),
        "left": left.flatten().tolist(),
        **({"notes": list(picture.notes)} if picture.notes else {}),
    }


def _laplacian(grey: np.ndarray) -> np.ndarray:
    return 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]


def _trigger(settings: Mapping[str, Any]) -> list[Finding]:
    trigger = settings["trigger"]
    found = []
    if trigger.lower() in ORDINARY:
        remedy = "change a letter to a digit, as in l3yla"
        found.append(Finding("error", "trigger", f"{trigger} is a word or name that models already know; {remedy}"))
    elif trigger.isalpha() and trigger.lower() != "ohwx":  # the usual rare token of DreamBooth tutorials
        found.append(Finding("warning", "trigger", f"{trigger} has only letters, so models may know it; add a digit"))
    if not 4 <= len(trigger) <= 6:
        advice = "4 to 6 make few tokens and are easy to type"
        found.append(Finding("warning", "trigger", f"{trigger} has {len(trigger)} characters; {advice}"))
    return found


def _captions(items: Sequence[Item], settings: Mapping[str, Any]) -> list[Finding]:
    trigger, found = settings["trigger"], []
    views = {shot["name"]: shot["view"] for shot in settings["shots"]}
    for item in items:
        if item.caption is None:
            continue
        times = words.count(item.caption, trigger)
        if times != 1:
            what = "is missing" if not times else f"appears {times} times"
            what = f"the trigger {trigger} {what}; it must appear exactly once{_placeholder(item.caption, trigger)}"
            found.append(Finding("error", item.text, what))
        found += _worded(item)
        if views.get(item.name) == "seen from behind" and re.search(r"\beyes\b", item.caption):
            what = "mentions the eyes, which a back view does not show; remove them"
            found.append(Finding("warning", item.text, what))
    return found + _identical(items, settings.get("whole"))


def _identical(items: Sequence[Item], plain: str | None = None) -> list[Finding]:
    found = []
    captions = {item.text: item.caption for item in items if item.caption not in (None, plain)}
    for text, times in Counter(captions.values()).items():
        if times > 1:
            same = ", ".join(name for name, other in captions.items() if other == text)
            found.append(Finding("warning", same, "are identical; describe what differs between the images"))
    return found


def _worded(item: Item) -> list[Finding]:
    """What a caption of the character should not say."""
    found = []
    if (number := len(item.caption.split())) > LONG_WORDS:
        found.append(Finding("warning", item.text, f"has {number} words; describe only what varies"))
    if named := [word for word in IDENTITY_WORDS if words.count(item.caption, word)]:
        why = "describes the identity, which the trigger should carry; remove it"
        found.append(Finding("warning", item.text, f"{', '.join(named)}: {why}"))
    return found


def _placeholder(caption: str, trigger: str) -> str:
    meant = words.PLACEHOLDER if words.PLACEHOLDER in caption else words.misspelt_placeholder(caption)
    return f" (write {trigger} instead of {meant}: captions have no placeholders)" if meant else ""


def _lengths(items: Sequence[Item], count: tokens.Counter) -> list[Finding]:
    """Captions that would be truncated; errors only if the count is exact."""
    found = ((item.text, count.too_long(item.caption)) for item in items if item.caption)
    return [Finding("error" if count.exact else "warning", where, what) for where, what in found if what]


def _plan(settings: Mapping[str, Any]) -> list[Finding]:
    shots = settings["shots"]
    found = []
    if settings["flips"] != [False, False]:
        found.append(
            Finding("warning", "recipe.data", "flips teach that faces are symmetric, which most are not; turn them off")
        )
    if not all(shot["tier"] and shot["view"] for shot in shots):
        return found  # shots that only captions describe
    shares = settings.get("balance") or dict.fromkeys(("close-up", "medium", "full-body"), 1 / 3)
    for tier, share in shares.items():
        block = [shot for shot in shots if shot["tier"] == tier]
        if not 0.8 * share * len(shots) <= len(block) <= 1.2 * share * len(shots):
            aim = f"aim for {f'{share:.0%}' if 'balance' in settings else 'a third each'}, to learn every distance"
            found.append(Finding("warning", "plan", f"{len(block)} of {len(shots)} shots are {tier}; {aim}"))
        if len(block) < 8 or settings.get("class", "woman") not in kinds.WITH_FACE:
            continue
        profiles = sum(shot["view"] == "side profile" for shot in block)
        if profiles != 2:
            found.append(
                Finding(
                    "warning", "plan", f"{profiles} profiles among the {tier} shots; use 2, to learn the silhouette"
                )
            )
        tipped = [shot for shot in block if "looking up" in shot["expression"]]
        if not tipped:
            why = "else the model tips the head back only for laughing"
            found.append(Finding("warning", "plan", f"no {tier} shot looks up with the head tipped back; {why}"))
        for shot in tipped:
            if "laugh" in shot["expression"]:
                found.append(
                    Finding("warning", shot["name"], "combines looking up and laughing; show them in separate shots")
                )
        bands = Counter(band for shot in block for word, band in EMOTIONS.items() if word in shot["expression"].split())
        twice = [band for band, times in bands.items() if times > 1]
        missing = [band for band in dict.fromkeys(EMOTIONS.values()) if band not in bands]
        if twice:
            found.append(
                Finding("warning", "plan", f"{', '.join(twice)} more than once among the {tier} shots; vary it")
            )
        if missing:
            found.append(Finding("warning", "plan", f"no {', '.join(missing)} among the {tier} shots; add one of each"))
        if tier != "medium" and not any(shot["view"] == "seen from behind" for shot in block):
            found.append(Finding("warning", "plan", f"no {tier} shot from behind; add one"))
    return found


def _sets(items: Sequence[Item], settings: Mapping[str, Any]) -> list[Finding]:
    """Captions of extra data sets: with the trigger if they show the character, without it for regularisation."""
    trigger, found = settings["trigger"], []
    for part in settings.get("sets", ()):
        if any(part["flips"]) and not part["regularization"]:
            what = "flips teach that faces are symmetric, which most are not; turn them off"
            found.append(Finding("warning", f"datasets.{part['name']}", what))
        for item in items:
            if item.part != part["name"] or item.caption is None:
                continue
            times = words.count(item.caption, trigger)
            if part["regularization"] and times:
                what = f"contains the trigger {trigger}, but regularisation images show others; remove it"
                found.append(Finding("error", item.text, what))
            elif not part["regularization"]:
                if times != 1:
                    meant = _placeholder(item.caption, trigger)
                    what = f"has the trigger {trigger} {times} times; use it once if the image shows the character"
                    found.append(Finding("warning", item.text, f"{what}, else set regularization: true{meant}"))
                found += _worded(item)
    return found


def _images(items: Sequence[Item], settings: Mapping[str, Any]) -> list[Finding]:
    found = []
    smallest = {part["name"]: part.get("minimum", 64) for part in settings.get("sets", ())}
    own = {part["name"]: part["resolutions"] for part in settings.get("sets", ()) if "resolutions" in part}
    seen = [item for item in items if item.facts is not None]
    for item in seen:
        width, height = item.facts["size"]
        minimum = smallest.get(item.part, 64) if item.part else settings["minimum"]
        if min(width, height) < minimum:
            what = f"{width}x{height} has a side below {minimum} pixels; use a larger image"
            found.append(Finding("error", item.picture, what))
        if line := buckets.problem(width, height, own.get(item.part, settings.get("resolutions", ()))):
            found.append(Finding("warning", item.picture, line))
        found += [Finding("warning", item.picture, pictures.NOTES[note]) for note in item.facts.get("notes", ())]
        if item.facts["sharpness"] < SHARP:
            found.append(Finding("warning", item.picture, "looks blurred, and the LoRA would learn that; replace it"))
    for one, other, distance in _twins(seen):
        pair = f"{one.picture}, {other.picture}"
        if distance < SAME:
            # An extra data set may repeat images of the plan on purpose.
            level = "warning" if one.part or other.part else "error"
            found.append(Finding(level, pair, "are the same image; replace one of them"))
        else:
            found.append(Finding("warning", pair, "are almost the same image; replace one of them"))
    found += _watermark([item.facts for item in seen if not item.part], "error", "images", "crop.right and crop.bottom")
    for part in smallest:
        facts = [item.facts for item in seen if item.part == part]
        found += _watermark(facts, "warning", f"datasets.{part}", "right and bottom of its crop")
    return found


def _twins(items: Sequence[Item]) -> list[tuple[Item, Item, float]]:
    """Images that are the same or nearly the same as an earlier one: (earlier, image, mean difference of thumbnails).

    Only the nearest earlier image counts, so that a folder of copies gives one finding per image, not one per pair.
    """
    if len(items) < 2:
        return []
    thumbs = np.array([item.facts["thumb"] for item in items], dtype=np.float32).reshape(-1, THUMB, THUMB)
    # Means of 8 x 8 blocks differ by no more than the thumbnails, so they are a fast first filter.
    blocks = thumbs.reshape(-1, THUMB // 8, 8, THUMB // 8, 8).mean(axis=(2, 4)).reshape(len(items), -1)
    found = []
    for index, item in enumerate(items[1:], 1):
        near = np.flatnonzero(np.abs(blocks[:index] - blocks[index]).mean(axis=1) < NEAR)
        if len(near):
            distances = np.abs(thumbs[near] - thumbs[index]).mean(axis=(1, 2))
            nearest = int(distances.argmin())
            if distances[nearest] < NEAR:
                found.append((items[near[nearest]], item, float(distances[nearest])))
    return found


def _watermark(images: Sequence[Mapping[str, Any]], level: str, where: str, knobs: str) -> list[Finding]:
    """A shape in the bottom right corner of most images.

    The median of each corner is subtracted; the median over the images keeps what they share. The mirrored left corner
    serves as the level without a watermark.
    """
    if len(images) < 6:
        return []
    shared = {}
    for side in ("right", "left"):
        corners = np.array([fact[side] for fact in images], dtype=np.float32).reshape(-1, CORNER, CORNER)
        flat = np.median(corners, axis=(1, 2), keepdims=True)
        middle = np.median(corners - flat, axis=0)
        shared[side] = float(np.percentile(np.abs(middle), 95))
    if shared["right"] > MARK and shared["right"] > 2.5 * shared["left"]:
        remedy = f"raise {knobs}, or the LoRA will learn it"
        return [Finding(level, where, f"most images have the same mark in the bottom right corner; {remedy}")]
    return []
