"""The face: contour, eyes, brows, nose, mouth, and what sits on it (glasses, earrings, hats)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from charloom.paperdoll.art.pen import GOLD, INK, WHITE, Colour, Pen, Warp, edge, light, luma, mirrored, mix, shade
from charloom.paperdoll.attributes import Identity, Scene

SKIN: dict[str, Colour] = {
    "porcelain": (255, 235, 226),
    "fair": (250, 211, 184),
    "olive": (224, 181, 132),
    "tan": (204, 145, 98),
    "brown": (150, 97, 64),
    "dark": (93, 57, 42),
}
HAIR: dict[str, Colour] = {
    "black": (36, 32, 44),
    "dark brown": (80, 50, 38),
    "chestnut brown": (140, 80, 46),
    "blonde": (228, 178, 88),
    "platinum blonde": (246, 232, 198),
    "ginger red": (214, 94, 36),
    "silver gray": (170, 177, 190),
}
IRIS: dict[str, Colour] = {
    "deep brown": (86, 46, 24),
    "hazel": (178, 126, 42),
    "green": (58, 156, 78),
    "blue": (54, 128, 220),
    "gray": (146, 156, 170),
}
EYE_SIZE = {"small": (0.16, 0.15), "medium": (0.205, 0.205), "large": (0.245, 0.265)}
FACE_WIDTH = {"narrow": 0.72, "oval": 0.83, "round": 0.96}
BROWS = {"thin": 0.03, "medium": 0.08, "thick": 0.145}
LIPS = {"thin": 0.016, "medium": 0.085, "full": 0.16}


@dataclass(frozen=True)
class Mood:
    """One expression: mouth, eyes and how far each is open (left, right), gaze, inner and outer rise of the brows."""

    mouth: str
    eyes: str = "open"
    open: tuple[float, float] = (1.0, 1.0)
    gaze: tuple[float, float] = (0.0, 0.0)
    left: tuple[float, float] = (0.0, 0.0)
    right: tuple[float, float] = (0.0, 0.0)


MOODS: dict[str, Mood] = {
    "laughing": Mood("laugh", "happy", left=(0.08, 0.05), right=(0.08, 0.05)),
    "joyful": Mood("grin", left=(0.07, 0.05), right=(0.07, 0.05)),
    "smile": Mood("smile", left=(0.02, 0.02), right=(0.02, 0.02)),
    "neutral": Mood("neutral"),
    "serious": Mood("flat", open=(0.66, 0.66), left=(-0.135, 0.03), right=(-0.135, 0.03)),
    "contemplative": Mood("purse", gaze=(1.0, -0.7), left=(0.0, 0.03), right=(0.1, 0.13)),
    "sad": Mood("frown", open=(0.8, 0.8), gaze=(0.0, 0.3), left=(0.18, -0.11), right=(0.18, -0.11)),
    "looking up": Mood("relaxed", gaze=(0.0, -1.0), left=(0.05, 0.05), right=(0.05, 0.05)),
    "surprised": Mood("o", open=(1.2, 1.2), left=(0.2, 0.17), right=(0.2, 0.17)),
    "skeptical": Mood("smirk", open=(0.5, 0.8), gaze=(0.2, 0.0), left=(-0.15, -0.03), right=(0.26, 0.28)),
    "crying": Mood("wail", open=(0.8, 0.8), left=(0.19, -0.1), right=(0.19, -0.1)),
    "serene": Mood("gentle", "closed", left=(0.03, 0.0), right=(0.03, 0.0)),
}


class Face:
    """Everything the head needs to know: colours, proportions, and how the view turns it."""

    def __init__(self, identity: Identity, scene: Scene) -> None:
        self.identity, self.scene, self.view = identity, scene, scene.view
        self.skin = SKIN[identity.skin]
        self.hair = HAIR[identity.hair_color]
        self.style = identity.hair_style
        self.w = FACE_WIDTH[identity.face_width]
        self.hx = self.w + 0.15
        self.mood = MOODS[scene.expression]
        self.up = scene.expression == "looking up" and scene.view != "back"
        self.profile = scene.view == "profile"
        self.lift = -0.19 if self.up and not self.profile else 0.0

    def warp(self) -> Warp | None:
        """The map from points of the frontal face to where they land in this view (facing right)."""
        lift = self.lift
        if self.view == "three-quarter":
            radius = 1.16 * self.w

            def turn(p: np.ndarray) -> np.ndarray:
                x = radius * np.sin(np.arcsin(np.clip(p[:, 0] / radius, -1, 1)) + 0.31)
                return np.stack([x, p[:, 1] + lift], axis=1)

            return turn
        if lift:
            return lambda p: p + (0.0, lift)
        return None

    def contour(self) -> list[tuple[float, float]]:
        """Outline of the head without hair."""
        w, lift = self.w, self.lift * 0.75
        if self.profile:
            chin = {0.72: 0.03, 0.83: 0.0, 0.96: -0.03}[w]
            return [
                (-0.1, -1.06), (0.42, -0.95), (0.72, -0.66), (0.81, -0.25), (0.785, 0.08), (0.84, 0.26), (0.955, 0.42),
                (0.93, 0.49), (0.83, 0.53), (0.86, 0.62), (0.82, 0.69), (0.84, 0.77), (0.785, 0.84),
                (0.78 + chin, 0.95), (0.62, 1.03), (0.3, 0.93), (-0.05, 0.72), (-0.4, 0.6), (-0.85, 0.2),
                (-0.95, -0.35), (-0.65, -0.88),
            ]  # fmt: skip
        jaw = {0.72: 0.6, 0.83: 0.72, 0.96: 0.82}[w]
        if self.view == "three-quarter":
            return [
                (0.05, -1.05), (0.5 * w, -0.95), (0.93 * w, -0.55), (1.02 * w, -0.15), (0.955 * w, 0.1),
                (1.0 * w, 0.36), (0.88 * w, 0.66 + lift), (0.36 + 0.2 * jaw, 0.9 + lift), (0.36, 1.01 + lift),
                (0.14, 1.01 + lift), (-0.5 * jaw, 0.86 + lift * 0.6), (-0.84 * w, 0.5), (-0.96 * w, 0.1),
                (-0.99 * w, -0.3), (-0.55 * w, -0.92),
            ]  # fmt: skip
        return mirrored(
            [
                (0.0, -1.05), (0.5 * w, -0.96), (0.92 * w, -0.5), (1.0 * w, 0.08), (0.94 * w, 0.42),
                (jaw * w, 0.79 + lift), (0.36 * w * jaw / 0.72, 0.97 + lift), (0.0, 1.03 + lift),
            ]
        )  # fmt: skip


def draw_head(pen: Pen, face: Face) -> None:
    """Skin of the head: ears, contour, cheeks, nose, freckles."""
    skin, w = face.skin, face.w
    line = edge(skin)
    ears = [(-0.12, 0.2)] if face.profile else [(-w * 0.98, 0.24), (w * 0.98, 0.24)]
    if face.view == "three-quarter":
        ears = [(-w * 0.93, 0.24)]
    if not face.profile:
        for x, y in ears:
            pen.dot(x, y, 0.13, 0.2, skin, line)
    pen.shape(face.contour(), skin, line)
    if face.up and not face.profile:
        # The underside of the jaw shows when the head is tipped back.
        s = 0.25 if face.view == "three-quarter" else 0.0
        pen.shape([(-0.45 * w + s, 0.73), (s, 0.81), (0.45 * w + s, 0.73), (0.26 * w + s, 0.83), (s, 0.86),
            (-0.26 * w + s, 0.83)],
                  shade(skin, 0.22))  # fmt: skip
    if face.profile:
        pen.dot(-0.1, 0.2, 0.12, 0.2, skin, line)
        pen.curve([(-0.13, 0.1), (-0.07, 0.18), (-0.12, 0.29)], shade(skin, 0.3))
    rose = mix(skin, (240, 88, 100), 0.26 if luma(skin) > 110 else 0.3)
    soft = mix(skin, rose, 0.5)
    flat = pen.warped(face.warp())
    for s in (-1, 1):
        if face.profile and s > 0:
            continue
        x, y = (0.42, 0.47) if face.profile else (s * 0.58 * w, 0.47)
        k = 1.0
        if s > 0 and face.view == "three-quarter":  # keep the far cheek inside the contour
            x, k = 0.4 * w, 0.75
        flat.dot(x, y, 0.22 * k, 0.14 * k, soft)
        flat.dot(x, y, 0.16 * k, 0.1 * k, rose)
    nose = shade(skin, 0.3)
    if face.profile:
        flat.curve([(0.87, 0.5), (0.82, 0.46), (0.84, 0.42)], nose)
    elif face.view == "three-quarter":
        flat.ribbon([(0.06, 0.22), (0.17, 0.42), (0.12, 0.49), (-0.02, 0.49)], (0.015, 0.035, 0.04, 0.02), nose)
    else:
        flat.ribbon([(-0.07, 0.455), (-0.03, 0.5), (0.03, 0.5), (0.07, 0.455)], (0.02, 0.04, 0.04, 0.02), nose)
        flat.dot(0.0, 0.41, 0.03, 0.04, light(skin, 0.4))
    if face.identity.freckles == "freckles":
        _freckles(flat, face)


def _freckles(pen: Pen, face: Face) -> None:
    colour = mix(face.skin, (112, 46, 20), 0.55) if luma(face.skin) > 110 else mix(face.skin, (24, 8, 8), 0.55)
    r = max(0.026, 0.62 * pen.min_line / pen.unit)
    cheek = [(-0.17, 0.0), (-0.08, 0.09), (0.0, -0.02), (0.08, 0.09), (0.16, 0.0)]
    spots = [(s * 0.55 * face.w + dx, 0.45 + dy) for s in (-1, 1) for dx, dy in cheek] + [(-0.08, 0.33), (0.08, 0.33)]
    if face.profile:
        spots = [(0.42 + dx, 0.45 + dy) for dx, dy in cheek] + [(0.72, 0.34), (0.8, 0.4)]
    for x, y in spots:
        pen.dot(x, y, r, r, colour)


def _eye_places(face: Face) -> list[tuple[float, float, float]]:
    """(x, y, squash) of each visible eye, viewer's left first."""
    if face.profile:
        return [(0.52, 0.17, 0.72)]
    return [(-0.475 * face.w, 0.17, 1.0), (0.475 * face.w, 0.17, 1.0)]


def draw_eyes(pen: Pen, face: Face) -> None:
    """Both eyes, or the near one in profile."""
    mood = face.mood
    flat = pen.warped(face.warp())
    for i, (x, y, squash) in enumerate(_eye_places(face)):
        out = -1 if i == 0 else 1  # direction of the temple
        half_w, half_h = EYE_SIZE[face.identity.eye_size]
        half_w *= squash
        if mood.eyes == "open":
            wide = sum(mood.open) / 2 if face.profile else mood.open[i]
            _open_eye(flat, face, x, y, half_w, half_h, wide, out)
        else:
            bend = -1 if mood.eyes == "happy" else 1
            half_w *= 1.06
            y0 = y + (0.06 if bend < 0 else 0.0)
            arc = [(x - half_w, y0), (x - 0.55 * half_w, y0 + 0.1 * bend), (x, y0 + 0.135 * bend),
                   (x + 0.55 * half_w, y0 + 0.1 * bend), (x + half_w, y0)]  # fmt: skip
            flat.ribbon(arc, (0.03, 0.06, 0.065, 0.06, 0.03), INK)
            for k in (0.55, 1.0):
                foot = (x + out * half_w * k, y0 + (0.1 * bend if k < 1 else 0.0))
                tip = (foot[0] + out * 0.07, foot[1] + 0.065)
                flat.ribbon([foot, tip], (0.04, 0.015), INK)
    if face.scene.expression == "crying":
        _tears(flat, face)


def _open_eye(pen: Pen, face: Face, x: float, y: float, w: float, h: float, wide: float, out: int) -> None:
    mood = face.mood
    iris = IRIS[face.identity.eye_color]
    full_h, h = h, h * wide
    y += (full_h - h) * 0.5
    white = (255, 254, 252)
    almond = [(-1.0 * out, 0.22), (-0.66 * out, -0.66), (0.0, -1.0), (0.62 * out, -0.84), (1.04 * out, -0.06),
              (0.68 * out, 0.72), (0.0, 0.98), (-0.62 * out, 0.78)]  # fmt: skip
    pen.shape([(x + a * w, y + b * h) for a, b in almond], white, shade(face.skin, 0.25), 0.012)
    r = min(0.86 * full_h, 0.88 * w if not face.profile else 1.1 * w)
    rx = r * (0.8 if face.profile else 0.94)
    if mood.mouth == "o":
        r, rx = r * 0.8, rx * 0.8
    gx, gy = mood.gaze
    if abs(gx) + abs(gy) > 0.9:  # a clear look aside needs white on the other side
        r, rx = r * 0.86, rx * 0.86
    if face.profile:
        gx = 0.35 + 0.3 * gx
    ix, iy = x + gx * 0.42 * w, y + gy * 0.42 * h
    clip = (y - 0.93 * h, y + 0.9 * h, x - 0.97 * w, x + 0.97 * w)
    pen.dot(ix, iy, rx, r, shade(iris, 0.55), clip=clip)
    pen.dot(ix, iy + 0.04 * r, 0.84 * rx, 0.84 * r, iris, clip=clip)
    glow = mix(iris, (150, 170, 80), 0.5) if face.identity.eye_color == "hazel" else light(iris, 0.42)
    pen.dot(ix, iy + 0.42 * r, 0.56 * rx, 0.36 * r, glow, clip=clip)
    pen.dot(ix, iy, 0.4 * rx, 0.42 * r, (24, 14, 26), clip=clip)
    pen.dot(ix - 0.34 * rx, iy - 0.36 * r, 0.28 * rx, 0.28 * r, WHITE, clip=clip)
    pen.dot(ix + 0.36 * rx, iy + 0.4 * r, 0.14 * rx, 0.14 * r, WHITE)
    lid = [(-1.06 * out, 0.26), (-0.68 * out, -0.68), (0.0, -1.04), (0.66 * out, -0.88), (1.1 * out, -0.08)]
    t = 0.062
    pen.ribbon([(x + a * w, y + b * h) for a, b in lid], (0.02, t * 0.8, t, t * 1.15, t), INK)
    corner = (x + 1.02 * out * w, y - 0.14 * h)
    pen.ribbon([corner, (corner[0] + out * 0.1, corner[1] - 0.075)], (0.055, 0.012), INK)
    pen.ribbon(
        [(x + 0.8 * out * w, y - 0.6 * h), (x + 0.8 * out * w + out * 0.085, y - 0.6 * h - 0.08)], (0.045, 0.01), INK
    )


def _tears(pen: Pen, face: Face) -> None:
    blue, rim = (126, 200, 250), (58, 134, 214)
    for x, y, _ in _eye_places(face):
        y += 0.24
        for dx, dy, r in ((0.0, 0.34, 0.1),):
            pen.ribbon([(x + dx, y - 0.08), (x + dx, y + dy)], (0.075, 0.1), blue, rim)
            drop = [(0.0, -1.9), (0.75, -0.4), (0.85, 0.4), (0.0, 1.0), (-0.85, 0.4), (-0.75, -0.4)]
            pen.shape([(x + dx + a * r, y + dy + b * r) for a, b in drop], blue, rim, 0.018)
            pen.dot(x + dx - 0.03, y + dy + 0.02, 0.028, 0.04, WHITE)


def draw_brows(pen: Pen, face: Face) -> None:
    """Brows, drawn over the fringe as in comics, so that the expression is never hidden."""
    mood = face.mood
    thick = BROWS[face.identity.brows]
    base = face.hair
    colour = shade(base, 0.35) if luma(base) > 110 else mix(base, (30, 20, 26), 0.35)
    if luma(face.skin) < 80 and luma(colour) < 70:
        colour = (28, 18, 22)
    if face.identity.hair_color in ("blonde", "platinum blonde", "silver gray"):
        colour = mix(base, (96, 70, 54) if face.identity.hair_color != "silver gray" else (74, 78, 92), 0.58)
    flat = pen.warped(face.warp())
    _, half_h = EYE_SIZE[face.identity.eye_size]
    level = -0.105 - 0.6 * (half_h - 0.15) - thick * 0.5
    for i, (x, _, squash) in enumerate(_eye_places(face)):
        out = -1 if i == 0 else 1
        inner, outer = mood.left if i == 0 else mood.right
        if face.profile and face.scene.expression == "skeptical":
            inner, outer = mood.right
        reach = 0.235 * squash
        arch = 0.5 * (inner + outer) + 0.055
        pts = [(x - out * reach * 0.92, level - inner + 0.02), (x + out * reach * 0.1, level - arch),
               (x + out * reach * 1.12, level - outer + 0.035)]  # fmt: skip
        flat.ribbon(pts, (thick, thick * 0.95, max(0.02, thick * 0.35)), colour)


def draw_mouth(pen: Pen, face: Face) -> None:
    """The mouth; lips show as colour around it, fuller or thinner."""
    kind, full = face.mood.mouth, LIPS[face.identity.lips]
    lip = mix(face.skin, (196, 48, 72), 0.58 if luma(face.skin) > 120 else 0.5)
    dark = mix(shade(lip, 0.45), (90, 16, 36), 0.35)

    if face.profile:

        def side(p: np.ndarray) -> np.ndarray:
            return np.stack(
                [0.825 + 0.72 * np.minimum(p[:, 0], 0.0) + 0.05 * np.exp(-60 * p[:, 0] ** 2), p[:, 1]], axis=1
            )

        flat = pen.warped(side)
    else:
        flat = pen.warped(face.warp())
    y = 0.715
    if kind in ("laugh", "grin"):
        hw, top, depth = (0.34, 0.6, 0.34) if kind == "laugh" else (0.29, 0.63, 0.225)
        outer = [(-hw, top), (-0.5 * hw, top + 0.035), (0, top + 0.045), (0.5 * hw, top + 0.035), (hw, top),
                 (0.72 * hw, top + 0.66 * depth), (0.3 * hw, top + depth), (-0.3 * hw, top + depth),
                     (-0.72 * hw, top + 0.66 * depth)]  # fmt: skip
        flat.shape(outer, (122, 26, 44), lip, 0.03 + 0.5 * full)
        if kind == "laugh":
            flat.dot(0.0, top + 0.83 * depth, 0.5 * hw, 0.2 * depth, (232, 104, 112), clip=(top, top + 0.93 * depth))
        teeth = 0.36 if kind == "laugh" else 0.55
        flat.shape([(-0.84 * hw, top + 0.04), (0, top + 0.06), (0.84 * hw, top + 0.04),
            (0.66 * hw, top + teeth * depth),
                    (0, top + (teeth + 0.1) * depth), (-0.66 * hw, top + teeth * depth)], WHITE)  # fmt: skip
        return
    if kind == "o":
        if face.profile:
            pen.dot(0.78, y + 0.01, 0.075, 0.125, (122, 26, 44), lip, 0.03 + 0.4 * full)
        else:
            flat.dot(0.0, y + 0.04, 0.1, 0.135, (122, 26, 44), lip, 0.035 + 0.5 * full)
        return
    if kind == "wail":
        hw, top = 0.21, 0.68
        flat.shape([(-hw, top + 0.15), (-0.5 * hw, top + 0.02), (0, top), (0.5 * hw, top + 0.02), (hw, top + 0.15),
            (0.4 * hw, top + 0.13),
                    (-0.4 * hw, top + 0.13)], (122, 26, 44), lip, 0.03 + 0.5 * full)  # fmt: skip
        return
    # Closed mouths: (half width, heights of left corner, middle, right corner; positive is down).
    hw, left, mid, right = {
        "smile": (0.35, -0.15, 0.065, -0.15),
        "neutral": (0.2, 0.0, 0.01, 0.0),
        "flat": (0.27, 0.06, 0.0, 0.06),
        "purse": (0.12, 0.04, -0.01, -0.03),
        "frown": (0.27, 0.15, -0.05, 0.15),
        "relaxed": (0.15, 0.0, 0.014, 0.0),
        "smirk": (0.31, 0.08, 0.04, -0.17),
        "gentle": (0.25, -0.07, 0.045, -0.07),
    }[kind]
    x0 = 0.13 if kind == "purse" and not face.profile else 0.0
    if face.profile and kind == "smirk":
        left, right = right, left
    xs = np.linspace(-1.0, 1.0, 9)
    bend = np.where(xs < 0, left, right) * xs**2 + mid * (1 - xs**2)
    seam = np.stack([x0 + hw * xs, y + bend], axis=1)
    upper = full * 0.8 * (1 - np.abs(xs) ** 2.2) * (1 - 0.22 * np.exp(-((xs / 0.16) ** 2)))
    lower = full * 1.15 * (1 - np.abs(xs) ** 2.6)
    top, bottom = seam - np.stack([0 * xs, upper], 1), seam + np.stack([0 * xs, lower], 1)
    flat.shape(np.concatenate([top, bottom[::-1]]), lip, smooth=False)
    if full > 0.05:
        flat.ribbon(
            [(x0 - 0.3 * hw, y + mid + 0.6 * full), (x0 + 0.3 * hw, y + mid + 0.6 * full)],
            (0.01, 0.012),
            light(lip, 0.45),
        )
    flat.curve(seam, dark, 0.03, smooth=False)
    if kind in ("smile", "smirk"):
        for s, rise in ((-1, left), (1, right)):
            if rise < 0:
                flat.curve(
                    [(x0 + s * (hw + 0.0), y + rise - 0.025), (x0 + s * (hw + 0.035), y + rise + 0.03)],
                    shade(face.skin, 0.35),
                    0.02,
                )


def draw_glasses(pen: Pen, face: Face) -> None:
    """Thin round frames or dark sunglasses."""
    kind = face.scene.glasses
    if kind == "none":
        return
    flat = pen.warped(face.warp())
    places = _eye_places(face)
    frame = (58, 44, 52)
    for i, (x, y, _) in enumerate(places):
        out = -1 if i == 0 else 1
        rx = 0.325 * (0.72 if face.profile else 1.0)
        if face.profile:
            x += 0.06
        if kind == "round":
            flat.dot(x, y + 0.03, rx, 0.325, None, frame, 0.042)
        else:
            box = [
                (-1.05, -0.62),
                (0.0, -0.74),
                (1.05, -0.62),
                (1.0, 0.2),
                (0.62, 0.8),
                (0.0, 0.92),
                (-0.62, 0.8),
                (-1.0, 0.2),
            ]
            flat.shape([(x + a * rx * 1.08, y + 0.04 + b * 0.31) for a, b in box], (40, 34, 46), (20, 16, 24), 0.04)
            flat.ribbon([(x - 0.55 * rx, y + 0.1), (x + 0.15 * rx, y - 0.12)], (0.03, 0.055), (112, 112, 136))
        if face.profile:
            flat.curve([(x - rx, y), (-0.05, 0.1)], frame, 0.045)
        elif face.view == "three-quarter" and i == 0 or face.view == "frontal":
            flat.curve(
                [(x + out * rx, y - 0.02), (out * face.w * (0.99 if face.view == "frontal" else 1.12), y - 0.06)],
                frame,
                0.045,
            )
    if not face.profile:
        inner = 0.475 * face.w - 0.325
        if inner > 0.01:
            flat.curve([(-inner, 0.16), (0.0, 0.12), (inner, 0.16)], frame, 0.045)
        else:
            flat.curve([(-0.03, 0.15), (0.03, 0.15)], frame, 0.045)


def draw_earrings(pen: Pen, face: Face) -> None:
    """Gold hoops or pearls, drawn over the hair so that long hair never hides them."""
    kind = face.scene.earrings
    if kind == "none" or face.view == "back":
        return
    w = face.w
    spots = [(-0.1, 0.42)] if face.profile else [(-w - 0.06, 0.46)]
    if face.view == "frontal":
        spots.append((w + 0.06, 0.46))
    for x, y in spots:
        if kind == "hoops":
            pen.dot(x, y + 0.17, 0.135, 0.165, None, shade(GOLD, 0.5), 0.085)
            pen.dot(x, y + 0.17, 0.135, 0.165, None, light(GOLD, 0.15), 0.05)
        else:
            pen.dot(x, y, 0.05, 0.05, GOLD, shade(GOLD, 0.5), 0.02)
            pen.dot(x, y + 0.15, 0.105, 0.105, (250, 244, 238), (120, 104, 116), 0.024)
            pen.dot(x - 0.03, y + 0.115, 0.035, 0.035, WHITE)


def draw_hat(pen: Pen, face: Face) -> None:
    """A berry-red beanie or a straw hat."""
    kind, hx = face.scene.hat, face.hx
    if kind == "none":
        return
    x = {"profile": -0.12, "three-quarter": 0.04}.get(face.view, 0.0)
    rx = 1.08 if face.profile else hx + 0.05
    if face.style == "curly":
        rx += 0.08
    if kind == "beanie":
        wool = (176, 52, 84)
        pen.dot(x, -1.62, 0.24, 0.22, light(wool, 0.55), edge(light(wool, 0.5)))
        pen.shape([(x - rx, -0.5), (x - 0.93 * rx, -1.0), (x - 0.5 * rx, -1.42), (x, -1.52), (x + 0.5 * rx, -1.42),
                   (x + 0.93 * rx, -1.0), (x + rx, -0.5), (x, -0.56)], wool, edge(wool))  # fmt: skip
        for k in (-0.5, 0.0, 0.5):
            pen.curve(
                [(x + k * 0.6 * rx, -1.38), (x + k * rx, -1.05), (x + 1.15 * k * rx, -0.7)], shade(wool, 0.25), 0.03
            )
        pen.shape([(x - rx - 0.04, -0.72), (x - 0.5 * rx, -0.8), (x, -0.83), (x + 0.5 * rx, -0.8),
            (x + rx + 0.04, -0.72),
                   (x + rx + 0.05, -0.4), (x + 0.5 * rx, -0.46), (x, -0.48), (x - 0.5 * rx, -0.46),
                       (x - rx - 0.05, -0.4)],
                  light(wool, 0.14), edge(wool))  # fmt: skip
        for k in np.linspace(-0.8, 0.8, 7):
            pen.curve([(x + k * rx, -0.76), (x + k * rx * 1.02, -0.5)], shade(wool, 0.18), 0.03)
        return
    straw, band = (238, 206, 136), (150, 72, 60)
    line = edge(straw)
    pen.dot(x, -0.62, rx + 0.72, 0.3, straw, line)
    pen.dot(x, -0.68, rx + 0.1, 0.17, shade(straw, 0.2))
    pen.shape([(x - 0.98 * rx, -0.7), (x - 0.9 * rx, -1.25), (x - 0.5 * rx, -1.58), (x, -1.62), (x + 0.5 * rx, -1.58),
               (x + 0.9 * rx, -1.25), (x + 0.98 * rx, -0.7), (x + 0.5 * rx, -0.6), (x, -0.56), (x - 0.5 * rx, -0.6)],
              light(straw, 0.15), line)  # fmt: skip
    pen.shape([(x - 0.96 * rx, -0.98), (x, -0.84), (x + 0.96 * rx, -0.98), (x + 0.98 * rx, -0.72),
        (x + 0.5 * rx, -0.61),
               (x, -0.57), (x - 0.5 * rx, -0.61), (x - 0.98 * rx, -0.72)], band, edge(band))  # fmt: skip
    for k in (-0.45, 0.45):
        pen.curve([(x + k * rx, -1.5), (x + 1.35 * k * rx, -1.1)], shade(straw, 0.18), 0.03)
