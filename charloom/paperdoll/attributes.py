"""The vocabulary of the paper-doll world: what a doll *is* and what it *does*.

An :class:`Identity` never changes within a character; a :class:`Scene` is one picture of it.
The two are independent by construction, which is what lets a probe tell "same person" from
"same clothes". This module knows values and how to draw random ones; it knows nothing of
pixels (``draw``) or of words (``language``).
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

SKIN = ("porcelain", "fair", "olive", "tan", "brown", "dark")
HAIR_COLOR = ("black", "dark brown", "chestnut brown", "blonde", "platinum blonde", "ginger red", "silver gray")
HAIR_STYLE = (
    "long wavy",
    "long straight",
    "short straight bob",
    "shoulder-length wavy",
    "short pixie",
    "curly",
    "high ponytail",
    "braided",
)
EYE_COLOR = ("deep brown", "hazel", "green", "blue", "gray")
EYE_SIZE = ("small", "medium", "large")
FACE_WIDTH = ("narrow", "oval", "round")
BROWS = ("thin", "medium", "thick")
LIPS = ("thin", "medium", "full")
FRECKLES = ("none", "freckles")

TIER = ("close-up", "medium", "full-body")
VIEW = ("frontal", "three-quarter", "profile", "back")
EXPRESSION = (
    "laughing",
    "joyful",
    "smile",
    "neutral",
    "serious",
    "contemplative",
    "sad",
    "looking up",
    "surprised",
    "skeptical",
    "crying",
    "serene",
)
LONG_HAIR = ("long wavy", "long straight")
NEEDS_EYES = ("serious", "contemplative", "looking up", "crying", "serene")
"""Expressions that sunglasses make unreadable."""
ARMS = ("at sides", "crossed", "on hips", "waving", "raised", "on chin", "mug", "book")
STANCE = ("standing", "walking", "sitting", "jumping")
OUTFIT = (
    "tank top",
    "t-shirt",
    "button-up shirt",
    "hoodie",
    "turtleneck",
    "striped sweater",
    "pantsuit",
    "trench coat",
    "sundress",
    "evening gown",
    "overalls",
    "pajamas",
)
COLOR = (
    "white",
    "black",
    "gray",
    "beige",
    "brown",
    "red",
    "pink",
    "orange",
    "yellow",
    "green",
    "teal",
    "navy blue",
    "purple",
)
EARRINGS = ("none", "hoops", "pearls")
NECKLACE = ("none", "chain", "pendant")
GLASSES = ("none", "round", "sunglasses")
HAT = ("none", "beanie", "straw hat")
BACKGROUND = (
    "light gray studio",
    "white studio",
    "dark studio",
    "warm beige studio",
    "bedroom",
    "cafe",
    "kitchen",
    "library",
    "park",
    "beach",
    "city street",
    "neon night",
    "sunset field",
    "snowy mountains",
)


@dataclass(frozen=True)
class Identity:
    """What makes a doll the same person in every picture."""

    skin: str = "olive"
    hair_color: str = "dark brown"
    hair_style: str = "long wavy"
    eye_color: str = "deep brown"
    eye_size: str = "medium"
    face_width: str = "oval"
    brows: str = "medium"
    lips: str = "medium"
    freckles: str = "none"


@dataclass(frozen=True)
class Scene:
    """What one picture shows besides the person."""

    tier: str = "close-up"
    view: str = "frontal"
    expression: str = "neutral"
    arms: str = "at sides"
    stance: str = "standing"
    outfit: str = "t-shirt"
    color: str = "white"
    earrings: str = "none"
    necklace: str = "none"
    glasses: str = "none"
    hat: str = "none"
    background: str = "light gray studio"


IDENTITY_VALUES: dict[str, tuple[str, ...]] = {
    "skin": SKIN,
    "hair_color": HAIR_COLOR,
    "hair_style": HAIR_STYLE,
    "eye_color": EYE_COLOR,
    "eye_size": EYE_SIZE,
    "face_width": FACE_WIDTH,
    "brows": BROWS,
    "lips": LIPS,
    "freckles": FRECKLES,
}
SCENE_VALUES: dict[str, tuple[str, ...]] = {
    "tier": TIER,
    "view": VIEW,
    "expression": EXPRESSION,
    "arms": ARMS,
    "stance": STANCE,
    "outfit": OUTFIT,
    "color": COLOR,
    "earrings": EARRINGS,
    "necklace": NECKLACE,
    "glasses": GLASSES,
    "hat": HAT,
    "background": BACKGROUND,
}
TABLES = {**IDENTITY_VALUES, **SCENE_VALUES}
"""Every attribute with its values, in the order in which probes read them."""


def visible(scene: Scene, identity: Identity | None = None) -> dict[str, bool]:
    """Which attributes can be read from a picture of ``scene`` (keys of both classes).

    A back view shows no face and, close up, little but hair; a close-up shows neither arms nor
    stance; sunglasses hide the eyes; in full-body pictures the finest features are too small. With ``identity``
    also what her hair hides: long hair falls over the back, where only the colour of the clothes shows.
    """
    face = scene.view != "back"
    near = scene.tier != "full-body"
    profile = scene.view == "profile"
    close_back = not face and scene.tier == "close-up"
    covered = not face and near and identity is not None and identity.hair_style in LONG_HAIR
    eyes = face and scene.glasses != "sunglasses"
    iris = eyes and scene.expression not in ("laughing", "serene")
    mouth = face and near and not profile and scene.expression not in ("laughing", "joyful", "surprised", "crying")
    return {
        "skin": not close_back,
        "hair_color": True,
        "hair_style": scene.hat == "none",
        "eye_color": iris and (near or not profile),
        "eye_size": iris,
        "face_width": face and not profile,
        "brows": eyes and near,
        "lips": mouth,
        "freckles": face and near,
        "tier": True,
        "view": True,
        "expression": face and not (scene.glasses == "sunglasses" and scene.expression in NEEDS_EYES),
        "arms": scene.tier != "close-up" and (face or scene.arms in ("at sides", "on hips", "waving", "raised")),
        "stance": scene.tier == "full-body",
        "outfit": not close_back and not covered,
        "color": not close_back,
        "earrings": face and near,
        "necklace": face and near and not profile and scene.outfit not in ("turtleneck", "hoodie"),
        "glasses": face,
        "hat": True,
        "background": True,
    }


def random_identity(rng: random.Random) -> Identity:
    """An identity drawn uniformly over all values."""
    return Identity(**{key: rng.choice(values) for key, values in IDENTITY_VALUES.items()})


def random_scene(rng: random.Random) -> Scene:
    """A scene drawn independently of any identity; accessories are absent in most pictures."""
    picked = {key: rng.choice(values) for key, values in SCENE_VALUES.items()}
    for key, share in {"earrings": 0.55, "necklace": 0.6, "glasses": 0.75, "hat": 0.8}.items():
        if rng.random() < share:
            picked[key] = "none"
    picked["view"] = rng.choices(VIEW, (4, 3, 2, 1.2))[0]
    if picked["glasses"] == "sunglasses" and picked["expression"] in NEEDS_EYES:
        picked["expression"] = rng.choice([e for e in EXPRESSION if e not in NEEDS_EYES])
    return normalise(Scene(**picked))


def normalise(scene: Scene) -> Scene:
    """Set what cannot be seen to its default, so that equal pictures have equal descriptions.

    Clothes stay: even where hair covers them, something has to be drawn.
    """
    seen = visible(scene)
    default = Scene()
    hidden = (key for key in SCENE_VALUES if not seen[key] and key not in ("outfit", "color"))
    return dataclasses.replace(scene, **{key: getattr(default, key) for key in hidden})
