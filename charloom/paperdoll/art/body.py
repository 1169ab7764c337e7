"""The body under the clothes: turning the torso, arms in eight poses, legs in four stances."""

from __future__ import annotations

import numpy as np

from charloom.paperdoll.art.pen import Colour, Pen, Points, Warp, edge, light, shade

# Half width of the body from the front, and its front and rear edge from the side, by height.
_Y = (0.8, 1.0, 1.3, 1.42, 1.55, 1.7, 2.1, 2.5, 2.75, 3.05, 3.4, 4.4, 5.6)
_HALF = (0.27, 0.25, 0.28, 0.52, 0.78, 0.88, 0.77, 0.68, 0.65, 0.74, 0.84, 0.95, 1.05)
_FRONT = (0.3, 0.21, 0.22, 0.29, 0.36, 0.44, 0.54, 0.45, 0.4, 0.43, 0.48, 0.62, 0.72)
_REAR = (-0.42, -0.36, -0.36, -0.42, -0.5, -0.56, -0.56, -0.42, -0.38, -0.5, -0.58, -0.68, -0.78)

MUG: Colour = (250, 248, 244)
SHOE: Colour = (96, 74, 70)


def half_width(y: np.ndarray | float) -> np.ndarray:
    """Half width of the torso seen from the front."""
    return np.interp(y, _Y, _HALF)


def body_warp(view: str) -> Warp | None:
    """The map from points of the frontal torso to where they land in ``view`` (facing right)."""
    if view == "three-quarter":

        def turn(p: np.ndarray) -> np.ndarray:
            u = np.clip(p[:, 0] / half_width(p[:, 1]), -1, 1)
            return np.stack([0.93 * p[:, 0] + 0.15 * half_width(p[:, 1]) * (1 - u * u), p[:, 1]], axis=1)

        return turn
    if view == "profile":

        def side(p: np.ndarray) -> np.ndarray:
            front, rear = np.interp(p[:, 1], _Y, _FRONT), np.interp(p[:, 1], _Y, _REAR)
            u = p[:, 0] / half_width(p[:, 1])
            x = front + (front - rear) * np.clip(u, -1, 0) + 0.45 * (np.maximum(u - 1, 0) + np.minimum(u + 1, 0))
            return np.stack([x, p[:, 1]], axis=1)

        return side
    return None


def flank(top: float, bottom: float, ease: float = 0.0, count: int = 6) -> list[tuple[float, float]]:
    """Right side of the torso from ``top`` to ``bottom``."""
    return [(float(half_width(y)) + ease, float(y)) for y in np.linspace(top, bottom, count)]


class Sleeve:
    """What covers an arm: ``reach`` 0 bare, 0.45 short, 1 to the wrist."""

    def __init__(self, reach: float, colour: Colour, ease: float = 0.0, cuff: Colour | None = None,
                 bands: tuple[Colour, ...] = ()) -> None:  # fmt: skip
        self.reach, self.colour, self.ease, self.cuff, self.bands = reach, colour, ease, cuff, bands


# Elbow and hand of the arm on the viewer's right (x mirrored for the other one).
_REST = ((1.02, 2.4), (1.0, 3.05))
_POSES: dict[str, tuple] = {
    "at sides": (_REST, _REST),
    "crossed": (((1.0, 2.4), (-0.42, 2.18)), ((1.0, 2.45), (-0.5, 2.48))),
    "on hips": (((1.5, 2.3), (0.76, 2.78)), ((1.5, 2.3), (0.76, 2.78))),
    "waving": (((1.42, 1.95), (1.6, 0.92)), _REST),
    "raised": (((1.5, 1.2), (1.52, -0.2)), ((1.5, 1.2), (1.52, -0.2))),
    "on chin": (((0.82, 2.45), (0.3, 1.16)), ((0.95, 2.5), (-0.5, 2.55))),
    "mug": (((1.0, 2.5), (0.42, 2.1)), ((1.0, 2.5), (0.1, 2.25))),
    "book": (((1.02, 2.5), (0.62, 2.55)), ((1.02, 2.5), (0.62, 2.55))),
}
# Near and far arm from the side, facing right.
_SIDE_REST = ((-0.14, 2.4), (0.02, 3.05))
_SIDE_POSES: dict[str, tuple] = {
    "at sides": (_SIDE_REST, ((0.1, 2.4), (0.3, 3.0))),
    "crossed": (((0.0, 2.5), (0.66, 2.25)), ((0.3, 2.45), (0.5, 2.5))),
    "on hips": (((-0.72, 2.35), (-0.02, 2.8)), _SIDE_REST),
    "waving": (((0.85, 2.1), (1.5, 1.2)), _SIDE_REST),
    "raised": (((0.8, 1.35), (1.2, 0.0)), ((1.0, 1.5), (1.62, 0.25))),
    "on chin": (((0.42, 2.5), (0.72, 1.18)), ((0.4, 2.5), (0.3, 2.6))),
    "mug": (((0.1, 2.5), (0.86, 2.12)), _SIDE_REST),
    "book": (((0.1, 2.55), (0.82, 2.5)), ((0.3, 2.5), (1.0, 2.5))),
}
OVER_HEAD = ("waving", "raised", "on chin")
FRONT_ONLY = ("crossed", "on chin", "mug", "book")


def _arm(pen: Pen, shoulder: tuple[float, float], elbow: tuple[float, float], hand: tuple[float, float],
         skin: Colour, sleeve: Sleeve, fingers: bool) -> None:  # fmt: skip
    p = np.array([shoulder, elbow, hand])
    line = edge(skin)
    away = (p[2] - p[1]) / max(1e-6, float(np.hypot(*(p[2] - p[1]))))
    if fingers:
        side = np.array([-away[1], away[0]])
        palm = p[2] + away * 0.1
        for k in (-1.5, -0.5, 0.5, 1.5):
            tip = palm + away * (0.34 - 0.03 * abs(k)) + side * 0.115 * k
            pen.limb([palm + side * 0.07 * k, tip], (0.115, 0.095), skin, line)
        inward = -1.0 if p[2][0] > 0 else 1.0
        pen.limb(
            [palm, palm + side * (0.27 * (-inward if side[0] < 0 else inward)) + away * 0.03], (0.12, 0.1), skin, line
        )
    # Sleeves are cut along the arm: shoulder 0, elbow 1, hand 2.
    bare = [p[0], p[0] + (p[1] - p[0]) * 0.6, p[1], p[1] + (p[2] - p[1]) * 0.5, p[2]]
    inner = p[0] * (0.87, 1.0) + (0.0, 0.05)  # hides the outline where the arm joins the trunk
    if sleeve.reach < 1:
        pen.limb(bare, (0.3, 0.27, 0.25, 0.23, 0.2), skin, line)
    pen.dot(p[2][0] + away[0] * 0.06, p[2][1] + away[1] * 0.06, 0.165, 0.165, skin, line)
    if sleeve.reach <= 0:
        if abs(p[0][0]) > 0.3:
            pen.dot(inner[0], inner[1], 0.155, 0.13, skin)
        return
    tone, e = sleeve.colour, sleeve.ease
    if sleeve.reach < 1:
        cut = [p[0], p[0] + (p[1] - p[0]) * 0.5, p[0] + (p[1] - p[0]) * sleeve.reach * 1.5]
        pen.limb(cut, (0.36 + e, 0.38 + e, 0.38 + e), tone, edge(tone))
        if abs(p[0][0]) > 0.3:
            pen.dot(inner[0], inner[1] + 0.02, 0.2, 0.17, tone)
        return
    wrist = p[1] + (p[2] - p[1]) * 0.84
    path = [p[0], p[0] + (p[1] - p[0]) * 0.6, p[1], p[1] + (p[2] - p[1]) * 0.5, wrist]
    widths = (0.36 + e, 0.34 + e, 0.33 + e, 0.31 + e, 0.29 + e)
    pen.limb(path, widths, tone, edge(tone))
    if abs(p[0][0]) > 0.3 and not sleeve.bands:
        pen.dot(inner[0], inner[1] + 0.02, 0.19, 0.16, tone)
    if sleeve.bands:
        for i, t in enumerate((0.3, 0.62, 1.38, 1.68)):
            a = p[0] + (p[1] - p[0]) * t if t < 1 else p[1] + (p[2] - p[1]) * (t - 1)
            d = (p[1] - p[0]) if t < 1 else (p[2] - p[1])
            n = np.array([-d[1], d[0]]) / max(1e-6, float(np.hypot(*d))) * (0.15 + e / 2)
            pen.ribbon([a - n, a + n], (0.13, 0.13), sleeve.bands[i % len(sleeve.bands)])
    if sleeve.cuff:
        pen.limb([wrist - away * 0.07, wrist + away * 0.01], (0.32 + e, 0.32 + e), sleeve.cuff, edge(sleeve.cuff))


def draw_arms(pen: Pen, view: str, pose: str, skin: Colour, sleeve: Sleeve, layer: str) -> None:
    """Draw the arms that belong to ``layer``: "behind" the torso, "body" or "over" the head."""
    if view == "profile":
        near, far = _SIDE_POSES[pose]
        over = "over" if pose in OVER_HEAD else "body"
        if layer == "behind" and pose not in ("on hips", "waving", "mug"):
            dim = Sleeve(sleeve.reach, shade(sleeve.colour, 0.15), sleeve.ease, sleeve.cuff, sleeve.bands)
            _arm(pen, (0.1, 1.72), *far, shade(skin, 0.1), dim, pose == "raised")
        if layer == over:
            if pose in ("mug", "book"):
                _held(pen, pose, view)
            _arm(pen, (-0.06, 1.74), *near, skin, sleeve, pose in ("waving", "raised"))
        return
    right, left = _POSES[pose]
    if view == "back":
        mine = "behind" if pose in FRONT_ONLY else "body"
        layers = [mine, mine]
    else:
        layers = ["over" if pose in OVER_HEAD else "body", "over" if pose == "raised" else "body"]
    squeeze = 0.95 if view == "three-quarter" else 1.0
    order = [(-1, left, layers[1]), (1, right, layers[0])]
    if pose == "book" and layer == layers[0]:
        _held(pen, pose, view)
    for s, (elbow, hand), mine in order:
        if mine != layer:
            continue
        if pose == "mug" and s == 1 and view != "back":
            _held(pen, pose, view)
        bend = 0.06 if view == "three-quarter" and hand[0] < 0.7 else 0.0
        e, h = (s * elbow[0] * squeeze, elbow[1]), (s * hand[0] * squeeze + bend, hand[1])
        fingers = pose == "raised" or (pose == "waving" and s == 1)
        _arm(pen, (s * 0.8 * squeeze, 1.72), e, h, skin, sleeve, fingers)


def _held(pen: Pen, pose: str, view: str) -> None:
    """The mug or the open book in the hands."""
    if pose == "mug":
        x, y = (1.0, 1.98) if view == "profile" else (0.3, 1.98)
        teal = (46, 150, 160)
        pen.dot(x + 0.24, y, 0.13, 0.15, None, edge(MUG), 0.1)
        pen.dot(x + 0.24, y, 0.13, 0.15, None, MUG, 0.06)
        pen.shape(
            [(x - 0.25, y - 0.26), (x + 0.25, y - 0.26), (x + 0.22, y + 0.26), (x - 0.22, y + 0.26)],
            MUG,
            edge(MUG),
            0.03,
            smooth=False,
        )
        pen.shape(
            [(x - 0.24, y - 0.06), (x + 0.24, y - 0.06), (x + 0.228, y + 0.12), (x - 0.228, y + 0.12)],
            teal,
            smooth=False,
        )
        pen.dot(x, y - 0.26, 0.25, 0.075, (112, 70, 50), edge(MUG), 0.028)
        return
    cover, page = (168, 56, 62), (255, 250, 236)
    if view == "profile":
        pen.shape(
            [(0.92, 2.52), (0.72, 1.95), (0.86, 1.9), (1.1, 2.46), (1.45, 1.98), (1.58, 2.05), (1.16, 2.62)],
            cover,
            edge(cover),
            smooth=False,
        )
        pen.shape(
            [(1.0, 2.42), (0.84, 1.96), (0.92, 1.92), (1.1, 2.36), (1.38, 1.96), (1.46, 2.0), (1.12, 2.5)],
            page,
            smooth=False,
        )
        return
    x, y = (0.06, 2.42) if view == "three-quarter" else (0.0, 2.42)
    for s in (-1, 1):
        pen.shape(
            [(x, y - 0.3), (x + s * 0.66, y - 0.42), (x + s * 0.72, y + 0.2), (x, y + 0.34)],
            cover,
            edge(cover),
            0.03,
            smooth=False,
        )
        pen.shape([(x, y - 0.27), (x + s * 0.3, y - 0.38), (x + s * 0.6, y - 0.37), (x + s * 0.65, y + 0.13),
            (x + s * 0.32, y + 0.14), (x, y + 0.26)],
                  page, edge(page), 0.02, smooth=False)  # fmt: skip
        for k in (-0.22, -0.08, 0.06):
            pen.curve([(x + s * 0.13, y + k + 0.03), (x + s * 0.52, y + k - 0.05)], (168, 156, 150), 0.03)
    pen.curve([(x, y - 0.28), (x, y + 0.3)], edge(page), 0.03)


def draw_legs(pen: Pen, view: str, stance: str, cloth: Colour | None, skin: Colour, shoe: Colour = SHOE) -> None:
    """Legs in ``cloth`` (None: bare) with shoes."""
    tone = cloth or skin
    dim = shade(tone, 0.14)
    w = (0.5, 0.44, 0.36) if cloth else (0.38, 0.31, 0.24)

    def leg(points: Points, colour: Colour, foot: tuple[float, float, float]) -> None:
        x, y, tilt = foot
        rx = 0.3 if view == "profile" else 0.22
        q = pen.turned(tilt, x, y) if tilt else pen
        if view == "profile":
            q.shape(
                [
                    (x - 0.2, y - 0.12),
                    (x + 0.08, y - 0.14),
                    (x + 0.36, y + 0.06),
                    (x + 0.38, y + 0.17),
                    (x - 0.22, y + 0.17),
                ],
                shoe,
                edge(shoe),
            )
        else:
            q.shape(
                [
                    (x - rx, y + 0.02),
                    (x - 0.12, y - 0.16),
                    (x + 0.12, y - 0.16),
                    (x + rx, y + 0.02),
                    (x + rx, y + 0.17),
                    (x - rx, y + 0.17),
                ],
                shoe,
                edge(shoe),
            )
        q.curve([(x - 0.17, y + 0.15), (x + (0.33 if view == "profile" else 0.17), y + 0.15)], light(shoe, 0.7), 0.045)
        pen.limb(points, w, colour, edge(colour))

    if stance == "sitting":
        if view == "profile":
            leg([(-0.1, 3.3), (0.95, 3.32), (0.35, 3.78)], dim, (0.3, 3.78, 0))
            leg([(-0.15, 3.35), (1.05, 3.45), (0.2, 3.88)], tone, (0.05, 3.88, 0))
        else:
            leg([(0.35, 3.3), (1.25, 3.6), (-0.4, 3.84)], dim, (-0.62, 3.86, 90))
            leg([(-0.35, 3.3), (-1.25, 3.6), (0.4, 3.88)], tone, (0.62, 3.9, -90))
        return
    paths = {
        "standing": (
            [(0.34, 3.25), (0.34, 4.3), (0.34, 5.3)],
            (0.36, 5.42, 0),
            [(-0.34, 3.25), (-0.34, 4.3), (-0.34, 5.3)],
            (-0.36, 5.42, 0),
        ),
        "walking": (
            [(0.32, 3.25), (0.62, 4.25), (1.0, 5.0)],
            (1.06, 5.14, -24),
            [(-0.32, 3.25), (-0.5, 4.3), (-0.66, 5.28)],
            (-0.7, 5.42, 8),
        ),
        "jumping": (
            [(0.36, 3.25), (0.86, 4.0), (0.5, 4.72)],
            (0.46, 4.84, 24),
            [(-0.36, 3.25), (-0.86, 4.0), (-0.5, 4.72)],
            (-0.46, 4.84, -24),
        ),
    }
    side = {
        "standing": (
            [(0.06, 3.25), (0.1, 4.3), (0.06, 5.3)],
            (0.08, 5.42, 0),
            [(-0.06, 3.25), (-0.02, 4.3), (-0.06, 5.3)],
            (-0.04, 5.42, 0),
        ),
        "walking": (
            [(0.0, 3.25), (-0.35, 4.25), (-1.0, 5.1)],
            (-1.0, 5.24, 32),
            [(-0.05, 3.25), (0.55, 4.25), (0.8, 5.28)],
            (0.86, 5.4, -12),
        ),
        "jumping": (
            [(0.05, 3.25), (0.1, 4.1), (-0.65, 4.6)],
            (-0.78, 4.62, 70),
            [(-0.05, 3.25), (0.8, 3.75), (0.35, 4.6)],
            (0.4, 4.72, 18),
        ),
    }
    first, foot1, second, foot2 = (side if view == "profile" else paths)[stance]
    leg(first, dim if view == "profile" else tone, foot1)
    leg(second, tone, foot2)


def draw_neck(pen: Pen, skin: Colour, up: bool) -> None:
    """Bare neck, shoulders and chest."""
    half = (
        [(0.0, 0.6), (0.26, 0.62), (0.25, 1.05), (0.29, 1.3), (0.54, 1.43), (0.8, 1.54), (0.9, 1.74)]
        + flank(2.05, 3.1, -0.02, 4)
        + [(0.0, 3.15)]
    )
    pen.shape([*half, *[(-x, y) for x, y in reversed(half) if x]], skin, edge(skin))
    low = 1.2 if up else 1.26
    pen.shape([(-0.25, 0.7), (0.25, 0.7), (0.25, 1.02), (0.1, low), (-0.1, low), (-0.25, 1.02)], shade(skin, 0.2))
    collar = shade(skin, 0.22)
    for s in (-1, 1):
        pen.ribbon([(s * 0.12, 1.5), (s * 0.32, 1.46), (s * 0.55, 1.52)], (0.015, 0.03, 0.012), collar)
