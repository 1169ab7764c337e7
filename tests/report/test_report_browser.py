"""The report as a browser shows it: zoom, slider, keyboard, touch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, opened, sideways
from report_helpers import picture

from charloom.report.gather import gather
from charloom.report.page import page as report


@pytest.fixture
def url(results: Path, settings: dict) -> str:
    """The report of nine checkpoints and the base alone, the last of which was chosen."""
    for step in (0, *range(110, 170, 10)):
        folder = results / f"samples/step-{step:06d}"
        shutil.copytree(results / "samples/step-000050", folder)
        picture(step + 7).save(folder / "01.png")
    settings["steps"] = [50, 100, *range(110, 170, 10)]
    path = results / "report.html"
    path.write_text(report(gather(results, settings)), encoding="utf-8")
    return path.as_uri()


def sources(page, selector: str) -> list[str]:
    return page.eval_on_selector_all(selector, "all => all.map(image => image.src)")


def test_pictures_enlarge_in_the_middle_and_keys_go_on(chromium, url):
    with opened(chromium, url) as page:
        cells = page.locator(".compare button")
        cells.nth(1).focus()
        page.keyboard.press("Enter")
        box = page.locator("dialog[open]")
        assert "01, step 50" in box.locator(".words").text_content()
        frame, image = box.bounding_box(), box.locator("img").bounding_box()
        for one in (frame, image):
            assert abs(one["x"] + one["width"] / 2 - 640) < 2
        assert abs(frame["y"] + frame["height"] / 2 - 450) < 2
        page.keyboard.press("ArrowRight")
        assert "01, step 100" in box.locator(".words").text_content()
        page.keyboard.press("ArrowDown")
        assert "02, step 100" in box.locator(".words").text_content()
        assert box.locator(".file").get_attribute("href") == "samples/step-000100/02.png"
        page.keyboard.press("ArrowDown")  # there is no third row
        assert box.locator("[data-go='1,0']").is_disabled() and box.locator("[data-go='-1,0']").is_enabled()
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        # The page moves the focus on when it is told of the closing, which may be a moment later.
        page.wait_for_function("document.activeElement.dataset.words?.startsWith('02, step 100')")


def test_the_slider_compares_two_checkpoints(chromium, url):
    with opened(chromium, url) as page:
        left, right = page.locator(".of-step").nth(0), page.locator(".of-step").nth(1)
        chosen = ["without LoRA", "step 100 (chosen)"]
        assert [one.locator("option:checked").text_content() for one in (left, right)] == chosen
        (under,), (over,) = sources(page, ".pair .under"), sources(page, ".pair .over")
        assert under != over and under == sources(page, ".compare img")[0]
        range_ = page.locator(".pair input")
        clip = "getComputedStyle(document.querySelector('.pair .over')).clipPath"
        assert page.evaluate(clip) == "inset(0px 0px 0px 50%)"
        range_.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert page.evaluate(clip) == "inset(0px 0px 0px 55%)"
        frame = range_.bounding_box()
        page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + 50)
        page.mouse.down()
        page.mouse.move(frame["x"] + 20, frame["y"] + 50)
        page.mouse.up()
        assert float(page.evaluate(clip).split()[-1].rstrip("%)")) < 15
        page.locator(".of-prompt").select_option("1")
        left.select_option("1")
        assert sources(page, ".pair .under") == [sources(page, ".compare tbody tr:nth-child(2) img")[1]]


@pytest.mark.parametrize("kind", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_grid_opens_at_the_chosen_step(chromium, url, kind):
    with opened(chromium, url, kind) as page:
        cell = page.locator("td.chosen").first.bounding_box()
        assert cell["x"] >= 0 and cell["x"] + cell["width"] <= kind["viewport"]["width"]
        assert page.evaluate("scrollY") == 0 and sideways(page) <= 0


def test_long_names_wrap(chromium, results, settings):
    settings |= {"name": "Maximiliane-Konstantina von Hohenzollern-Sigmaringen" + "x" * 40, "trigger": "x" * 60}
    (results / "report.html").write_text(report(gather(results, settings)), encoding="utf-8")
    with opened(chromium, (results / "report.html").as_uri(), PHONE) as page:
        assert sideways(page) <= 0


def test_the_verdicts_on_many_checkpoints_are_folded(chromium, results, settings):
    choice = json.loads((results / "validation.json").read_text())
    _, last = choice["verdicts"]
    choice["verdicts"] = [*({**last, "step": step} for step in range(1, 31)), last]
    for verdicts, shown in ((choice["verdicts"], False), ([last], True)):
        found = {**choice, "verdicts": verdicts, "why": []}
        (results / "validation.json").write_text(json.dumps(found))
        (results / "report.html").write_text(report(gather(results, settings)), encoding="utf-8")
        with opened(chromium, (results / "report.html").as_uri()) as page:
            assert page.locator(".verdicts").is_visible() == shown
            if not shown:
                assert not page.locator("text=Step 7 is good too").is_visible()
                page.locator("summary", has_text="Why not another one").click()
                assert page.locator("text=Step 7 is good too").is_visible()
                page.locator("summary", has_text="The verdicts on all 31").press("Enter")
                assert page.locator(".verdicts tr.chosen").is_visible()


def test_a_phone_needs_no_keys(chromium, url):
    with opened(chromium, url, PHONE) as page:
        page.locator("td.chosen button").first.tap()
        box = page.locator("dialog[open]")
        frame, image = box.bounding_box(), box.locator("img").bounding_box()
        assert (frame["width"], frame["height"]) == (390, 844)
        assert abs(image["x"] + image["width"] / 2 - 195) < 2 and image["width"] > 300
        box.locator("[aria-label='Previous picture']").tap()
        assert "01, step 50" in box.locator(".words").text_content()
        swipe = """([from, to]) => ["pointerdown", "pointerup"].forEach((kind, i) => {
            const event = new PointerEvent(kind, { isPrimary: true, clientX: [from, to][i], clientY: 300 });
            document.querySelector("dialog img").dispatchEvent(event);
        })"""
        page.evaluate(swipe, [300, 100])
        assert "01, step 100" in box.locator(".words").text_content()
        page.evaluate(swipe, [100, 300])
        assert "01, step 50" in box.locator(".words").text_content()
        box.locator(".close").tap()
        assert page.locator("dialog[open]").count() == 0


def test_a_phone_can_read_everything(chromium, url):
    with opened(chromium, url, PHONE) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert sideways(page) <= 0
        heights = "all => all.map(text => text.getBoundingClientRect().height).filter(height => height)"
        assert min(page.eval_on_selector_all(".chart text", heights)) > 9
        widths = "all => all.map(cell => cell.getBoundingClientRect().width)"
        assert min(page.eval_on_selector_all(".stacked td", widths)) > 150  # not a letter wide


def test_dark_pages_are_dark(chromium, url):
    with opened(chromium, url, color_scheme="dark") as page:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, colour[4:-1].split(", "))) < 64
