"""Eight hair styles from every side: a mass behind the body, a cap with a fringe over the head."""

from __future__ import annotations

import math

import numpy as np

from charloom.paperdoll.art.face import Face
from charloom.paperdoll.art.pen import Colour, Pen, edge, light, luma, mirrored, mix, shade

TIED = ("high ponytail", "braided", "short pixie")


def _tones(face: Face) -> tuple[Colour, Colour, Colour, Colour]:
    """Base, shadow, shine and outline of the hair; black hair has a lighter second tone, as a shadow would not show."""
    base = face.hair
    second = light(base, 0.11) if luma(base) < 50 else shade(base, 0.22)
    return base, second, light(base, 0.3 if luma(base) < 90 else 0.5), edge(base)


def _wavy_side(x: float, top: float, bottom: float, swing: float, waves: float) -> list[tuple[float, float]]:
    """Right edge of a wavy mass, top to bottom."""
    n = max(4, int(waves * 4))
    out = []
    for i in range(n + 1):
        t = i / n
        out.append(
            (
                x * (0.86 + 0.22 * math.sin(min(1.0, t * 1.6) * 1.4)) + swing * math.sin(t * waves * 2 * math.pi),
                top + (bottom - top) * t,
            )
        )
    return out


def _mass(face: Face) -> list[tuple[float, float]] | None:
    """Right half of the loose hair hanging behind the head, top to bottom; None if there is none."""
    hx = face.hx
    crown = [(0.0, -1.27), (0.62 * hx, -1.1), (1.0 * hx, -0.5)]
    match face.style:
        case "long wavy":
            return crown + _wavy_side(1.32, -0.1, 2.55, 0.075, 2.3) + [(0.8, 2.82), (0.4, 2.7), (0.0, 2.8)]
        case "long straight":
            return crown + [
                (hx + 0.06, 0.1),
                (hx + 0.08, 1.0),
                (hx + 0.07, 2.0),
                (hx + 0.05, 2.66),
                (hx * 0.9, 2.72),
                (0.0, 2.74),
            ]
        case "shoulder-length wavy":
            return crown + _wavy_side(1.24, -0.1, 1.5, 0.08, 1.7) + [(0.95, 1.72), (0.5, 1.62), (0.0, 1.7)]
        case "short straight bob":
            return crown + [
                (hx + 0.1, 0.1),
                (hx + 0.17, 0.6),
                (hx + 0.17, 0.88),
                (hx + 0.02, 0.96),
                (0.5, 0.94),
                (0.0, 0.94),
            ]
        case "short pixie":
            return crown + [(hx - 0.04, 0.1), (0.62, 0.62), (0.3, 0.84), (0.0, 0.86)]
    return None


def _curls(face: Face) -> list[tuple[float, float, float]]:
    """Centres and radii of the cloud of curls around the head."""
    rx = face.hx + 0.28
    curls = []
    for i in range(15):
        a = math.radians(-222 + 264 * i / 14)
        wobble = 0.05 * math.sin(i * 2.4)
        curls.append(
            ((rx + wobble) * math.cos(a), -0.12 + (1.12 + wobble) * math.sin(a), 0.34 + 0.04 * math.sin(i * 1.7))
        )
    return curls


def _tail(pen: Pen, face: Face, x: float, y: float, side: float) -> None:
    base, dark, shine, line = _tones(face)
    tail = [(x, y - 0.1), (x + side * 0.45, y - 0.42), (x + side * 0.98, y - 0.1), (x + side * 1.28, y + 0.75),
        (x + side * 1.2, y + 1.7),
            (x + side * 1.42, y + 2.35), (x + side * 0.95, y + 2.15), (x + side * 0.72, y + 1.5),
                (x + side * 0.72, y + 0.7), (x + side * 0.45, y + 0.25)]  # fmt: skip
    pen.shape(tail, base, line, 0.026)
    pen.curve(
        [(x + side * 0.4, y - 0.1), (x + side * 0.85, y + 0.3), (x + side * 1.0, y + 1.1), (x + side * 1.08, y + 1.9)],
        dark,
        0.04,
    )
    pen.ribbon(
        [(x + side * 0.5, y - 0.25), (x + side * 0.95, y + 0.1), (x + side * 1.12, y + 0.7)], (0.02, 0.09, 0.02), shine
    )


def _braid(pen: Pen, face: Face, path: list[tuple[float, float]], size: float = 0.3) -> None:
    """Overlapping leaf-like links along ``path`` with a tie and a tuft."""
    base, dark, shine, line = _tones(face)
    p = np.asarray(path, dtype=float)
    s = np.linspace(0, len(p) - 1, 7)
    xs, ys = np.interp(s, np.arange(len(p)), p[:, 0]), np.interp(s, np.arange(len(p)), p[:, 1])
    x, y = xs[-1], ys[-1]
    pen.shape(
        [(x - 0.1, y + 0.1), (x + 0.1, y + 0.1), (x + 0.17, y + 0.4), (x, y + 0.56), (x - 0.17, y + 0.4)], base, line
    )
    for i in range(6, -1, -1):
        x, y, r = xs[i], ys[i], size * (1 - 0.05 * i)
        pen.shape(
            [
                (x - r, y - 0.2),
                (x, y - 0.1),
                (x + r, y - 0.2),
                (x + 0.82 * r, y + 0.08),
                (x, y + 0.3),
                (x - 0.82 * r, y + 0.08),
            ],
            base,
            line,
        )
        pen.curve([(x, y - 0.06), (x, y + 0.22)], dark, 0.035)
        pen.ribbon([(x - 0.7 * r, y - 0.08), (x - 0.45 * r, y + 0.06)], (0.02, 0.05), shine)
    x, y = xs[-1], ys[-1]
    pen.limb([(x - 0.1, y + 0.25), (x + 0.1, y + 0.25)], (0.1, 0.1), (214, 72, 96), (120, 30, 54))


def draw_back_hair(pen: Pen, face: Face) -> None:
    """What hangs behind the shoulders (all views but the back)."""
    base, dark, _, line = _tones(face)
    if face.view == "back":
        return
    if face.profile:
        _profile_mass(pen, face)
        return
    shift = -0.06 if face.view == "three-quarter" else 0.0
    if face.style == "curly":
        for x, y, r in _curls(face):
            pen.dot(x + shift, y, r + 0.02, None, line)
        for x, y, r in _curls(face):
            pen.dot(x + shift, y, r, None, dark)
        return
    if face.style == "high ponytail":
        if face.scene.hat == "none":
            _tail(pen, face, 0.1 if face.view == "frontal" else -0.25, -1.12, 1.0 if face.view == "frontal" else -1.0)
        else:
            _tail(pen, face, 0.25 if face.view == "frontal" else -0.25, -0.35, 1.0 if face.view == "frontal" else -1.0)
        half = [(0.0, -1.2), (face.hx * 0.7, -0.95), (face.hx * 0.98, -0.4), (face.w * 0.95, 0.1), (0.0, 0.5)]
        pen.shape(mirrored(half), dark, line)
        return
    half = _mass(face)
    if half is None:
        half = [(0.0, -1.25), (face.hx * 0.7, -1.02), (face.hx, -0.4), (face.hx, 0.2), (0.7, 0.8), (0.0, 0.9)]
    outline = np.asarray(mirrored(half)) + (shift, 0.0)
    pen.shape(outline, dark, line, 0.026)
    if face.style in ("long wavy", "long straight"):
        # Strands of the lit colour along the outer edges.
        swing = 0.07 if face.style == "long wavy" else 0.0
        for s in (-1, 1):
            y = np.linspace(0.2, 2.45, 9)
            x = s * (face.hx * (0.98 if swing == 0 else 1.12) + swing * np.sin((y - 0.1) * 5.2) + shift * s)
            pen.ribbon(np.stack([x, y], 1), (0.02, 0.14, 0.15, 0.12, 0.02), face.hair)


def _profile_mass(pen: Pen, face: Face) -> None:
    base, dark, shine, line = _tones(face)
    style = face.style
    if style == "long wavy":
        back = [(-0.2, -1.2), (-0.95, -0.8), (-1.22, 0.0), (-1.3, 0.6), (-1.15, 1.1), (-1.32, 1.6), (-1.12, 2.1),
            (-1.2, 2.6), (-0.75, 2.8), (-0.25, 2.55),
                (-0.12, 1.9), (0.02, 1.2), (0.15, 0.5), (0.1, -0.3)]  # fmt: skip
    elif style == "long straight":
        back = [
            (-0.2, -1.2),
            (-0.95, -0.8),
            (-1.13, 0.0),
            (-1.15, 1.0),
            (-1.12, 2.0),
            (-1.1, 2.68),
            (-0.6, 2.74),
            (-0.12, 2.7),
            (-0.1, 1.6),
            (0.05, 0.8),
            (0.1, -0.3),
        ]
    elif style == "shoulder-length wavy":
        back = [
            (-0.2, -1.2),
            (-0.95, -0.8),
            (-1.2, 0.0),
            (-1.26, 0.5),
            (-1.12, 0.95),
            (-1.26, 1.4),
            (-0.85, 1.7),
            (-0.35, 1.6),
            (0.02, 1.5),
            (0.05, 1.0),
            (0.15, 0.5),
            (0.1, -0.3),
        ]
    elif style == "short straight bob":
        back = [
            (-0.2, -1.2),
            (-0.95, -0.8),
            (-1.16, 0.0),
            (-1.16, 0.6),
            (-1.08, 0.92),
            (-0.5, 0.96),
            (0.05, 0.98),
            (0.14, 0.9),
            (0.15, 0.3),
            (0.1, -0.3),
        ]
    elif style == "high ponytail":
        y = -0.95 if face.scene.hat == "none" else -0.1
        _tail(pen, face, -0.72, y, -1.0)
        return
    elif style == "curly":
        for grow, tone in ((0.02, line), (0.0, dark)):
            for x, y, r in _curls(face):
                if x < 0.55:
                    pen.dot(x * 1.02 - 0.18, y, r + grow, None, tone)
        return
    elif style == "braided":
        return
    else:
        back = [(-0.2, -1.2), (-0.9, -0.8), (-1.06, -0.1), (-0.9, 0.45), (-0.6, 0.75), (-0.3, 0.6), (0.0, -0.3)]
    pen.shape(back, dark, line, 0.026)


FRINGES: dict[str, list[tuple[float, float]]] = {
    # Lower edge of the fringe on a face of unit width, right temple to left temple.
    "swept": [(1.0, 0.15), (0.9, -0.2), (0.66, -0.5), (0.34, -0.78), (0.02, -0.5), (-0.4, -0.34), (-0.78, -0.2),
        (-0.98, 0.15)],
    "full": [(1.0, 0.2), (0.88, -0.1), (0.84, -0.36), (0.5, -0.33), (0.0, -0.31), (-0.5, -0.33), (-0.84, -0.36),
        (-0.88, -0.1), (-1.0, 0.2)],
    "curtain": [(1.0, 0.2), (0.86, -0.06), (0.62, -0.38), (0.26, -0.66), (0.0, -0.9), (-0.26, -0.66), (-0.62, -0.38),
        (-0.86, -0.06), (-1.0, 0.2)],
    "pulled": [(1.0, 0.08), (0.9, -0.3), (0.6, -0.62), (0.0, -0.76), (-0.6, -0.62), (-0.9, -0.3), (-1.0, 0.08)],
    "spiky": [(1.0, 0.1), (0.9, -0.3), (0.72, -0.42), (0.62, -0.68), (0.4, -0.36), (0.24, -0.56), (0.0, -0.28),
        (-0.18, -0.5), (-0.44, -0.22), (-0.6, -0.44), (-0.84, -0.08), (-1.0, 0.1)],
    "scallops": [(1.0, 0.1), (0.92, -0.2), (0.72, -0.36), (0.6, -0.56), (0.36, -0.44), (0.2, -0.58), (0.0, -0.46),
        (-0.2, -0.58), (-0.36, -0.44), (-0.6, -0.56), (-0.72, -0.36), (-0.92, -0.2), (-1.0, 0.1)],
}  # fmt: skip
FRINGE_OF = {
    "long wavy": "swept",
    "long straight": "full",
    "short straight bob": "full",
    "shoulder-length wavy": "curtain",
    "short pixie": "spiky",
    "curly": "scallops",
    "high ponytail": "pulled",
    "braided": "curtain",
}


def draw_front_hair(pen: Pen, face: Face) -> None:
    """The cap, the fringe and the locks that fall in front of the ears."""
    base, dark, shine, line = _tones(face)
    if face.profile:
        _profile_front(pen, face)
        return
    style, hx, w = face.style, face.hx, face.w
    tied = style in TIED
    shift = -0.05 if face.view == "three-quarter" else 0.0
    warp = face.warp()
    fringe = np.asarray(FRINGES[FRINGE_OF[style]]) * (w * 0.99, 1.0)
    fringe = warp(fringe) if warp else fringe
    side = hx - (0.07 if tied else 0.0)
    top = -1.2 if style == "high ponytail" else -1.28
    outer = [(-side + 0.02, 0.0), (-side - 0.02, -0.4), (-0.86 * hx, -0.85), (-0.45 * hx, top + 0.08), (0.0, top),
        (0.45 * hx, top + 0.08),
             (0.86 * hx, -0.85), (side + 0.02, -0.4), (side - 0.02, 0.0)]  # fmt: skip
    if style == "short pixie":
        outer[2:7] = [
            (-0.92 * hx, -0.82),
            (-0.68 * hx, -1.05),
            (-0.5 * hx, -1.3),
            (-0.1, -1.24),
            (0.1, -1.4),
            (0.4 * hx, -1.22),
            (0.62 * hx, -1.26),
            (0.9 * hx, -0.85),
        ]
    cap = np.concatenate([np.asarray(outer) + (shift, 0.0), fringe])
    if style == "curly":
        curls = [
            (x * (0.8 if y < -0.2 else 0.9), -0.3 + (y + 0.12) * 0.82, r * 0.92) for x, y, r in _curls(face) if y < 0.35
        ]
        if face.view == "three-quarter":  # the far side must not cover the far eye
            curls = [c for c in curls if c[0] < 0.5 or c[1] < -0.55]
        for x, y, r in curls:
            pen.dot(x + shift, y, r, None, base)
    # Locks in front of the ears, from the temple down.
    reach = {"long wavy": 1.75, "long straight": 1.8, "short straight bob": 0.93, "shoulder-length wavy": 1.5}.get(
        style, 0.0
    )
    if reach:
        wave = 0.07 if "wavy" in style else 0.0
        for s in (-1, 1):
            if s > 0 and face.view == "three-quarter":
                x_in, x_out = w * 1.03, hx + 0.05
            else:
                x_in, x_out = w * 0.84, hx + 0.05
            y = np.linspace(-0.35, reach, 8)
            bulge = wave * np.sin((y + 0.3) * 5.0)
            inner = np.stack([s * (x_in + bulge + 0.06 * (y > 0.9)) + shift, y], 1)
            outer_lock = np.stack([s * (x_out + bulge + (0.1 if wave else 0.04) * np.clip(y, 0, 1)) + shift, y], 1)
            if style == "short straight bob":
                outer_lock[:, 0] += s * 0.06 * np.clip(y, 0, 1)
            pen.shape(np.concatenate([inner, outer_lock[::-1]]), base, line, 0.02)
    pen.shape(cap, base, None if style == "curly" else line, 0.024)
    if style == "curly":
        for x, y, r in curls[1:-1:2]:
            pen.arch(x * 0.92 + shift, y + 0.02, 0.55 * r, 0.3 * r, mix(base, shine, 0.6), 0.06)
        for x, y in ((-0.4, -0.85), (0.05, -0.72), (0.45, -0.85), (-0.62, -0.55), (0.66, -0.55)):
            pen.arch(x * hx + shift, y, 0.16, 0.09, dark, 0.045)
        for x, y, r in _curls(face)[::2]:
            if y < 0.2:  # the upper ones lie under the cap
                continue
            pen.arch(x + shift, y, 0.5 * r, 0.28 * r, base, 0.07)
        return
    k = hx / 0.98
    if reach:  # hide the seam between locks and cap
        for s in (-1, 1):
            far = s > 0 and face.view == "three-quarter"
            near = s < 0 and face.view == "three-quarter"
            inner = w * (1.06 if far else 0.78 if near else 0.97)
            low = w * (1.06 if far else 0.88 if near else 0.97)
            seam = [(hx - 0.01, -0.55), (hx + 0.02, -0.05), (hx + 0.02, 0.4), (low, 0.46), (inner, 0.1), (inner, -0.4)]
            pen.shape([(s * x + shift, y) for x, y in seam], base, smooth=False)
    pen.ribbon(
        [(-0.72 * k + shift, -0.66), (-0.4 * k + shift, -0.87), (0.05 + shift, -0.95), (0.3 * k + shift, -0.93)],
        (0.01, 0.11, 0.11, 0.01),
        shine,
    )
    pen.ribbon(
        [(0.46 * k + shift, -0.87), (0.62 * k + shift, -0.75), (0.72 * k + shift, -0.6)], (0.01, 0.09, 0.01), shine
    )
    fw = pen.warped(warp)
    if FRINGE_OF[style] == "full":
        for x in (-0.5, -0.17, 0.17, 0.5):
            fw.curve([(x * w * 0.9, -0.75), (x * w, -0.36)], dark, 0.026)
    elif FRINGE_OF[style] == "swept":
        fw.curve([(0.34 * w, -0.8), (0.0, -0.66), (-0.5 * w, -0.42)], dark, 0.03)
        fw.curve([(0.34 * w, -0.8), (0.3 * w, -1.1)], dark, 0.03)
    elif FRINGE_OF[style] == "curtain":
        fw.curve([(0.0, -0.88 - face.lift), (0.0, -1.2 - face.lift)], dark, 0.034)
        for s in (-1, 1):
            fw.curve([(s * 0.1, -0.98), (s * 0.5 * w, -0.66), (s * 0.82 * w, -0.28)], dark, 0.026)
    elif FRINGE_OF[style] == "pulled":
        for x in (-0.6, -0.25, 0.1, 0.45, 0.75):
            fw.curve([(x * w, -0.7 + 0.22 * x * x), (x * 0.6 * w, -1.05)], dark, 0.026)
    if style == "high ponytail" and face.scene.hat == "none":
        x = 0.1 if face.view == "frontal" else -0.25
        pen.limb([(x - 0.14, -1.17), (x + 0.16, -1.19)], (0.17, 0.17), (214, 72, 96), (120, 30, 54))
    if style == "braided":
        for s in (-1, 1):
            x = s * hx + shift
            _braid(pen, face, [(x, 0.58), (x + s * 0.08, 1.1), (x - s * 0.03, 1.7), (x - s * 0.16, 2.35)], 0.28)


def _profile_front(pen: Pen, face: Face) -> None:
    base, dark, shine, line = _tones(face)
    style = face.style
    crown = [(-0.8, 0.72), (-1.08, 0.2), (-1.14, -0.3), (-0.98, -0.82), (-0.5, -1.18), (0.0, -1.27), (0.5, -1.12)]
    front = {
        "swept": [(0.8, -0.85), (0.93, -0.42), (0.62, -0.48), (0.36, -0.3), (0.12, -0.1)],
        "full": [(0.84, -0.8), (0.93, -0.36), (0.6, -0.33), (0.3, -0.36), (0.22, -0.05)],
        "curtain": [(0.76, -0.85), (0.68, -0.55), (0.5, -0.25), (0.3, -0.02), (0.16, 0.05)],
        "pulled": [(0.74, -0.85), (0.6, -0.7), (0.4, -0.42), (0.12, -0.22), (0.08, 0.02)],
        "spiky": [
            (0.88, -0.9),
            (0.96, -0.45),
            (0.72, -0.52),
            (0.62, -0.26),
            (0.44, -0.48),
            (0.3, -0.15),
            (0.14, -0.28),
            (0.06, 0.12),
        ],
        "scallops": [(0.86, -0.8), (0.84, -0.52), (0.64, -0.46), (0.5, -0.36), (0.34, -0.2), (0.16, -0.1)],
    }[FRINGE_OF[style]]
    low = {
        "short pixie": [(-0.02, 0.02), (-0.22, 0.02), (-0.3, 0.4), (-0.5, 0.72)],
        "high ponytail": [(-0.05, 0.0), (-0.22, 0.05), (-0.32, 0.45), (-0.5, 0.6)],
        "braided": [(-0.05, 0.0), (-0.2, 0.1), (-0.28, 0.5), (-0.45, 0.75)],
        "short straight bob": [(0.2, 0.5), (0.16, 0.92), (-0.4, 0.95), (-1.0, 0.93), (-1.14, 0.6)],
        "shoulder-length wavy": [(0.26, 0.4), (0.12, 0.75), (0.2, 1.1), (0.0, 1.52), (-0.5, 1.4), (-0.95, 0.9)],
        "long wavy": [(0.26, 0.35), (0.12, 0.75), (0.24, 1.15), (0.06, 1.6), (0.1, 2.05), (-0.4, 1.7), (-0.95, 0.9)],
        "long straight": [(0.2, 0.4), (0.18, 1.0), (0.16, 1.75), (-0.3, 1.8), (-0.9, 1.0)],
        "curly": [(0.12, 0.25), (-0.02, 0.55), (-0.3, 0.7), (-0.6, 0.8)],
    }[style]
    if style == "curly":
        for x, y, r in _curls(face):
            if x < 0.75 and y < 0.75:
                pen.dot(x * 0.78 - 0.12, -0.25 + (y + 0.12) * 0.8, r * 0.9, None, base)
    pen.shape(crown + front + low, base, None if style == "curly" else line, 0.024)
    if style == "curly":
        for x, y, r in _curls(face)[::2]:
            if x < 0.6:
                pen.arch(x - 0.18, y, 0.5 * r, 0.28 * r, base, 0.07)
        for x, y in ((-0.7, -0.5), (-0.3, -0.85), (0.2, -0.85), (-0.6, 0.1), (-0.15, -0.35)):
            pen.arch(x, y, 0.17, 0.1, mix(base, shine, 0.6), 0.06)
        return
    pen.ribbon([(-0.8, -0.5), (-0.45, -0.85), (0.05, -0.98), (0.45, -0.9)], (0.01, 0.11, 0.11, 0.01), shine)
    if FRINGE_OF[style] in ("pulled",):
        for x, y in ((0.45, -0.5), (0.15, -0.25), (-0.25, 0.2)):
            pen.curve([(x, y), (x - 0.5, y - 0.3)], dark, 0.026)
        if face.scene.hat == "none":
            pen.limb([(-0.74, -1.06), (-0.88, -0.84)], (0.17, 0.17), (214, 72, 96), (120, 30, 54))
    elif style == "braided":
        pen.curve([(0.4, -0.2), (-0.1, -0.25), (-0.6, 0.2)], dark, 0.026)
        _braid(pen, face, [(-0.42, 0.72), (-0.4, 1.2), (-0.28, 1.8), (-0.25, 2.4)])
    elif style != "short pixie":
        for x in (-0.75, -0.4, -0.05):
            pen.curve([(x, -0.3), (x - 0.02, 0.3), (x + 0.03, 0.8)], dark, 0.026)


def draw_back_view(pen: Pen, face: Face) -> None:
    """The whole head of hair from behind, over the back."""
    base, dark, shine, line = _tones(face)
    hx, style = face.hx, face.style
    if style == "curly":
        for x, y, r in _curls(face):
            pen.dot(x, y, r + 0.02, None, line)
        for x, y, r in _curls(face):
            pen.dot(x, y, r, None, base)
        pen.shape(
            [(-0.95, -0.6), (0, -1.1), (0.95, -0.6), (1.0, 0.3), (0.6, 0.85), (0, 0.95), (-0.6, 0.85), (-1.0, 0.3)],
            base,
        )
        for i in range(14):
            x, y = 0.95 * math.sin(i * 2.4) * math.sqrt(i / 14), -0.15 + 0.95 * math.cos(i * 2.4) * math.sqrt(i / 14)
            pen.arch(x, y, 0.18, 0.1, mix(base, shine, 0.6) if i % 3 == 0 else dark, 0.055)
        return
    if style in ("high ponytail", "braided"):
        half = [
            (0.0, -1.24),
            (0.62 * hx, -1.08),
            (hx, -0.4),
            (hx * 0.98, 0.1),
            (0.84 * hx, 0.5),
            (0.56, 0.8),
            (0.3, 0.9),
            (0.0, 0.92),
        ]
    else:
        half = _mass(face) or []
    pen.shape(mirrored(half), base, line, 0.026)
    if style == "high ponytail":
        y = -0.6 if face.scene.hat == "none" else -0.05
        for x in (-0.75, -0.4, 0.4, 0.75):
            pen.curve([(x, 0.45), (x * 0.6, 0.0), (0.0, y)], dark, 0.03)
        tail = [
            (-0.12, y),
            (-0.34, y + 0.3),
            (-0.4, y + 1.1),
            (-0.3, y + 1.9),
            (0.05, y + 2.6),
            (0.34, y + 1.9),
            (0.42, y + 1.1),
            (0.34, y + 0.3),
            (0.12, y),
        ]
        pen.shape(tail, base, line, 0.03)
        pen.curve([(-0.1, y + 0.4), (-0.14, y + 1.2), (0.0, y + 2.1)], dark, 0.035)
        pen.ribbon([(0.14, y + 0.3), (0.2, y + 0.8), (0.18, y + 1.4)], (0.02, 0.09, 0.02), shine)
        pen.limb([(-0.15, y), (0.15, y)], (0.18, 0.18), (214, 72, 96), (120, 30, 54))
        return
    pen.ribbon([(-0.66, -0.66), (-0.35, -0.9), (0.2, -0.95), (0.55, -0.78)], (0.01, 0.12, 0.12, 0.01), shine)
    if style == "braided":
        pen.curve([(0.0, -1.2), (0.0, 0.85)], dark, 0.04)
        for s in (-1, 1):
            _braid(pen, face, [(s * 0.62, 0.72), (s * 0.66, 1.3), (s * 0.6, 1.8), (s * 0.52, 2.35)])
        return
    bottom = half[-1][1]
    wave = 0.06 if "wavy" in style else 0.0
    for k in (-0.66, -0.22, 0.22, 0.66):
        y = np.linspace(-0.3, bottom - 0.12 - (0.7 * k * k + 0.15 if style == "short pixie" else 0.0), 8)
        pen.curve(np.stack([k * hx * 1.05 + wave * np.sin(y * 5.0), y], 1), dark, 0.034)
