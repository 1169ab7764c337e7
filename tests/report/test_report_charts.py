"""Line charts, and the curves of a run."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from charloom.report import charts, curves
from charloom.report.charts import Chart, Line
from charloom.report.gather import Material
from charloom.report.palette import DARK, LIGHT

NAN = float("nan")


def chart(name="t", **more) -> Chart:
    lines = [Line("A <b>", [(0, 0.5), (1, NAN), (2, 0.7)], "c0"), Line("B", [(0, 0.1), (2, 0.2)], "c1", dots=False)]
    return Chart(name, "A title", lines, **more)


def test_every_finite_dot_says_its_value():
    root = ElementTree.fromstring(charts.svg(chart()))
    assert [title.text for title in root.iter("title")] == ["A <b> at 0: 0.500", "A <b> at 2: 0.700"]


def test_colours_follow_the_page():
    text = charts.svg(chart(mark=1))
    assert not re.search(r"#[0-9a-f]{6}\b", text) and {"var(--c1)", "var(--line)"} <= set(re.findall(r"var.*?\)", text))
    assert "<style" not in text
    for one, two in itertools.combinations(LIGHT, 2):  # a chart knows a colour by its light value alone
        assert LIGHT[one] != LIGHT[two] or DARK[one] == DARK[two]


def test_charts_of_one_page_share_no_ids():
    found = [set(re.findall(r' id="(.*?)"', charts.svg(chart(name)))) for name in ("a", "b")]
    assert all(found) and not found[0] & found[1]
    text = charts.svg(chart("a"))
    assert set(re.findall(r'href="#(.*?)"|url\(#(.*?)\)', text)) <= {(i, "") for i in found[0]} | {
        ("", i) for i in found[0]
    }


def test_settings_of_the_user_change_nothing(monkeypatch):
    import matplotlib

    before = charts.svg(chart())
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "lines.linewidth": 9}
    ):
        assert charts.svg(chart()) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_png_on_paper_with_or_without_charts(tmp_path):
    charts.save_png([chart(), chart("u")], tmp_path / "two.png", "nothing")
    charts.save_png([], tmp_path / "none.png", "nothing")
    two, none = (Image.open(tmp_path / name).convert("RGB") for name in ("two.png", "none.png"))
    assert two.width == none.width and two.height == 2 * none.height
    paper = tuple(int(LIGHT["paper"][i : i + 2], 16) for i in (1, 3, 5))
    assert two.getpixel((0, 0)) == none.getpixel((0, 0)) == paper
    assert len(none.getcolors(10_000)) > 1  # the sentence


@pytest.mark.parametrize(
    ("loss", "holdout"),
    [
        ([(1, 0.5)], []),
        ([(step, 0.5) for step in range(9)], [(5, 0.3, 0.5)]),
        ([(1, 0.5), (2, NAN)], []),
        ([(1, NAN)], [(5, 0.3, 0.3)]),
        ([], []),
    ],
)
@pytest.mark.filterwarnings("error")
def test_short_flat_and_broken_curves_are_drawn(loss, holdout):
    m = Material("id", "name", "trigger", "base", {"step": 5}, loss=loss, holdout=holdout)
    drawn = curves.loss(m)
    finite = any(value == value for _, value in loss)
    assert [one.name for one in drawn] == ["loss"] * finite + ["held-out"] * bool(holdout)
    for one in drawn:
        HTMLParser().feed(charts.svg(one))


def test_scores_below_zero_are_inside_the_chart():
    verdicts = [{"step": s, "scores": {"identity": i, "detail": 1.0}} for s, i in ((50, -0.3), (100, 1.2))]
    (drawn,) = curves.scores(Material("id", "name", "trigger", "base", {"step": 50, "verdicts": verdicts}))
    assert drawn.y_range[0] <= -0.3 and drawn.y_range[1] >= 1.2
    assert [line.name for line in drawn.lines] == ["Identity"]  # sharpness is drawn only where nothing else is


def test_the_smoothed_curve_is_the_one_that_the_trainer_recorded():
    m = Material("id", "name", "trigger", "base", {"step": 2}, loss=[(1, 0.5), (2, 0.1)], smoothed=[(1, 0.5), (2, 0.4)])
    (drawn,) = curves.loss(m)
    assert [(line.name, line.points) for line in drawn.lines] == [
        ("Loss", [(1, 0.5), (2, 0.1)]),
        ("Smoothed", [(1, 0.5), (2, 0.4)]),
    ]
