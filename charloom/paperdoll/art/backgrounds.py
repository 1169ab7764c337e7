"""Fourteen backdrops, drawn once at a small fixed resolution and cached.

A backdrop is softer and paler than the person, so that the person stands out; drawing it small and enlarging it for big
pictures is fast and gives the blur of a portrait lens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from charloom.paperdoll.art.pen import Colour, light, mix, shade

MARGIN = 1.1  # drawn this much larger than the picture, so that the crop can wander
VARIANTS = 6


class Wall:
    """A canvas in coordinates from 0 to 1."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.image = Image.new("RGB", (size, size))
        self.draw = ImageDraw.Draw(self.image)

    def gradient(self, *stops: tuple[float, Colour]) -> None:
        """Vertical gradient through (height, colour) stops."""
        y = (np.arange(self.size) + 0.5) / self.size
        rows = np.stack([np.interp(y, [s[0] for s in stops], [s[1][c] for s in stops]) for c in range(3)], axis=1)
        column = Image.fromarray(np.round(rows).astype(np.uint8)[:, None, :])
        self.image.paste(column.resize((self.size, self.size), Image.Resampling.NEAREST))

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 1.0) -> None:
        """A soft round light."""
        n = 64
        g = (np.arange(n) + 0.5) / n * 2 - 1
        d = np.clip(1 - np.hypot(g[:, None], g[None, :]), 0, 1) ** 1.5
        mask = Image.fromarray((d * 255 * strength).astype(np.uint8))
        px = max(2, int(2 * radius * self.size))
        mask = mask.resize((px, px), Image.Resampling.BILINEAR)
        self.image.paste(colour, (int((x - radius) * self.size), int((y - radius) * self.size)), mask)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, round_: float = 0.0) -> None:
        s = self.size
        xy = (min(x0, x1) * s, min(y0, y1) * s, max(x0, x1) * s, max(y0, y1) * s)
        if round_:
            self.draw.rounded_rectangle(xy, round_ * s, fill=fill)
        else:
            self.draw.rectangle(xy, fill=fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        s = self.size
        self.draw.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=fill)

    def area(self, *points: tuple[float, float], fill: Colour) -> None:
        self.draw.polygon([v * self.size for p in points for v in p], fill=fill)

    def stroke(self, *points: tuple[float, float], fill: Colour, width: float) -> None:
        self.draw.line([v * self.size for p in points for v in p], fill=fill, width=max(1, round(width * self.size)))


def _studio(centre: Colour, rim: Colour) -> Callable[[Wall, random.Random], None]:
    def paint(wall: Wall, rng: random.Random) -> None:
        n = 96
        x, y = np.meshgrid((np.arange(n) + 0.5) / n, (np.arange(n) + 0.5) / n)
        d = (
            np.clip(np.hypot(x - rng.uniform(0.35, 0.65), (y - rng.uniform(0.3, 0.5)) * 0.9) / 0.78, 0, 1)[..., None]
            ** 1.6
        )
        floor = np.clip((y - 0.86) / 0.05, 0, 1)[..., None]
        rgb = np.array(centre) * (1 - d) + np.array(rim) * d
        rgb = rgb + floor * (np.array(rim) - rgb) * 0.35
        wall.image.paste(Image.fromarray(rgb.astype(np.uint8)).resize((wall.size, wall.size), Image.Resampling.BICUBIC))

    return paint


def _bedroom(w: Wall, r: random.Random) -> None:
    w.gradient((0, (236, 214, 222)), (0.7, (228, 200, 212)), (1, (214, 184, 196)))
    for i in range(12):
        w.box(i / 12, 0, i / 12 + 0.035, 0.66, (240, 221, 228))
    w.box(0, 0.84, 1, 1, (206, 168, 142))
    w.box(0.04, 0.06, 0.37, 0.5, (252, 247, 242))
    w.box(0.065, 0.085, 0.345, 0.475, (190, 220, 246))
    w.oval(0.27, 0.17, 0.05, 0.05, (255, 246, 214))
    w.area(
        (0.065, 0.475), (0.065, 0.38), (0.16, 0.33), (0.26, 0.4), (0.345, 0.36), (0.345, 0.475), fill=(178, 208, 174)
    )
    w.box(0.195, 0.06, 0.213, 0.5, (252, 247, 242))
    w.box(0.04, 0.27, 0.37, 0.287, (252, 247, 242))
    for x0, x1, t in ((0.0, 0.075, 0.02), (0.335, 0.42, -0.02)):
        w.area((x0, 0.03), (x1, 0.03), (x1 + t, 0.58), (x0, 0.58), fill=(222, 140, 158))
    w.box(0, 0.02, 0.44, 0.045, (150, 102, 84))
    w.box(0.52, 0.42, 1.0, 0.86, (166, 114, 88), 0.07)
    w.box(0.55, 0.46, 1.0, 0.86, (190, 136, 104), 0.05)
    w.box(0.6, 0.6, 0.84, 0.76, (252, 248, 246), 0.05)
    w.box(0.82, 0.62, 1.05, 0.77, (240, 226, 232), 0.05)
    w.box(0.5, 0.73, 1.1, 0.95, (188, 170, 216), 0.04)
    w.box(0.5, 0.73, 1.1, 0.77, (214, 200, 234), 0.02)
    x = r.choice((0.64, 0.72))
    w.box(x, 0.1, x + 0.2, 0.33, (160, 110, 86))
    w.box(x + 0.02, 0.12, x + 0.18, 0.31, (250, 236, 214))
    w.oval(x + 0.1, 0.22, 0.045, 0.055, (226, 150, 150))


def _cafe(w: Wall, r: random.Random) -> None:
    w.gradient((0, (140, 84, 66)), (1, (120, 72, 58)))
    h = 0.062
    for row in range(13):
        for col in range(-1, 8):
            x = col * 0.15 + (row % 2) * 0.075
            tone = mix((176, 104, 80), (156, 90, 70), r.random())
            w.box(x + 0.006, row * h + 0.006, x + 0.144, row * h + h - 0.006, tone)
    w.box(0, 0.78, 1, 1, (112, 76, 58))
    w.box(0, 0.76, 1, 0.795, (148, 102, 74))
    for x, y in ((0.14, 0.2), (0.86, 0.15 + 0.08 * r.random()), (0.5, 0.06)):
        w.glow(x, y + 0.08, 0.24, (255, 208, 130), 0.75)
        w.stroke((x, 0), (x, y), fill=(60, 42, 40), width=0.012)
        w.area(
            (x - 0.035, y - 0.02), (x + 0.035, y - 0.02), (x + 0.1, y + 0.075), (x - 0.1, y + 0.075), fill=(52, 64, 66)
        )
        w.oval(x, y + 0.085, 0.045, 0.035, (255, 240, 186))
    for s in (0, 1):
        x = 0.1 + 0.8 * s
        w.oval(x, 0.74, 0.13, 0.03, (84, 56, 46))
        w.box(x - 0.01, 0.74, x + 0.01, 1, (70, 48, 42))
        w.box(x - 0.04, 0.665, x + 0.04, 0.735, (246, 238, 226), 0.015)


def _kitchen(w: Wall, r: random.Random) -> None:
    w.gradient((0, (206, 232, 224)), (1, (190, 220, 212)))
    t = 0.1
    for i in range(11):
        for j in range(8):
            w.box(
                i * t + 0.006,
                j * t + 0.006,
                i * t + t - 0.006,
                j * t + t - 0.006,
                mix((226, 244, 238), (212, 236, 229), r.random()),
            )
    for y in (0.2, 0.44):
        for x0, x1 in ((0.0, 0.34), (0.66, 1.0)):
            x = x0 + 0.05
            while x < x1 - 0.04:
                kind = r.randrange(3)
                if kind == 0:
                    w.box(
                        x - 0.03,
                        y - 0.1,
                        x + 0.03,
                        y,
                        r.choice(((238, 150, 110), (250, 214, 130), (240, 240, 236))),
                        0.012,
                    )
                    w.box(x - 0.022, y - 0.118, x + 0.022, y - 0.095, (150, 110, 80))
                elif kind == 1:
                    w.oval(x, y - 0.035, 0.045, 0.035, r.choice(((120, 170, 190), (236, 236, 230), (236, 132, 110))))
                    w.box(x - 0.05, y - 0.075, x + 0.05, y - 0.035, (214, 236, 229))
                else:
                    w.box(x - 0.025, y - 0.06, x + 0.025, y, (206, 128, 92), 0.01)
                    w.oval(x, y - 0.085, 0.045, 0.04, (126, 178, 110))
                x += 0.11
            w.box(x0, y, x1, y + 0.026, (188, 140, 98))
    w.box(0, 0.7, 1, 0.745, (244, 238, 228))
    w.box(0, 0.745, 1, 0.95, (126, 174, 176))
    for i in range(5):
        w.box(i * 0.22 - 0.05, 0.77, i * 0.22 + 0.15, 0.93, (146, 192, 192))
        w.box(i * 0.22 + 0.03, 0.795, i * 0.22 + 0.07, 0.81, (240, 226, 190))
    w.box(0, 0.95, 1, 1, (220, 204, 182))


def _library(w: Wall, r: random.Random) -> None:
    w.gradient((0, (98, 70, 54)), (1, (84, 60, 48)))
    books = [
        (160, 78, 66),
        (70, 104, 106),
        (190, 152, 92),
        (92, 112, 82),
        (126, 86, 104),
        (176, 114, 74),
        (84, 90, 124),
        (206, 186, 150),
    ]
    for row in range(4):
        y = 0.015 + row * 0.225
        x = 0.01
        while x < 0.99:
            if abs(x % 0.5) < 0.02:
                x += 0.03
            b, h = r.uniform(0.034, 0.05), r.uniform(0.14, 0.19)
            tone = mix(r.choice(books), (130, 96, 74), 0.25)
            w.box(x, y + 0.2 - h, x + b - 0.006, y + 0.2, tone)
            w.box(x, y + 0.2 - h + 0.03, x + b - 0.006, y + 0.2 - h + 0.044, light(tone, 0.4))
            x += b
        w.box(0, y + 0.2, 1, y + 0.222, (140, 98, 68))
    for x in (0.0, 0.49, 0.98):
        w.box(x - 0.012, 0, x + 0.022, 0.92, (128, 90, 62))
    w.box(0, 0.92, 1, 1, (120, 82, 64))
    w.glow(0.5, 0.1, 0.6, (255, 214, 150), 0.22)


def _park(w: Wall, r: random.Random) -> None:
    w.gradient((0, (176, 220, 246)), (0.55, (226, 242, 244)), (1, (226, 242, 244)))
    for x, y in ((0.5, 0.09), (0.28 + 0.1 * r.random(), 0.2)):
        for dx, q in ((-0.06, 0.035), (0, 0.05), (0.06, 0.035)):
            w.oval(x + dx, y, 0.06, q, (248, 252, 252))
    for i in range(8):
        w.oval(i / 7, 0.6, 0.12, 0.1 + 0.04 * r.random(), (170, 208, 156))
    w.area((0, 0.62), (0.5, 0.59), (1, 0.63), (1, 1), (0, 1), fill=(158, 204, 120))
    w.area((0, 0.8), (0.5, 0.76), (1, 0.8), (1, 1), (0, 1), fill=(140, 190, 106))
    w.area((0.56, 0.6), (0.6, 0.6), (0.86, 1), (0.5, 1), fill=(228, 212, 176))
    for x, y, k in ((0.08, 0.3, 1.0), (0.93, 0.24 + 0.05 * r.random(), 1.1)):
        w.box(x - 0.03, y, x + 0.03, 0.72, (146, 108, 84))
        for dx, dy, q in (
            (-0.1, 0.07, 0.11),
            (0.1, 0.08, 0.11),
            (0, 0.0, 0.15),
            (0.02, -0.13, 0.12),
            (-0.06, -0.05, 0.12),
        ):
            w.oval(x + dx * k, y + dy * k, q * k, q * k, (104, 168, 96))
        for dx, dy, q in ((-0.04, -0.1, 0.07), (0.06, -0.02, 0.07), (-0.08, 0.05, 0.05)):
            w.oval(x + dx * k, y + dy * k, q * k, q * k * 0.8, (140, 196, 116))
    for _ in range(9):
        x, y = r.random(), r.uniform(0.7, 0.97)
        w.oval(x, y, 0.012, 0.012, r.choice(((252, 232, 130), (252, 248, 246), (246, 178, 196))))


def _beach(w: Wall, r: random.Random) -> None:
    w.gradient((0, (120, 200, 240)), (0.5, (206, 238, 248)), (1, (206, 238, 248)))
    x = r.choice((0.14, 0.2))
    w.glow(x, 0.14, 0.26, (255, 250, 220), 0.8)
    w.oval(x, 0.14, 0.075, 0.075, (255, 236, 150))
    w.area((0.0, 0.5), (1, 0.5), (1, 0.75), (0, 0.75), fill=(60, 170, 206))
    w.area((0.0, 0.58), (1, 0.57), (1, 0.78), (0, 0.78), fill=(96, 198, 214))
    w.area((0, 0.7), (0.25, 0.685), (0.5, 0.71), (0.75, 0.69), (1, 0.715), (1, 0.8), (0, 0.8), fill=(244, 252, 250))
    w.area((0, 0.735), (0.25, 0.72), (0.5, 0.745), (0.75, 0.725), (1, 0.75), (1, 1), (0, 1), fill=(246, 224, 174))
    w.area((0, 0.86), (0.6, 0.9), (1, 0.87), (1, 1), (0, 1), fill=(238, 210, 156))
    w.area((0.74, 0.5), (0.76, 0.32), (0.86, 0.46), (0.86, 0.5), fill=(250, 248, 244))
    w.area((0.73, 0.505), (0.88, 0.505), (0.85, 0.53), (0.755, 0.53), fill=(196, 96, 80))
    w.stroke((1.0, 0.75), (0.94, 0.4), (0.92, 0.2), fill=(156, 116, 84), width=0.035)
    for a in (-2.9, -2.4, -1.7, -1.0, 2.6, 0.3):
        ex, ey = 0.92 + 0.26 * math.cos(a), 0.18 + 0.17 * math.sin(a) + 0.07
        w.area(
            (0.92, 0.16),
            (0.92 + 0.14 * math.cos(a), 0.1 + 0.12 * math.sin(a)),
            (ex, ey),
            (0.92 + 0.1 * math.cos(a), 0.2 + 0.09 * math.sin(a)),
            fill=(88, 160, 108),
        )


def _facades(w: Wall, r: random.Random, tones: list[Colour], lit: list[Colour], heights: tuple[float, float]) -> None:
    x = -0.04
    while x < 1.0:
        b = r.uniform(0.19, 0.25)
        top = r.uniform(*heights) + (0.26 if 0.3 < x + b / 2 < 0.7 else 0.0)
        tone = r.choice(tones)
        w.box(x, top, x + b, 0.8, tone)
        w.box(x, top, x + b, top + 0.018, shade(tone, 0.2))
        wy = top + 0.055
        while wy < 0.66:
            for k in range(3):
                wx = x + b * (0.12 + 0.29 * k)
                w.box(wx, wy, wx + b * 0.18, wy + 0.055, r.choice(lit))
            wy += 0.1
        x += b + 0.006


def _city(w: Wall, r: random.Random) -> None:
    w.gradient((0, (168, 208, 240)), (0.6, (232, 238, 240)), (1, (232, 238, 240)))
    w.oval(0.5, 0.12, 0.1, 0.03, (244, 248, 250))
    tones = [(226, 190, 160), (206, 172, 160), (190, 196, 206), (232, 212, 176), (176, 188, 186)]
    _facades(w, r, tones, [(120, 158, 190), (150, 186, 212), (136, 172, 200)], (0.0, 0.16))
    for x0, c in ((0.0, (216, 108, 96)), (0.72, (92, 150, 140))):
        w.box(x0, 0.64, x0 + 0.28, 0.8, (150, 130, 120))
        w.box(x0 + 0.03, 0.69, x0 + 0.25, 0.8, (176, 206, 220))
        for i in range(6):
            w.box(x0 + i * 0.0467, 0.61, x0 + (i + 1) * 0.0467, 0.67, c if i % 2 else (248, 242, 234))
    w.box(0, 0.8, 1, 0.86, (206, 204, 204))
    w.box(0, 0.86, 1, 1, (142, 146, 156))
    for i in range(5):
        w.box(i * 0.24, 0.925, i * 0.24 + 0.13, 0.94, (234, 232, 222))


def _neon(w: Wall, r: random.Random) -> None:
    w.gradient((0, (26, 16, 56)), (0.7, (62, 26, 88)), (1, (40, 20, 66)))
    _facades(
        w,
        r,
        [(34, 24, 66), (44, 28, 78), (30, 30, 72)],
        [(60, 50, 110), (54, 36, 92), (240, 206, 120), (70, 60, 124)],
        (0.0, 0.12),
    )
    w.box(0, 0.8, 1, 1, (42, 26, 70))
    mag, cyan = (255, 70, 190), (64, 226, 246)
    signs = [(0.09, 0.26, mag), (0.91, 0.24, cyan)]
    if r.random() < 0.5:
        signs = [(0.09, 0.24, cyan), (0.91, 0.27, mag)]
    for x, y, c in signs:
        w.glow(x, y, 0.34, c, 0.62)
        s = w.size
        w.draw.rounded_rectangle(
            ((x - 0.06) * s, (y - 0.17) * s, (x + 0.06) * s, (y + 0.17) * s),
            0.025 * s,
            fill=(38, 20, 66),
            outline=c,
            width=max(2, round(0.014 * s)),
        )
        for k in (-0.1, 0.0, 0.1):
            w.stroke(
                (x - 0.03, y + k - 0.02), (x + 0.03, y + k - 0.02), (x, y + k + 0.03), fill=light(c, 0.55), width=0.013
            )
    for x, c in ((0.2, cyan), (0.74, mag)):
        w.glow(x + 0.05, 0.62, 0.2, c, 0.5)
        w.box(x - 0.06, 0.6, x + 0.13, 0.618, light(c, 0.3))
    for x, c in ((0.1, mag), (0.5, (150, 90, 240)), (0.9, cyan)):
        w.glow(x, 0.92, 0.2, c, 0.4)


def _sunset(w: Wall, r: random.Random) -> None:
    w.gradient(
        (0, (232, 110, 92)),
        (0.3, (250, 156, 92)),
        (0.55, (255, 214, 136)),
        (0.62, (255, 226, 160)),
        (1, (255, 226, 160)),
    )
    x = r.choice((0.16, 0.22))
    w.glow(x, 0.5, 0.4, (255, 246, 196), 0.9)
    w.oval(x, 0.52, 0.1, 0.1, (255, 244, 190))
    for cx, cy, b in ((0.78, 0.12, 0.2), (0.2, 0.2, 0.16), (0.86, 0.3, 0.14)):
        w.oval(cx, cy, b, 0.022, (246, 140, 120))
        w.oval(cx + 0.05, cy + 0.025, b * 0.7, 0.016, (252, 178, 136))
    w.area((0, 0.6), (0.3, 0.57), (0.6, 0.6), (1, 0.56), (1, 0.7), (0, 0.7), fill=(186, 112, 84))
    w.area((0, 0.64), (1, 0.63), (1, 1), (0, 1), fill=(226, 164, 74))
    for row in range(3):
        y = 0.7 + row * 0.12
        tone = ((240, 188, 92), (228, 168, 72), (210, 146, 62))[row]
        w.box(0, y, 1, 1, tone)
        for i in range(14):
            q = (i + 0.5 * (row % 2)) / 13.5 + r.uniform(-0.01, 0.01)
            w.stroke((q, y + 0.06), (q + 0.01, y - 0.05), fill=shade(tone, 0.12), width=0.008)
            w.oval(q + 0.012, y - 0.06, 0.014, 0.036, light(tone, 0.3))


def _snow(w: Wall, r: random.Random) -> None:
    w.gradient((0, (150, 190, 228)), (0.5, (216, 232, 246)), (1, (232, 240, 248)))
    for x, top, b in ((0.5, 0.34, 0.3), (0.1, 0.08, 0.36), (0.9, 0.05 + 0.06 * r.random(), 0.38)):
        y0 = 0.68
        w.area((x - b, y0), (x, top), (x + b, y0), fill=(136, 158, 194))
        w.area((x, top), (x + b, y0), (x + 0.1 * b, y0), (x - 0.05, top + 0.25), fill=(112, 136, 178))
        h = (y0 - top) * 0.42
        q = b * 0.42
        w.area(
            (x - q, top + h),
            (x, top),
            (x + q, top + h),
            (x + 0.55 * q, top + 0.8 * h),
            (x + 0.2 * q, top + 1.15 * h),
            (x - 0.2 * q, top + 0.85 * h),
            (x - 0.55 * q, top + 1.1 * h),
            fill=(248, 251, 254),
        )
    w.area((0, 0.66), (0.3, 0.62), (0.7, 0.68), (1, 0.63), (1, 1), (0, 1), fill=(228, 237, 247))
    w.area((0, 0.82), (0.5, 0.78), (1, 0.84), (1, 1), (0, 1), fill=(242, 247, 252))
    for x, k in ((0.06, 1.0), (0.2, 0.7), (0.82, 0.75), (0.95, 1.05)):
        y = 0.78
        for j in range(3):
            q = (0.1 - 0.024 * j) * k
            w.area(
                (x - q, y - j * 0.075 * k),
                (x + q, y - j * 0.075 * k),
                (x, y - (j * 0.075 + 0.14) * k),
                fill=(78, 118, 116),
            )
            w.area(
                (x - 0.45 * q, y - (j * 0.075 + 0.077) * k),
                (x + 0.45 * q, y - (j * 0.075 + 0.077) * k),
                (x, y - (j * 0.075 + 0.14) * k),
                fill=(236, 244, 250),
            )
    for _ in range(16):
        w.oval(r.random(), r.random(), 0.009, 0.009, (252, 254, 255))


PAINT: dict[str, Callable[[Wall, random.Random], None]] = {
    "light gray studio": _studio((214, 217, 221), (172, 177, 184)),
    "white studio": _studio((255, 255, 255), (234, 237, 241)),
    "dark studio": _studio((64, 64, 74), (20, 20, 26)),
    "warm beige studio": _studio((244, 224, 196), (212, 180, 142)),
    "bedroom": _bedroom,
    "cafe": _cafe,
    "kitchen": _kitchen,
    "library": _library,
    "park": _park,
    "beach": _beach,
    "city street": _city,
    "neon night": _neon,
    "sunset field": _sunset,
    "snowy mountains": _snow,
}


@lru_cache(maxsize=len(PAINT) * VARIANTS)
def backdrop(name: str, variant: int, pixels: int) -> Image.Image:
    """The backdrop ``name`` as an RGB square; ``variant`` arranges its details."""
    wall = Wall(pixels * 2)
    PAINT[name](wall, random.Random(variant))
    image = wall.image.reduce(2)
    if "studio" in name:
        return image
    average = tuple(int(v) for v in np.asarray(image.resize((1, 1), Image.Resampling.BOX))[0, 0])
    return Image.blend(
        image, Image.new("RGB", image.size, light(average, 0.3) if name != "neon night" else average), 0.16
    )
