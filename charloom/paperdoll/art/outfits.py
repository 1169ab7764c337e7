"""Twelve outfits. Each is drawn in the coordinates of the frontal torso; the body's warp turns it."""

from __future__ import annotations

import numpy as np

from charloom.paperdoll.art.body import Sleeve, body_warp, draw_legs, draw_neck, flank, half_width
from charloom.paperdoll.art.pen import GOLD, WHITE, Colour, Pen, edge, light, luma, mix, shade
from charloom.paperdoll.art.wardrobe import CHARCOAL, COLORS, CREAM, CUTS, JEANS, NECKLINES
from charloom.paperdoll.attributes import Scene


class Outfit:
    """Draws the clothes of one scene, layer by layer."""

    def __init__(self, scene: Scene, skin: Colour, stance: str, up: bool) -> None:
        self.scene, self.skin, self.stance, self.up = scene, skin, stance, up
        self.name, self.view = scene.outfit, scene.view
        self.colour = COLORS[scene.color]
        self.cut = CUTS[self.name]
        self.back = self.view == "back"
        self.line = edge(self.colour)
        self.dark = mix(self.colour, (112, 112, 136), 0.26) if luma(self.colour) > 220 else shade(self.colour, 0.22)
        if luma(self.colour) < 50:
            self.dark = light(self.colour, 0.16)

    def sleeve(self) -> Sleeve:
        """What the arms wear."""
        if self.name == "overalls":
            return Sleeve(0.45, CREAM, 0.03)
        cuff, bands = None, ()
        if self.name == "hoodie":
            cuff = self.dark
        if self.name == "button-up shirt":
            cuff = light(self.colour, 0.25)
        if self.name == "pajamas":
            cuff = self.trim()
        if self.name == "striped sweater":
            bands = (self.stripe(),)
        return Sleeve(self.cut.reach, self.colour, self.cut.ease, cuff, bands)

    def stripe(self) -> Colour:
        """Stripes are white on dark and dark on pale colours."""
        return (62, 66, 92) if luma(self.colour) > 196 else CREAM

    def trim(self) -> Colour:
        """Piping and small prints that show on the colour."""
        return mix(self.colour, (86, 92, 150), 0.6) if luma(self.colour) > 190 else CREAM

    def draw_behind(self, pen: Pen) -> None:
        """The hood behind the head; the hem of a long skirt behind the legs."""
        if self.name == "hoodie" and not self.back:
            x = {"profile": -0.28, "three-quarter": -0.03}.get(self.view, 0.0)
            pen.shape([(x - 0.8, 1.5), (x - 0.82, 1.2), (x - 0.5, 0.9), (x, 0.8), (x + 0.5, 0.9),
                (x + (0.5 if self.view == "profile" else 0.82), 1.2),
                       (x + (0.4 if self.view == "profile" else 0.8), 1.5), (x, 1.62)],
                           self.dark, self.line)  # fmt: skip

    def draw_legs(self, pen: Pen) -> None:
        """Trousers or bare legs with shoes."""
        cloth = {"jeans": JEANS, "charcoal": CHARCOAL, "same": self.colour, "bare": None}[self.cut.legs]
        shoe = (104, 76, 66) if self.cut.legs in ("jeans", "charcoal") else (70, 60, 70)
        if self.cut.legs == "bare":
            shoe = (226, 206, 188) if self.name == "sundress" else GOLD
        if self.name == "pajamas":
            shoe = (238, 214, 220)
        seat = cloth or self.colour
        if self.stance != "sitting" or self.cut.legs != "bare":
            half = flank(2.7, 3.3, 0.02, 3) + [(0.58, 3.5), (0.3, 3.58), (0.0, 3.45)]
            body = pen.warped(body_warp(self.view))
            draw_legs(pen, self.view, self.stance, cloth, self.skin, shoe)
            if self.stance != "sitting":
                body.shape([(0.0, 2.7), *half, *[(-x, y) for x, y in reversed(half) if x]], seat)
        else:
            draw_legs(pen, self.view, self.stance, cloth, self.skin, shoe)
        if self.name == "pajamas" and self.stance in ("standing", "walking"):
            for x, y in ((-0.4, 3.8), (-0.3, 4.3), (0.4, 4.0), (-0.42, 4.75), (0.36, 3.6)):
                if self.stance == "standing" and (self.view != "profile" or x < 0):
                    pen.dot(x * (0.4 if self.view == "profile" else 1.0), y, 0.055, 0.055, self.trim())

    def draw_torso(self, pen: Pen) -> None:
        """Skin of the chest, then the garment with its details."""
        body = pen.warped(body_warp(self.view))
        draw_neck(body, self.skin, self.up)
        top, dip = NECKLINES[self.name]
        if self.back:
            top = [(0.0, dip), *[(x, min(y, dip)) if x < 0.5 else (x, y) for x, y in top[1:]]]
        if self.name in ("pantsuit", "trench coat", "pajamas", "button-up shirt", "hoodie") and not self.back:
            inner = {"pantsuit": CREAM, "trench coat": (236, 228, 222), "hoodie": CREAM}.get(self.name)
            if inner:
                body.shape(
                    [(-0.32, 1.4), (0.0, 1.56), (0.32, 1.4), (0.4, 2.4), (-0.4, 2.4)],
                    inner,
                    edge(inner),
                    0.016,
                    smooth=False,
                )
        if self.name == "overalls":
            self._garment(body, top, CREAM, 3.0)
            self._overalls(body)
            return
        self._garment(body, top, self.colour, self._hem())
        details = {
            "tank top": self._tank, "t-shirt": self._tee, "button-up shirt": self._shirt, "hoodie": self._hoodie,
            "turtleneck": self._turtleneck, "striped sweater": self._sweater, "pantsuit": self._pantsuit,
                "trench coat": self._trench,
            "sundress": self._sundress, "evening gown": self._gown, "pajamas": self._pajamas,
        }[self.name]  # fmt: skip
        details(body)

    def _hem(self) -> float:
        if self.stance == "sitting":
            return min(self.cut.hem, 3.3)
        if self.stance == "jumping":
            return min(self.cut.hem, 4.25)
        return self.cut.hem

    def _garment(self, body: Pen, top: list[tuple[float, float]], colour: Colour, hem: float) -> None:
        cut, line = self.cut, edge(colour)
        if cut.flare and self.stance == "sitting":
            self._lap_skirt(body, colour)
        waist = -0.02 if cut.flare and self.name != "trench coat" else cut.ease * 0.6
        sides = flank(2.1, 3.1 if cut.flare else hem, waist, 5)
        if cut.flare and hem > 3.4:
            drop = (hem - 3.1) / 1.6
            sides += [(0.86 + cut.flare * 0.45 * drop, 3.1 + 0.5 * (hem - 3.1)), (0.86 + cut.flare * drop, hem - 0.06)]
            sides += [(0.5, hem + 0.06), (0.0, hem + 0.1)]
        else:
            sides += [(0.0, hem + 0.05)]
        half = [*top, *sides]
        outline = [*half, *[(-x, y) for x, y in reversed(half) if x > 1e-6]]
        body.shape(outline, colour, line, 0.026)
        # Two-tone shading: the side away from the light.
        y = np.linspace(1.95, min(hem, 3.1) - 0.06, 6)
        h = half_width(y)
        tone = self.dark if colour == self.colour else shade(colour, 0.14)
        body.shape(
            np.concatenate([np.stack([h - 0.03, y], 1), np.stack([h - 0.2 - 0.05 * np.sin(y * 3), y], 1)[::-1]]), tone
        )
        if cut.flare and hem > 3.4:
            spread = 0.86 + cut.flare * (hem - 3.1) / 1.6
            for k in (-0.6, -0.2, 0.25, 0.65):
                body.ribbon(
                    [(k * 0.8, 3.0), (k * 1.0, 3.1 + 0.5 * (hem - 3.1)), (k * spread, hem - 0.04)],
                    (0.01, 0.05, 0.1),
                    self.dark,
                )
        elif self.name in ("tank top", "t-shirt", "turtleneck", "hoodie", "striped sweater"):
            body.curve(
                [(-half_width(hem) + 0.05, hem - 0.1), (0.0, hem - 0.06), (half_width(hem) - 0.05, hem - 0.1)],
                self.dark,
                0.035,
            )
        if self.back:
            body.curve([(0.0, top[0][1] + 0.12), (0.0, 2.9)], self.dark, 0.025)

    def _lap_skirt(self, body: Pen, colour: Colour) -> None:
        flat = body.warped(None)
        if self.view == "profile":
            flat.shape(
                [(-0.5, 2.9), (0.5, 3.0), (1.25, 3.35), (1.2, 3.8), (0.2, 3.98), (-0.7, 3.9)], colour, edge(colour)
            )
            flat.ribbon([(0.1, 3.1), (0.6, 3.5), (0.7, 3.9)], (0.01, 0.06, 0.08), self.dark)
            return
        flat.shape(
            [
                (-0.6, 2.9),
                (0.6, 2.9),
                (1.45, 3.5),
                (1.5, 3.82),
                (0.8, 3.98),
                (0, 3.9),
                (-0.8, 3.98),
                (-1.5, 3.82),
                (-1.45, 3.5),
            ],
            colour,
            edge(colour),
        )
        for k in (-0.9, -0.35, 0.35, 0.9):
            flat.ribbon([(k * 0.4, 3.1), (k * 0.9, 3.5), (k * 1.1, 3.88)], (0.01, 0.05, 0.09), self.dark)

    def _rim(self, body: Pen, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        both = [*reversed([(-x, y) for x, y in points if x > 1e-6]), *points]
        body.curve(both, edge(colour), width + 0.03)
        body.curve(both, colour, width)

    def _tank(self, body: Pen) -> None:
        top, dip = NECKLINES[self.name]
        if not self.back:
            self._rim(body, top[:4], self.dark, 0.035)

    def _tee(self, body: Pen) -> None:
        pts = [(0.0, 1.43), (0.2, 1.41), (0.35, 1.35)] if self.back else [(0.0, 1.57), (0.2, 1.53), (0.36, 1.36)]
        self._rim(body, pts, self.dark, 0.07)

    def _collar(self, body: Pen, tone: Colour, line: Colour, length: float = 0.46) -> None:
        """Two pointed shirt-collar leaves, or the band of a collar from behind."""
        if self.back:
            body.shape([(-0.36, 1.2), (0.36, 1.2), (0.44, 1.46), (0.0, 1.54), (-0.44, 1.46)], tone, line)
            return
        for s in (-1, 1):
            body.shape(
                [(s * 0.26, 1.18), (s * 0.4, 1.3), (s * 0.46, 1.3 + length), (s * 0.02, 1.62)],
                tone,
                line,
                0.026,
                smooth=False,
            )

    def _buttons(self, body: Pen, ys: np.ndarray, x: float = 0.0, tone: Colour | None = None) -> None:
        tone = tone or (CREAM if luma(self.colour) < 190 else (120, 112, 128))
        for y in ys:
            body.dot(x, float(y), 0.045, 0.045, tone, edge(tone), 0.016)

    def _shirt(self, body: Pen) -> None:
        pale = light(self.colour, 0.22)
        if not self.back:
            body.shape([(-0.1, 1.6), (0.1, 1.6), (0.1, 3.2), (-0.1, 3.2)], pale, smooth=False)
            for s in (-1, 1):
                body.curve([(s * 0.1, 1.6), (s * 0.1, 3.2)], self.dark, 0.024)
            self._buttons(body, np.arange(1.78, 3.1, 0.27))
            body.shape(
                [(0.3, 2.05), (0.58, 2.05), (0.56, 2.36), (0.44, 2.42), (0.32, 2.36)],
                None,
                self.dark,
                0.03,
                smooth=False,
            )
        else:
            body.curve([(-0.8, 1.74), (0.0, 1.8), (0.8, 1.74)], self.dark, 0.03)
        self._collar(body, pale, self.line)

    def _hoodie(self, body: Pen) -> None:
        if self.back:
            body.shape(
                [
                    (-0.66, 1.36),
                    (0.0, 1.22),
                    (0.66, 1.36),
                    (0.6, 1.85),
                    (0.3, 2.2),
                    (0.0, 2.32),
                    (-0.3, 2.2),
                    (-0.6, 1.85),
                ],
                light(self.colour, 0.1),
                self.line,
                0.03,
            )
            body.curve([(0.0, 1.35), (0.0, 2.25)], self.dark, 0.03)
            return
        for s in (-1, 1):
            body.ribbon(
                [(s * 0.4, 1.14), (s * 0.36, 1.4), (s * 0.02, 1.68)],
                (0.14, 0.2, 0.08),
                light(self.colour, 0.14),
                self.line,
            )
        for s in (-1, 1):
            cord = CREAM if luma(self.colour) < 200 else (120, 112, 128)
            body.curve([(s * 0.15, 1.6), (s * 0.19, 1.85), (s * 0.16, 2.12)], edge(cord), 0.07)
            body.curve([(s * 0.15, 1.6), (s * 0.19, 1.85), (s * 0.16, 2.12)], cord, 0.04)
        body.shape([(-0.4, 2.52), (0.4, 2.52), (0.56, 2.98), (-0.56, 2.98)], self.dark, self.line, 0.024, smooth=False)

    def _turtleneck(self, body: Pen) -> None:
        body.shape(
            [(-0.3, 0.98), (0.0, 1.06), (0.3, 0.98), (0.35, 1.2), (0.34, 1.4), (0.0, 1.5), (-0.34, 1.4), (-0.35, 1.2)],
            self.colour,
            self.line,
            0.028,
        )
        body.curve([(-0.34, 1.22), (0.0, 1.3), (0.34, 1.22)], self.dark, 0.035)
        for k in (-0.6, -0.2, 0.2, 0.6):
            body.curve([(k * 0.5, 1.68), (k * 0.85, 2.2), (k * 0.8, 3.0)], self.dark, 0.03)

    def _sweater(self, body: Pen) -> None:
        tone = self.stripe()
        for y in np.arange(1.64, 3.1, 0.31):
            ys = np.array([y, y + 0.15])
            h = half_width(ys) + 0.02
            body.shape(
                [
                    (-h[0], ys[0]),
                    (0.0, ys[0] + 0.03),
                    (h[0], ys[0]),
                    (h[1], ys[1]),
                    (0.0, ys[1] + 0.03),
                    (-h[1], ys[1]),
                ],
                tone,
                smooth=False,
            )
        self._rim(
            body,
            [(0.0, 1.44), (0.3, 1.42), (0.52, 1.38)] if self.back else [(0.0, 1.51), (0.3, 1.47), (0.53, 1.38)],
            self.colour,
            0.07,
        )

    def _lapels(self, body: Pen, tone: Colour, low: float, wide: float) -> None:
        for s in (-1, 1):
            body.shape([(s * 0.27, 1.2), (s * 0.42, 1.3), (s * wide, 1.62), (s * (wide - 0.12), 1.72),
                (s * (wide + 0.02), 1.8), (s * 0.03, low)],
                       tone, self.line, 0.028, smooth=False)  # fmt: skip

    def _pantsuit(self, body: Pen) -> None:
        pale = light(self.colour, 0.13)
        if self.back:
            self._collar(body, pale, self.line)
            return
        for s in (-1, 1):
            body.shape(
                [(s * 0.2, 1.2), (s * 0.32, 1.34), (s * 0.26, 1.62), (s * 0.02, 1.5)],
                WHITE,
                edge(CREAM),
                0.022,
                smooth=False,
            )
        self._lapels(body, pale, 2.35, 0.58)
        body.curve([(0.02, 2.34), (0.06, 3.38)], self.line, 0.028)
        self._buttons(body, np.array([2.5]), 0.0, GOLD if luma(self.colour) < 190 else (96, 84, 96))
        body.curve([(0.3, 2.85), (0.6, 2.82)], self.line, 0.03)
        body.curve([(-0.3, 2.85), (-0.6, 2.82)], self.line, 0.03)

    def _trench(self, body: Pen) -> None:
        pale = light(self.colour, 0.13)
        horn = (92, 62, 48) if luma(self.colour) > 90 else (222, 190, 140)
        if self.back:
            body.curve([(-0.82, 2.02), (-0.4, 2.14), (0.0, 2.18), (0.4, 2.14), (0.82, 2.02)], self.line, 0.035)
            self._collar(body, pale, self.line)
        else:
            body.curve([(0.03, 1.95), (0.03, self._hem())], self.line, 0.03)
            self._lapels(body, pale, 2.0, 0.68)
            for s in (-1, 1):
                self._buttons(
                    body,
                    np.array([2.12, 2.42]) if self.stance == "sitting" else np.array([2.12, 2.42, 3.05, 3.4]),
                    s * 0.26,
                    horn,
                )
        for s in (-1, 1):
            body.shape(
                [(s * 0.6, 1.43), (s * 0.92, 1.56), (s * 0.9, 1.66), (s * 0.58, 1.53)],
                pale,
                self.line,
                0.022,
                smooth=False,
            )
        h = float(half_width(2.72)) + 0.03
        body.shape([(-h, 2.62), (h, 2.62), (h, 2.84), (-h, 2.84)], self.dark, self.line, 0.026, smooth=False)
        if not self.back:
            body.shape([(-0.12, 2.59), (0.12, 2.59), (0.12, 2.87), (-0.12, 2.87)], None, horn, 0.05, smooth=False)

    def _sundress(self, body: Pen) -> None:
        for s in (-1, 1):
            top = [(s * 0.44, 1.74), (s * 0.42, 1.55), (s * 0.36, 1.37)]
            body.curve(top, self.line, 0.1)
            body.curve(top, self.colour, 0.06)
        dot = self.trim()
        hem = self._hem()
        for row, y in enumerate(np.arange(2.02, hem - 0.1, 0.26)):
            wide = float(half_width(y)) if y < 3.1 else 0.74 + self.cut.flare * (y - 3.1) / 1.6
            for x in np.arange(-0.9 + 0.17 * (row % 2), 1.2, 0.34):
                if abs(x) < wide - 0.09 and (y > 2.1 or abs(x) > 0.1):
                    body.dot(float(x), float(y), 0.05, 0.05, dot)
        if self.stance == "sitting":
            for x in np.arange(-1.2, 1.3, 0.4):
                body.warped(None).dot(
                    float(x) * (0.6 if self.view == "profile" else 1) + (0.3 if self.view == "profile" else 0),
                    3.68,
                    0.05,
                    0.05,
                    dot,
                )
        body.curve([(-0.63, 2.74), (0.0, 2.8), (0.63, 2.74)], self.line, 0.06)

    def _gown(self, body: Pen) -> None:
        pale = light(self.colour, 0.2)
        for s in (-1, 1):
            body.ribbon(
                [(s * 0.98, 1.98), (s * 0.92, 1.78), (s * 0.55, 1.82), (s * 0.0, 1.9)],
                (0.16, 0.2, 0.2, 0.15),
                pale,
                self.line,
            )
        body.curve([(-0.62, 2.72), (0.0, 2.8), (0.62, 2.72)], light(GOLD, 0.2), 0.07)
        spark = light(self.colour, 0.75) if luma(self.colour) < 200 else (206, 168, 110)
        hem = self._hem()
        for i, y in enumerate(np.arange(2.15, hem - 0.15, 0.24)):
            x = 0.62 * np.sin(i * 2.3) * (1.0 if y < 3.1 else 1.25)
            r = 0.065
            body.shape(
                [
                    (x, y - r),
                    (x + 0.3 * r, y - 0.3 * r),
                    (x + r, y),
                    (x + 0.3 * r, y + 0.3 * r),
                    (x, y + r),
                    (x - 0.3 * r, y + 0.3 * r),
                    (x - r, y),
                    (x - 0.3 * r, y - 0.3 * r),
                ],
                spark,
                smooth=False,
            )

    def _overalls(self, body: Pen) -> None:
        colour, line = self.colour, self.line
        for s in (-1, 1):
            strap = (
                [(s * 0.4, 1.36), (s * 0.42, 1.7), (s * 0.36, 2.0)]
                if not self.back
                else [(s * 0.42, 1.36), (s * 0.3, 1.9), (s * 0.05, 2.45)]
            )
            body.curve(strap, line, 0.22)
            body.curve(strap, colour, 0.17)
        low = self._hem()
        if self.back:
            half = [
                (0.0, 2.3),
                (0.2, 2.42),
                (float(half_width(2.7)) + 0.03, 2.66),
                *flank(2.8, low, 0.04, 3),
                (0.0, low + 0.05),
            ]
        else:
            half = [
                (0.0, 1.88),
                (0.5, 1.88),
                (0.52, 2.4),
                (float(half_width(2.6)) + 0.03, 2.6),
                *flank(2.75, low, 0.04, 3),
                (0.0, low + 0.05),
            ]
        body.shape([*half, *[(-x, y) for x, y in reversed(half) if x > 0]], colour, line, 0.028, smooth=False)
        body.curve([(-0.66, 2.74), (0.0, 2.76), (0.66, 2.74)], self.dark, 0.05)
        if not self.back:
            body.shape(
                [(-0.28, 2.16), (0.28, 2.16), (0.26, 2.5), (0.0, 2.58), (-0.26, 2.5)],
                light(colour, 0.1),
                self.dark,
                0.035,
                smooth=False,
            )
            for s in (-1, 1):
                body.dot(s * 0.39, 1.93, 0.085, 0.085, GOLD, shade(GOLD, 0.55), 0.028)

    def _pajamas(self, body: Pen) -> None:
        trim = self.trim()
        for i, (x, y) in enumerate(
            (
                (-0.6, 1.75),
                (0.62, 1.78),
                (-0.36, 2.15),
                (0.34, 2.2),
                (-0.56, 2.55),
                (0.52, 2.62),
                (-0.3, 2.92),
                (0.3, 3.0),
                (-0.66, 3.1),
                (0.62, 3.2),
            )
        ):
            if i % 2:
                body.dot(x, y, 0.05, 0.05, trim)
            else:  # a crescent moon
                body.dot(x, y, 0.095, 0.095, trim)
                body.dot(x + 0.05, y - 0.03, 0.075, 0.075, self.colour)
        if self.back:
            for x, y in ((0.0, 1.8), (0.04, 2.4)):
                body.dot(x, y, 0.06, 0.06, trim)
            self._collar(body, self.colour, trim)
            return
        body.curve([(0.0, 1.86), (0.0, 3.36)], trim, 0.04)
        self._buttons(body, np.array([2.08, 2.42, 2.76]), 0.1, trim)
        for s in (-1, 1):
            leaf = [
                (s * 0.28, 1.22),
                (s * 0.44, 1.34),
                (s * 0.52, 1.66),
                (s * 0.36, 1.68),
                (s * 0.38, 1.78),
                (s * 0.02, 1.9),
            ]
            body.shape(leaf, light(self.colour, 0.12), self.line, 0.08, smooth=False)
            body.shape(leaf, light(self.colour, 0.12), trim, 0.05, smooth=False)

    def draw_necklace(self, pen: Pen) -> None:
        """A thin gold chain, or a longer one with a ruby drop; drawn over high necklines."""
        kind = self.scene.necklace
        if kind == "none" or self.back:
            return
        body = pen.warped(body_warp(self.view))
        low = 1.56 if kind == "chain" else 1.68
        path = [(-0.3, 1.26), (-0.24, 1.4), (0.0, low), (0.24, 1.4), (0.3, 1.26)]
        body.curve(path, shade(GOLD, 0.5), 0.075)
        body.curve(path, light(GOLD, 0.2), 0.042)
        if kind == "pendant":
            x, y = 0.0, low + 0.1
            if self.view == "profile":
                x = -0.03
            ruby = (206, 36, 84)
            body.shape(
                [(x, y - 0.13), (x + 0.12, y + 0.02), (x, y + 0.17), (x - 0.12, y + 0.02)],
                ruby,
                shade(GOLD, 0.3),
                0.035,
                smooth=False,
            )
            body.dot(x - 0.025, y, 0.03, 0.04, (255, 190, 210))
