"""Draws line charts with matplotlib, as inline SVG that follows the colours of the page, and as PNG.

The same numbers give the same bytes. This module does not know what the lines mean.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from charloom.core import files
from charloom.report.palette import LIGHT

SIZE = (7.2, 3.1)
"""Width and height of a chart in inches."""
NARROW = (3.9, 3.2)
"""The same for a phone, where a wide chart would be scaled down until it is unreadable."""
DPI = 150
_STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller, can be searched, in the font of the page
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so that the layout is the same everywhere
    "font.size": 9,
}


@dataclass(frozen=True)
class Line:
    """One curve: its name in the legend, its points (x, y) in ascending x, and its colour's name in the palette."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str
    faint: bool = False
    dots: bool = True


@dataclass(frozen=True)
class Chart:
    """Curves over training steps."""

    name: str
    """Unique within a page."""
    title: str
    lines: Sequence[Line]
    y_range: tuple[float, float] | None = None
    """Limits of the y axis; by default all points are shown."""
    x_ticks: Sequence[float] | None = None
    mark: float | None = None
    """x of a vertical line: the chosen checkpoint."""


def svg(chart: Chart, size: tuple[float, float] = SIZE) -> str:
    """Draw the chart as an ``<svg>`` element for a page that defines the palette as CSS variables.

    Hovering over a dot shows its value. ``size`` is in inches.
    """
    with _figure(1, {"svg.hashsalt": f"{chart.name} {size}"}, size) as figure:
        figure.patch.set_alpha(0)
        _draw(figure.subplots(), chart, narrow=size[0] < SIZE[0])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():  # HTML needs no namespaces
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    for name in ("metadata", "defs"):  # the first defs contain a style sheet that would apply to the whole page
        if (child := root.find(name)) is not None:
            root.remove(child)
    for index, line in enumerate(chart.lines):
        group = root.find(f".//g[@id='line-{index}']")
        dots = group.findall(".//use") if group is not None else []
        for dot, (x, y) in zip(dots, _finite(line), strict=False):
            ElementTree.SubElement(dot, "title").text = f"{line.name} at {x:g}: {y:.3f}"
    text = ElementTree.tostring(root, encoding="unicode")
    used = {found for pair in re.findall(r'url\(#(.+?)\)|href="#(.+?)"', text) for found in pair}
    for element in root.iter():  # a page may hold several charts, each with its own "axes_1"
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": chart.title}
    text = ElementTree.tostring(root, encoding="unicode")
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def save_png(charts: Sequence[Chart], output: Path, otherwise: str) -> None:
    """Write the charts below each other as a PNG on the paper colour; without a chart, the sentence ``otherwise``."""
    with _figure(max(1, len(charts)), {}) as figure:
        figure.patch.set_facecolor(LIGHT["paper"])
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        figure.subplots(max(1, len(charts)))
        for chart, axes in zip(charts, figure.axes, strict=False):
            _draw(axes, chart)
            axes.set_title(chart.title, loc="left", color=LIGHT["ink"], weight="bold")
        if not charts:
            figure.axes[0].set_axis_off()
            figure.axes[0].text(0.5, 0.5, otherwise, color=LIGHT["soft"], ha="center")
        with files.whole(output) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


@contextmanager
def _figure(rows: int, style: dict[str, Any], size: tuple[float, float] = SIZE) -> Iterator[Any]:
    """An empty figure for ``rows`` charts, independent of the user's matplotlib settings and of any display."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | style)
        yield Figure(figsize=(size[0], size[1] * rows), layout="constrained")


def _draw(axes: Any, chart: Chart, narrow: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, line in enumerate(chart.lines):
        points = _finite(line)
        (curve,) = axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=LIGHT[line.color],
            label=line.name,
            linewidth=0.8 if line.faint else 1.8,
            alpha=0.5 if line.faint else None,
            marker="o" if line.dots else None,
            markersize=5.5,
            markeredgecolor=LIGHT["card"],
            clip_on=not line.dots,  # a dot on the edge is not cut
            zorder=3,
        )
        curve.set_gid(f"line-{index}")
    if chart.y_range:
        axes.set_ylim(*chart.y_range)
    axes.margins(x=0.02)
    if chart.x_ticks is not None:
        axes.set_xticks(list(chart.x_ticks)[:: 2 if narrow and len(chart.x_ticks) > 6 else 1])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if chart.mark is not None:
        axes.axvline(chart.mark, color=LIGHT["mark"], linewidth=1, linestyle=(0, (2, 3)))
    axes.patch.set_alpha(0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="y", color=LIGHT["line"], linewidth=0.8)
    axes.tick_params(length=0, pad=6, labelcolor=LIGHT["soft"])
    axes.set_xlabel("step", color=LIGHT["soft"])
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.18),
        ncols=2 if narrow else 4,
        frameon=False,
        labelcolor=LIGHT["soft"],
    )


def _finite(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
