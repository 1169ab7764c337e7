"""A pen that draws smooth opaque shapes in figure units (half a head high) on a Pillow image.

Everything is a polygon sampled from a Catmull-Rom spline: Pillow fills those quickly, and the same control
points give the same picture at every resolution. Colours are always opaque; softness comes from mixed colours,
because compositing full-canvas layers would cost more than all of the drawing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[Sequence[float]] | np.ndarray
Warp = Callable[[np.ndarray], np.ndarray]

INK: Colour = (58, 34, 52)
WHITE: Colour = (255, 255, 255)
GOLD: Colour = (236, 184, 62)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Mix ``share`` of ``b`` into ``a``."""
    return tuple(int(x + (y - x) * share + 0.5) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def shade(colour: Colour, share: float = 0.25) -> Colour:
    """Darker and a little cooler, the way flat illustration shades."""
    return mix(colour, (52, 24, 66), share)


def light(colour: Colour, share: float = 0.25) -> Colour:
    """Lighter and a little warmer."""
    return mix(colour, (255, 248, 236), share)


def luma(colour: Colour) -> float:
    """Perceived brightness, 0 to 255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def edge(colour: Colour) -> Colour:
    """Outline colour of a shape: darker than it, but lighter where the shape is nearly black already."""
    return light(colour, 0.22) if luma(colour) < 46 else shade(colour, 0.42 if luma(colour) < 150 else 0.38)


@lru_cache(maxsize=256)
def _basis(steps: int) -> np.ndarray:
    t = np.arange(steps) / steps
    return 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=1)


@lru_cache(maxsize=256)
def _neighbours(count: int, closed: bool) -> np.ndarray:
    index = np.arange(count if closed else count - 1)[:, None] + np.arange(-1, 3)
    return index % count if closed else np.clip(index, 0, count - 1)


@lru_cache(maxsize=64)
def _circle(count: int) -> np.ndarray:
    angle = np.arange(count) * (2 * math.pi / count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def spline(points: Points, steps: int, closed: bool = True) -> np.ndarray:
    """Sample the Catmull-Rom curve through ``points``."""
    p = np.asarray(points, dtype=float)
    out = (_basis(steps) @ p[_neighbours(len(p), closed)]).reshape(-1, 2)
    return out if closed else np.concatenate([out, p[-1:]])


def mirrored(points: Points) -> list[tuple[float, float]]:
    """Close a right half, listed top to bottom, with its mirror image."""
    return [(x, y) for x, y in points] + [(-x, y) for x, y in reversed(list(points)) if abs(x) > 1e-6]


class Pen:
    """Draws in figure units; ``turned`` and ``warped`` give pens for a tilted head or a turned surface."""

    def __init__(self, image: Image.Image, unit: float, x: float, y: float, flip: bool, min_line: float) -> None:
        self.draw = ImageDraw.Draw(image)
        self.unit = unit
        self.matrix = np.array([[-unit if flip else unit, 0.0], [0.0, unit]])
        self.origin = np.array([x, y])
        self.warp: Warp | None = None
        self.min_line = min_line
        self.steps = 6 if unit < 400 else 14

    def turned(self, degrees: float, x: float, y: float) -> Pen:
        """A pen whose drawing is rotated about (x, y)."""
        pen = copy.copy(self)
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = np.array([[c, s], [-s, c]])
        centre = np.array([x, y])
        pen.matrix = turn @ self.matrix
        pen.origin = (centre - centre @ turn) @ self.matrix + self.origin
        return pen

    def warped(self, warp: Warp | None) -> Pen:
        """A pen that sends every point through ``warp`` first."""
        pen = copy.copy(self)
        pen.warp = warp
        return pen

    def _place(self, points: Points) -> np.ndarray:
        p = np.asarray(points, dtype=float)
        if self.warp is not None:
            p = self.warp(p)
        return p @ self.matrix + self.origin

    def width(self, width: float, at_least: float = 1.0) -> int:
        """Pixels of a line ``width`` units wide, never below the thinnest legible line."""
        return max(1, round(max(self.min_line * at_least, width * self.unit)))

    def _stroke(self, xy: np.ndarray, colour: Colour, pixels: int) -> None:
        points = xy.ravel().tolist()
        self.draw.line(points, fill=colour, width=pixels)
        if pixels > 5:  # round joints by hand: Pillow's own leave spikes on wide lines
            r = (pixels - 1) / 2
            for x, y in zip(points[2:-2:2], points[3:-2:2], strict=True):
                self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def shape(
        self, points: Points, fill: Colour | None, line: Colour | None = None, width: float = 0.022, smooth: bool = True
    ) -> None:
        """Draw a closed shape with smooth or straight edges and an optional outline."""
        p = spline(points, self.steps) if smooth else points
        xy = self._place(p)
        if fill is not None:
            self.draw.polygon(xy.ravel().tolist(), fill=fill)
        if line is not None:
            self._stroke(np.concatenate([xy, xy[:2]]), line, self.width(width))

    def dot(
        self, x: float, y: float, rx: float, ry: float | None = None, fill: Colour | None = None,
        line: Colour | None = None, width: float = 0.022, clip: tuple[float, ...] | None = None,
    ) -> None:  # fmt: skip
        """Draw an ellipse; ``clip`` cuts it to two heights (y), and to two x positions if it has four values."""
        ry = rx if ry is None else ry
        count = 16 if rx * self.unit < 8 else 28 if rx * self.unit < 120 else 72
        p = _circle(count) * (rx, ry) + (x, y)
        if clip is not None:
            p[:, 1] = np.clip(p[:, 1], clip[0], clip[1])
            if len(clip) == 4:
                p[:, 0] = np.clip(p[:, 0], clip[2], clip[3])
        self.shape(p, fill, line, width, smooth=False)

    def curve(self, points: Points, colour: Colour, width: float = 0.022, smooth: bool = True) -> None:
        """Draw an open line of constant width with round ends."""
        xy = self._place(spline(points, self.steps, closed=False) if smooth else points)
        pixels = self.width(width)
        self._stroke(xy, colour, pixels)
        r = pixels / 2
        for x, y in (xy[0], xy[-1]):
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def arch(self, x: float, y: float, rx: float, ry: float, colour: Colour, width: float) -> None:
        """Draw an upward half-moon line: one curl."""
        self.curve([(x - rx, y + ry), (x - 0.7 * rx, y - 0.3 * ry), (x, y - ry), (x + 0.7 * rx, y - 0.3 * ry),
            (x + rx, y + ry)],
                   colour, width)  # fmt: skip

    def ribbon(self, points: Points, widths: Sequence[float], colour: Colour, line: Colour | None = None) -> None:
        """Draw an open line whose width (units) is given at every point: brows, lashes, locks of hair."""
        p = spline(points, self.steps, closed=False)
        if self.warp is not None:
            p = self.warp(p)
        along = np.gradient(p, axis=0)
        normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
        normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
        half = np.interp(np.linspace(0, len(widths) - 1, len(p)), np.arange(len(widths)), widths)
        half = np.maximum(half, 0.5 * self.min_line / self.unit)[:, None] / 2
        outline = np.concatenate([p + normal * half, (p - normal * half)[::-1]]) @ self.matrix + self.origin
        self.draw.polygon(outline.ravel().tolist(), fill=colour)
        if line is not None:
            self._stroke(np.concatenate([outline, outline[:2]]), line, self.width(0.02))

    def limb(self, points: Points, widths: Sequence[float], fill: Colour, line: Colour | None = None) -> None:
        """Draw a thick limb with round joints; it never self-intersects, however sharp the bend."""
        p = spline(points, 4, closed=False)
        if self.warp is not None:
            p = self.warp(p)
        half = np.interp(np.linspace(0, len(widths) - 1, len(p)), np.arange(len(widths)), widths) / 2
        p = p @ self.matrix + self.origin
        along = np.gradient(p, axis=0)
        normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
        normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
        passes = [(half * self.unit, fill)]
        if line is not None:
            passes.insert(0, (half * self.unit + self.width(0.022) * 0.6, line))
        for radius, colour in passes:
            left, right = p + normal * radius[:, None], p - normal * radius[:, None]
            for i in range(len(p)):
                x, y, r = p[i, 0], p[i, 1], radius[i]
                self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
                if i + 1 < len(p):
                    quad = (*left[i], *left[i + 1], *right[i + 1], *right[i])
                    self.draw.polygon(quad, fill=colour)
