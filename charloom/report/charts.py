"""Line charts as inline SVG that follow the colours of the page they stand in.

Colours are CSS variables (``--c0`` ...), so one drawing serves light and dark; hovering a point shows its value
through the browser's own tooltip. Knows numbers and labels only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 34


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, points (x, y) by rising x, the number of its colour."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int
    faint: bool = False
    dots: bool = True


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(points: Sequence[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most ``most`` points, each the mean of its neighbours, so that a long run stays a small drawing."""
    if len(points) <= most:
        return list(points)
    out = []
    for i in range(most):
        part = points[i * len(points) // most : (i + 1) * len(points) // most]
        out.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return out


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[float] | None = None,
    mark: float | None = None,
    y_text: Callable[[float], str] = "{:g}".format,
) -> str:
    """The chart as an ``<svg>`` element followed by its legend; an empty text when there is nothing to draw.

    Args:
        lines: the curves; points that are not finite are left out.
        title: what a screen reader says.
        y_range: limits of the y axis; from the data if not given.
        x_ticks: labels of the x axis.
        mark: x of a vertical line (the chosen checkpoint).
        y_text: how a y value is written at the axis.
    """
    cleaned = [(line, [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]) for line in lines]
    cleaned = [(line, points) for line, points in cleaned if points]
    if not cleaned:
        return ""
    xs = [x for _, points in cleaned for x, _ in points]
    ys = [y for _, points in cleaned for _, y in points]
    x0, x1 = min(xs), max(xs)
    y0, y1 = y_range or (min(ys), max(ys))
    if x1 == x0:
        x0, x1 = x0 - 1, x1 + 1
    if y1 == y0:
        y0, y1 = y0 - 0.5, y1 + 0.5

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (min(max(y, y0), y1) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in ticks(y0, y1):
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{escape(y_text(y))}</text>')
    for x in x_ticks if x_ticks is not None else ticks(x0, x1, 6):
        if x0 <= x <= x1:
            parts.append(f'<text x="{px(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{x:g}</text>')
    if mark is not None and x0 <= mark <= x1:
        parts.append(f'<line class="mark" x1="{px(mark):.1f}" x2="{px(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for line, points in cleaned:
        style = f'style="--c:var(--c{line.color})"'
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        if len(points) > 1:
            parts.append(f'<polyline class="{"faint" if line.faint else "line"}" {style} points="{path}"/>')
        if line.dots:
            for x, y in points:
                tip = f"<title>{escape(line.name)} at {x:g}: {y:.3f}</title>"
                parts.append(f'<circle class="dot" {style} cx="{px(x):.1f}" cy="{py(y):.1f}" r="4">{tip}</circle>')
    parts.append("</svg>")
    legend = "".join(f'<span style="--c:var(--c{line.color})">{escape(line.name)}</span>' for line, _ in cleaned)
    return "".join(parts) + f'<p class="legend">{legend}</p>'
