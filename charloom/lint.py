"""What is wrong with a data set before hours are spent on it.

Errors stop the workflow, warnings are listed and left to the user. Captions and plan are judged by their
words, images by a few facts each (:func:`facts`), which can be kept because they depend on the bytes
alone. No network is asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charloom.character import count_word
from charloom.crop import FLATTENED
from charloom.train import buckets

USABLE_TOKENS = 504
"""Room for a caption of Z-Image: 512 tokens less the 8 of the chat template."""
TOKENS_PER_WORD = 1.5
LONG_WORDS = 90
SHARP = 12.0
"""Variance of the Laplacian (grey levels squared, 512 pixels wide) below which an image looks blurred."""
SAME = 0.4
NEAR = 3.0
"""Mean difference of two 64-pixel thumbnails (grey levels) that makes them the same, or nearly."""
MARK = 6.0
"""Contrast (grey levels) that must stand in the same corner of most images to pass for a watermark."""

THUMB = 64
CORNER = 24
CORNER_SHARE = 0.1

ORDINARY = frozenset(
    """adam alice anna ben bella black blonde blue brown camila clara dark david elena ella emily emma eva face
    female girl green hair hanna hannah jane john julia kate laura leila lena leyla light lily linda lisa lucy
    man mara maria marie mary maya mia model mona nadia name nina nora olga olivia orla person peter photo pink
    portrait queen red rosa rose sara sarah shot sofia sophia star style token vera white woman yuna""".split()
)
"""Words and first names that a model has a picture of already; a hint, not a dictionary."""

IDENTITY_WORDS = (
    "cheekbone", "cheekbones", "complexion", "eyebrow", "eyebrows", "face shape", "jawline", "lips", "nose",
    "skin", "skin tone", "eyelashes", "chin dimple", "freckles", "oval face", "round face", "almond-shaped",
)  # fmt: skip
EMOTIONS = {
    "laughing": "laughing", "joyful": "joyful", "smile": "smile", "smiling": "smile", "neutral": "neutral",
    "serious": "serious", "contemplative": "contemplative", "thoughtful": "contemplative", "sad": "sad",
    "melancholic": "sad",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One remark: ``level`` is error or warning, ``where`` an image, a caption or the plan."""

    level: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}"


def lint(dataset: Path, settings: dict[str, Any], facts_of: Callable[[Path], dict[str, Any]]) -> list[Finding]:
    """All findings about the images and captions in ``dataset``, errors first.

    ``facts_of`` gives :func:`facts` of an image, from wherever they are kept.
    """
    names = [shot["name"] for shot in settings["shots"]]
    captions = {name: (dataset / f"{name}.txt").read_text(encoding="utf-8").strip() for name in names}
    images = {name: facts_of(dataset / f"{name}.png") for name in names}
    found = [
        *_trigger(settings),
        *_captions(captions, settings),
        *_plan(settings),
        *([Finding("warning", "recipe", settings["rate"])] if "rate" in settings else []),
        *_sets(dataset, settings),
        *_images(images, settings),
        *stray(settings),
    ]
    return sorted(found, key=lambda finding: finding.level)


def stray(settings: dict[str, Any]) -> list[Finding]:
    """Captions beside the user's images that belong to none."""
    remedy = "no image of a shot is called like it, so it is not read; rename or delete it"
    return [Finding("warning", name, remedy) for name in settings.get("stray", ())]


def as_record(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as plain values, with the number of each level."""
    levels = Counter(finding.level for finding in findings)
    counts = {"errors": levels["error"], "warnings": levels["warning"]}
    return {**counts, "findings": [asdict(finding) for finding in findings]}


def facts(path: Path) -> dict[str, Any]:
    """What the checks need to know of an image, as plain values.

    ``size`` (width, height); ``sharpness``, variance of the Laplacian at 512 pixels; ``thumb``, 64 x 64 grey
    levels; ``right`` and ``left``, the bottom corners as 24 x 24 grey levels, the left one mirrored; ``flattened``,
    only where it is true, if it was transparent before the crop.
    """
    from PIL import Image

    with Image.open(path) as opened:
        size = opened.size
        flattened = opened.info.get("Comment") == FLATTENED
        grey = opened.convert("L")
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
        **({"flattened": True} if flattened else {}),
    }


def _laplacian(grey: np.ndarray) -> np.ndarray:
    return 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]


def _trigger(settings: dict[str, Any]) -> list[Finding]:
    trigger = settings["trigger"]
    found = []
    if trigger.lower() in ORDINARY:
        remedy = "change a letter to a digit, as in l3yla"
        found.append(Finding("error", "trigger", f"{trigger} is a word or name that models know already; {remedy}"))
    elif trigger.isalpha() and trigger.lower() != "ohwx":
        found.append(Finding("warning", "trigger", f"{trigger} has letters only, models may know it; put a digit in"))
    if not 4 <= len(trigger) <= 6:
        advice = "4 to 6 make few tokens and are easy to type"
        found.append(Finding("warning", "trigger", f"{trigger} has {len(trigger)} characters; {advice}"))
    return found


def _captions(captions: dict[str, str], settings: dict[str, Any]) -> list[Finding]:
    trigger, found = settings["trigger"], []
    for name, text in captions.items():
        times = count_word(text, trigger)
        if times != 1:
            what = "is missing" if not times else f"is there {times} times"
            found.append(
                Finding("error", f"{name}.txt", f"the trigger {trigger} {what}; it must be there exactly once")
            )
        words = len(text.split())
        if words * TOKENS_PER_WORD > USABLE_TOKENS:
            limit = f"only {USABLE_TOKENS} tokens are read"
            found.append(Finding("error", f"{name}.txt", f"has {words} words, and {limit}; shorten it"))
        elif words > LONG_WORDS:
            found.append(Finding("warning", f"{name}.txt", f"has {words} words; name what varies and no more"))
        told = [word for word in IDENTITY_WORDS if count_word(text, word)]
        if told:
            why = "is identity, which the trigger must carry; take it out"
            found.append(Finding("warning", f"{name}.txt", f"{', '.join(told)}: {why}"))
        shot = next(shot for shot in settings["shots"] if shot["name"] == name)
        if shot["view"] == "seen from behind" and re.search(r"\beyes\b", text):
            found.append(
                Finding("warning", f"{name}.txt", "names the eyes, which a back view does not show; take them out")
            )
    for text, times in Counter(captions.values()).items():
        if times > 1:
            same = ", ".join(f"{name}.txt" for name, other in captions.items() if other == text)
            found.append(Finding("warning", same, "are word for word the same; say what differs between the images"))
    return found


def _plan(settings: dict[str, Any]) -> list[Finding]:
    shots = settings["shots"]
    found = []
    if settings["flips"] != [False, False]:
        found.append(
            Finding("warning", "recipe.data", "flips teach that a face is symmetric; most are not; turn them off")
        )
    if not all(shot["tier"] and shot["view"] for shot in shots):
        return found  # what captions alone describe is not known well enough to be judged
    third = len(shots) / 3
    for tier in ("close-up", "medium", "full-body"):
        block = [shot for shot in shots if shot["tier"] == tier]
        if not 0.8 * third <= len(block) <= 1.2 * third:
            many = f"{len(block)} of {len(shots)} shots are {tier}"
            found.append(Finding("warning", "plan", f"{many}; a third each teaches every distance"))
        if len(block) < 8:
            continue
        profiles = sum(shot["view"] == "side profile" for shot in block)
        if profiles != 2:
            found.append(
                Finding("warning", "plan", f"{profiles} profiles among the {tier} shots; 2 teach the silhouette")
            )
        tipped = [shot for shot in block if "looking up" in shot["expression"]]
        if not tipped:
            why = "without it the head goes back only when laughing"
            found.append(Finding("warning", "plan", f"no {tier} shot looks up with the head tipped back; {why}"))
        for shot in tipped:
            if "laugh" in shot["expression"]:
                found.append(Finding("warning", shot["name"], "looks up and laughs; the two must be seen apart"))
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


def _sets(dataset: Path, settings: dict[str, Any]) -> list[Finding]:
    """Captions of further data sets: the trigger names the character, and nobody on a regularisation image."""
    trigger, found = settings["trigger"], []
    for part in settings.get("sets", ()):
        if any(part["flips"]) and not part["regularization"]:
            what = "flips teach that a face is symmetric; most are not; turn them off"
            found.append(Finding("warning", f"datasets.{part['name']}", what))
        for name in part["items"]:
            text = (dataset / f"{name}.txt").read_text(encoding="utf-8")
            if len(text.split()) * TOKENS_PER_WORD > USABLE_TOKENS:
                what = f"has {len(text.split())} words, and only {USABLE_TOKENS} tokens are read; shorten it"
                found.append(Finding("error", f"{name}.txt", what))
            times = count_word(text, trigger)
            if part["regularization"] and times:
                what = f"holds the trigger {trigger}, but regularisation images show others; take it out"
                found.append(Finding("error", f"{name}.txt", what))
            elif not part["regularization"] and times != 1:
                what = f"has the trigger {trigger} {times} times; once if it shows the character"
                found.append(Finding("warning", f"{name}.txt", f"{what}, else set regularization: true"))
    return found


def _images(images: dict[str, dict[str, Any]], settings: dict[str, Any]) -> list[Finding]:
    found = []
    for name, fact in images.items():
        width, height = fact["size"]
        if min(width, height) < settings["minimum"]:
            limit = f"less than {settings['minimum']} pixels at an edge"
            found.append(Finding("error", f"{name}.png", f"{width}x{height} is {limit}; use a larger image"))
        if line := buckets.problem(width, height, settings.get("resolutions", ())):
            found.append(Finding("warning", f"{name}.png", line))
        if fact.get("flattened"):
            what = "was transparent and stands on white now; give it a background of its own"
            found.append(Finding("warning", f"{name}.png", what))
        if fact["sharpness"] < SHARP:
            found.append(Finding("warning", f"{name}.png", "looks blurred; a LoRA learns that too; replace it"))
    thumbs = np.array([fact["thumb"] for fact in images.values()], dtype=np.float32)
    names = list(images)
    for index, name in enumerate(names[:-1]):
        distances = np.abs(thumbs[index + 1 :] - thumbs[index]).mean(axis=1)
        for other, distance in zip(names[index + 1 :], distances, strict=True):
            pair = f"{name}.png, {other}.png"
            if distance < SAME:
                found.append(Finding("error", pair, "are the same image; replace one of them"))
            elif distance < NEAR:
                found.append(Finding("warning", pair, "are almost the same image; replace one of them"))
    return found + _watermark(images)


def _watermark(images: dict[str, dict[str, Any]]) -> list[Finding]:
    """A shape that stands in the bottom right corner of most images whatever is behind it.

    What is flat around it is taken off; the median over the images keeps what they share. The left corner,
    mirrored, tells how much they share without a watermark.
    """
    if len(images) < 6:
        return []
    shared = {}
    for side in ("right", "left"):
        corners = np.array([fact[side] for fact in images.values()], dtype=np.float32).reshape(-1, CORNER, CORNER)
        flat = np.median(corners, axis=(1, 2), keepdims=True)
        middle = np.median(corners - flat, axis=0)
        shared[side] = float(np.percentile(np.abs(middle), 95))
    if shared["right"] > MARK and shared["right"] > 2.5 * shared["left"]:
        remedy = "raise crop.right and crop.bottom, or it will be learnt"
        return [Finding("error", "images", f"the same mark is in the bottom right corner of most of them; {remedy}")]
    return []
