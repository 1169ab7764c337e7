"""Draws an (identity, scene) as a flat illustration with Pillow, the same at every size.

The person is drawn on its own supersampled layer, reduced, and pasted on a cached backdrop with a thin rim of light or
shade between the two, so that black hair on a dark wall and a white shirt on a white one keep their outline.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from charloom.paperdoll.art.backgrounds import MARGIN, VARIANTS, backdrop
from charloom.paperdoll.art.body import draw_arms
from charloom.paperdoll.art.face import (
    Face,
    draw_brows,
    draw_earrings,
    draw_eyes,
    draw_glasses,
    draw_hat,
    draw_head,
    draw_mouth,
)
from charloom.paperdoll.art.hair import draw_back_hair, draw_back_view, draw_front_hair
from charloom.paperdoll.art.outfits import Outfit
from charloom.paperdoll.art.pen import Pen
from charloom.paperdoll.looks import Look, outlined

from .attributes import Identity, Scene

_DARK_BACKGROUNDS = ("dark studio", "neon night", "library", "cafe")
_TINTS = ((255, 255, 255), (255, 250, 242), (247, 250, 255), (255, 247, 249))
_FEET = 5.62
_SEAT = 4.08


def _supersample(size: int) -> int:
    if size <= 384:
        return 3
    return 2


def _camera(identity: Identity, scene: Scene, rng: random.Random) -> tuple[float, float, float]:
    """(unit, x, y): pixels per figure unit, and the position of the head's centre as shares of the picture."""
    zoom, dx, dy = 1 + rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03), rng.uniform(-0.015, 0.015)
    crown = 1.36
    if identity.hair_style == "curly":
        crown = 1.62
    if identity.hair_style == "high ponytail":
        crown = 1.58
    if scene.hat != "none":
        crown = max(crown, 1.84 if scene.hat == "beanie" else 1.68)
    if scene.tier == "close-up":
        unit = 0.266 - 0.03 * (crown - 1.36)
        return unit * zoom, 0.5 + dx, 0.035 + crown * unit + dy
    if scene.tier == "medium":
        unit = 0.92 / (crown + 2.85)
        return unit * zoom, 0.5 + dx, 0.04 + crown * unit + dy
    low = _SEAT if scene.stance == "sitting" else _FEET
    unit = 0.945 / (crown + low)
    return unit * (1 + 0.02 * (zoom - 1)), 0.5 + dx, 0.025 + crown * unit


@lru_cache(maxsize=8)
def _lighting(size: int) -> Image.Image:
    """A gentle fall-off of light to the lower right, multiplied onto the person."""
    n = 64
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n))
    fall = np.clip(1.0 - 0.1 * np.clip(0.6 * y + 0.5 * x - 0.35, 0, 1), 0, 1)
    rgb = np.stack([fall, fall**1.25, fall**0.9], axis=-1)
    return Image.fromarray((rgb * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)


def _person(pen: Pen, identity: Identity, scene: Scene, tilt: float) -> None:
    """All layers of the person, from back to front."""
    stance = scene.stance if scene.tier == "full-body" else "standing"
    arms = scene.arms if scene.tier != "close-up" else "at sides"
    face = Face(identity, scene)
    outfit = Outfit(scene, face.skin, stance, face.up)
    sleeve = outfit.sleeve()
    view = scene.view
    if face.up and face.profile:
        tilt -= 14
    head = pen.turned(tilt, 0.0, 0.95)

    draw_back_hair(head, face)
    outfit.draw_behind(pen)
    draw_arms(pen, view, arms, face.skin, sleeve, "behind")
    lap = stance == "sitting" and view != "back"  # crossed legs lie in front of the trunk
    if not lap and scene.tier != "close-up":
        outfit.draw_legs(pen)
    outfit.draw_torso(pen)
    outfit.draw_necklace(pen)
    if lap:
        outfit.draw_legs(pen)
    draw_arms(pen, view, arms, face.skin, sleeve, "body")
    if view == "back":
        draw_back_view(head, face)
        draw_hat(head, face)
        return
    draw_head(head, face)
    draw_mouth(head, face)
    if scene.glasses != "sunglasses":
        draw_eyes(head, face)
    draw_front_hair(head, face)
    draw_hat(head, face)
    draw_brows(head, face)
    draw_glasses(head, face)
    draw_earrings(head, face)
    draw_arms(pen, view, arms, face.skin, sleeve, "over")


def draw(
    identity: Identity,
    scene: Scene,
    size: int = 256,
    seed: int = 0,
    supersample: int | None = None,
    frame: float = 1.0,
    look: Look | None = None,
) -> Image.Image:
    """Draw ``identity`` in ``scene``: RGB, ``size`` by ``size``, the same picture for the same arguments.

    ``frame`` is the share of width and height, from the top left, that the person is composed for: what lies to the
    right of it and below may be cropped off later. ``look`` is a technique other than the flat one.
    """
    rng = random.Random(seed)
    flip, mirror_wall = rng.random() < 0.5, rng.random() < 0.5
    variant = rng.randrange(VARIANTS)
    tint = rng.choice(_TINTS)
    unit, x, y = (value * frame for value in _camera(identity, scene, rng))
    tilt = rng.uniform(-4.0, 4.0)
    wander = rng.random(), rng.random()

    factor = supersample or _supersample(size)
    canvas = size * factor
    dark = scene.background in _DARK_BACKGROUNDS
    rim = (236, 226, 232) if dark else (92, 76, 100)

    # Backdrop: cached small, cropped at a random place, enlarged for big pictures.
    small = min(size, 640)
    wall = backdrop(scene.background, variant, round(small * MARGIN))
    slack = wall.width - small
    left, top = (int(v * slack + 0.5) for v in wander)
    if scene.tier == "full-body":
        top = slack  # the ground belongs at the bottom
    picture = wall.crop((left, top, left + small, top + small))
    if mirror_wall:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if small != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    if scene.tier == "full-body":
        _ground_shadow(picture, unit, x, y, scene.stance)
    if look:
        picture = look.ground(picture)

    layer = Image.new("RGBA", (canvas, canvas), (*rim, 0))
    pen = Pen(layer, unit * canvas, x * canvas, y * canvas, flip, 1.25 * canvas / 256)
    _person(pen, identity, scene, tilt)
    if factor > 1:
        layer = layer.reduce(factor)
    mask = layer.getchannel("A")
    if look:
        picture = outlined(picture, mask, look)
    else:
        _paste_rim(picture, mask, rim, 0.6 if dark else 0.42)
    person = ImageChops.multiply(layer.convert("RGB"), _lighting(size))
    picture.paste(person, mask=mask)
    if tint != (255, 255, 255):
        picture = ImageChops.multiply(picture, _solid(size, tint))
    return picture


@lru_cache(maxsize=16)
def _solid(size: int, colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


@lru_cache(maxsize=8)
def _strength(share: float) -> list[int]:
    return [min(255, int(v * 1.7 * share)) if v * 1.7 < 255 else int(255 * share) for v in range(256)]


def _paste_rim(picture: Image.Image, mask: Image.Image, colour: tuple[int, int, int], share: float) -> None:
    """Paste a soft contour around the person, computed at no more than 256 px: it is blurred anyway."""
    size = mask.width
    small = mask if size <= 256 else mask.resize((256, 256), Image.Resampling.BOX)
    halo = small.filter(ImageFilter.GaussianBlur(1.6)).point(_strength(share))
    if size > 256:
        halo = halo.resize((size, size), Image.Resampling.BICUBIC)
    picture.paste(colour, mask=halo)


def _ground_shadow(picture: Image.Image, unit: float, x: float, y: float, stance: str) -> None:
    size = picture.width
    low = _SEAT - 0.12 if stance == "sitting" else _FEET
    rx = unit * (1.6 if stance == "sitting" else 0.95 if stance == "jumping" else 1.15)
    cx, cy, ry = x, min(0.985, y + (low - 0.02) * unit), unit * 0.17
    n = 48
    g = np.linspace(-1, 1, n)
    soft = Image.fromarray((np.clip(1.15 - np.hypot(g[:, None], g[None, :]), 0, 0.5) * 2 * 120).astype(np.uint8))
    box = (int((cx - rx) * size), int((cy - ry) * size), int((cx + rx) * size), int((cy + ry) * size))
    picture.paste((52, 40, 62), box, soft.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR))


def stamp_watermark(image: Image.Image) -> Image.Image:
    """Add the soft four-pointed star that closed generators stamp in the bottom-right corner.

    It lies within the outermost 150 px of a 2048 px picture, and scales with the picture.
    """
    scale = image.width / 2048
    radius, centre = 52 * scale, 82 * scale
    over = 4
    box = max(4, math.ceil(2 * radius))
    big = Image.new("L", (box * over, box * over), 0)
    c = box * over / 2
    r = radius * over
    points = []
    for i in range(96):
        a = 2 * math.pi * i / 96
        # An astroid: |x|^(2/3) + |y|^(2/3) = r^(2/3).
        points.append(
            (
                c + r * math.copysign(abs(math.cos(a)) ** 3, math.cos(a)),
                c + r * math.copysign(abs(math.sin(a)) ** 3, math.sin(a)),
            )
        )
    ImageDraw.Draw(big).polygon(points, fill=168)
    mask = big.reduce(over)
    out = image.copy()
    corner = (round(image.width - centre - box / 2), round(image.height - centre - box / 2))
    out.paste((255, 255, 255), (*corner, corner[0] + box, corner[1] + box), mask)
    return out
