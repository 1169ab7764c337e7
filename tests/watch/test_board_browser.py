"""The board of a data set in a browser."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import small_project
import yaml
from board_project import CHARACTER, SAID
from browser import PHONE, opened, sideways
from captioned import say

pytest.importorskip("starlette", reason="needs the extra [watch]")
pytest.importorskip("uvicorn", reason="needs the extra [watch]")

MEDIUM = Path("config/captions/mara/medium-01.txt")
DROP = """([card, name, data]) => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], name));
  const target = card ? document.querySelector(`[data-name="${card}"]`) : document.body;
  for (const type of ["dragover", "drop"])
    target.dispatchEvent(new DragEvent(type, { dataTransfer: files, bubbles: true, cancelable: true }));
}"""


@pytest.fixture
def board(data_set, served):
    """Where the board is served."""
    return f"{served(Path())}/c/mara/board"


def card(page, name):
    return page.locator(f'[data-name="{name}"]')


def checked(page):
    """Waits until the first check is done."""
    page.wait_for_selector(".pic")
    page.wait_for_selector("#state:has-text('passes'), #state:has-text('error'), #state:has-text('warning')")


def data(path) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()


def at(page, name: str) -> None:
    """The card ``name`` has the focus, or gets it once an answer is there."""
    page.wait_for_function(f"() => document.activeElement.dataset.name === {name!r}")


def test_by_keyboard_alone(chromium, board):
    say(SAID)
    with opened(chromium, board) as page:
        checked(page)
        keys = page.keyboard
        keys.press("j")  # the first card, which is the reference
        keys.press("j")
        keys.press("ArrowRight")
        at(page, "medium-01")
        keys.press("e")
        keys.press("Control+a")
        keys.type("m4ra <i>in</i> a car, jkxa?")
        keys.press("Enter")
        page.wait_for_selector('[data-name="medium-01"] .caption:has-text("<i>in</i> a car")')  # words stay words
        assert MEDIUM.read_text() == "m4ra <i>in</i> a car, jkxa?\n"
        at(page, "medium-01")
        keys.press("Enter")
        keys.type(" and")
        keys.press("Escape")
        assert MEDIUM.read_text() == "m4ra <i>in</i> a car, jkxa?\n" and page.locator("textarea").count() == 0
        keys.press("k")
        assert page.locator("ins", has_text="red scarf").count() == 1 and page.locator("del").count() > 0
        keys.press("a")
        page.wait_for_selector('[data-name="closeup-01"] .caption:has-text("red scarf")')
        page.wait_for_selector(".proposal", state="detached")
        at(page, "fullbody-01")  # the next with something to do
        keys.press("t")
        page.wait_for_selector('[data-name="fullbody-01"] input:checked')
        keys.press("x")
        page.wait_for_selector('[data-name="fullbody-01"].excluded')
        assert yaml.safe_load(CHARACTER.read_text())["images"]["exclude"] == ["fullbody-01"]
        keys.press("x")
        page.wait_for_selector('[data-name="fullbody-01"]:not(.excluded)')
        assert "exclude" not in CHARACTER.read_text()
        at(page, "fullbody-01")
        keys.press("?")
        assert page.locator("#help").is_visible()
        keys.press("Escape")
        keys.press("/")
        keys.type("once")
        assert page.locator(".pic:visible").count() == 1
        keys.press("Escape")
        assert page.locator(".pic:visible").count() == 5
        keys.press("Home")
        keys.press("j")
        keys.press("z")
        page.wait_for_function("() => document.querySelector('dialog[open] img').naturalWidth === 140")
        keys.press("ArrowRight")
        assert page.locator("dialog[open] .words").text_content().startswith("medium-01")
        keys.press("Escape")
        at(page, "medium-01")


def test_a_conflict_shows_both_texts_and_loses_neither(chromium, board):
    with opened(chromium, board, allowed="409") as page:  # which the browser itself reports
        checked(page)
        MEDIUM.parent.mkdir(parents=True)
        card(page, "medium-01").locator(".caption").click()
        page.locator("textarea").fill("m4ra, mine")
        page.evaluate("stream.close()")  # the page does not hear of the edit
        MEDIUM.write_text("m4ra, theirs\n")
        page.keyboard.press("Enter")
        page.wait_for_selector(".theirs:has-text('m4ra, theirs')")
        assert page.locator("textarea").input_value() == "m4ra, mine" and MEDIUM.read_text() == "m4ra, theirs\n"
        page.get_by_role("button", name="Save mine over it").click()
        page.wait_for_selector('[data-name="medium-01"] .caption:has-text("mine")')
        assert MEDIUM.read_text() == "m4ra, mine\n"
        card(page, "medium-01").locator(".caption").click()
        page.get_by_role("button", name="Earlier ones").click()
        page.locator(".line", has_text="m4ra, theirs").click()
        assert page.locator("textarea").input_value() == "m4ra, theirs"
        page.keyboard.press("Escape")


def test_an_edit_elsewhere_is_told_while_one_is_writing(chromium, board):
    with opened(chromium, board) as page:
        checked(page)
        card(page, "medium-01").locator(".caption").click()
        page.locator("textarea").fill("m4ra, mine")
        Path("pics/medium-01.txt").write_text("m4ra, theirs\n")
        page.wait_for_selector(".theirs:has-text('m4ra, theirs')", timeout=10_000)
        assert page.locator("textarea").input_value() == "m4ra, mine"
        page.get_by_role("button", name="Take theirs").click()
        page.keyboard.press("Enter")
        page.wait_for_selector('[data-name="medium-01"] .caption:has-text("theirs")')
        assert not MEDIUM.exists()  # nothing was changed


def test_what_is_typed_while_a_caption_is_saved_is_not_taken_and_lost(chromium, board):
    with opened(chromium, board) as page:
        checked(page)
        held = []
        page.route("**/caption", lambda route: held.append(route))
        card(page, "medium-01").locator(".caption").click()
        page.locator("textarea").fill("m4ra, mine")
        page.keyboard.press("Enter")
        page.wait_for_selector(".editor.busy")
        page.keyboard.type(" and more")
        assert page.locator("textarea").input_value() == "m4ra, mine"
        held[0].continue_()
        page.wait_for_selector('[data-name="medium-01"] .caption:has-text("m4ra, mine")')


def test_the_pictures_stay_while_the_character_file_is_broken(chromium, board):
    with opened(chromium, board) as page:
        checked(page)
        before = CHARACTER.read_text()
        CHARACTER.write_text("images: [")
        page.wait_for_selector("#state:has-text('not known')", timeout=10_000)
        page.keyboard.press("j")
        page.keyboard.press("/")
        page.keyboard.type("once")
        assert page.locator(".pic:visible").count() == 1
        CHARACTER.write_text(before)
        page.keyboard.press("Escape")
        checked(page)


def test_pictures_are_dropped(chromium, board, tmp_path):
    new = data(small_project.picture(tmp_path / "any name.png", (96, 80), 9))
    former = Path("pics/medium-01.png").read_bytes()
    with opened(chromium, board, allowed="400") as page:
        checked(page)
        assert card(page, "fullbody-01").locator(".empty").count() == 1
        page.evaluate(DROP, ["fullbody-01", "any name.png", new])
        page.wait_for_selector('[data-name="fullbody-01"] img')
        assert Path("pics/fullbody-01.png").read_bytes() == base64.b64decode(new)
        assert card(page, "fullbody-01").locator("input:checked:disabled").count() == 1  # ticked by itself
        page.evaluate(DROP, [None, "medium-01.jpg", new])  # anywhere, for it is called like the shot
        page.wait_for_selector("#said:has-text('.trash')")
        assert [path.read_bytes() for path in Path("pics/.trash").iterdir()] == [former]
        page.evaluate(DROP, ["closeup-01", "x.png", base64.b64encode(b"<script>").decode()])
        page.wait_for_selector("#said.bad:has-text('not a picture')")
        page.evaluate(DROP, [None, "nobody.png", new])
        page.wait_for_selector("#said.bad:has-text('there is no shot of that name')")
        with page.expect_file_chooser() as chooser:
            card(page, "closeup-01").get_by_role("button", name="Replace").click()
        chooser.value.set_files(tmp_path / "any name.png")
        page.wait_for_selector("#said:has-text('closeup-01.png; the former picture')")
        page.wait_for_function("() => document.querySelector('[data-name=\"closeup-01\"] img').naturalWidth === 96")


def test_on_a_phone(chromium, board):
    say(SAID)
    with opened(chromium, board, PHONE, color_scheme="dark") as page:
        checked(page)
        assert sideways(page) <= 0
        for label in ("Edit it", "Edit", "Leave out"):
            size = card(page, "closeup-01").get_by_role("button", name=label, exact=True).bounding_box()
            assert size["height"] >= 43
        card(page, "medium-01").get_by_role("button", name="Keep mine").tap()
        page.wait_for_selector('[data-name="medium-01"] .proposal', state="detached")
        assert MEDIUM.read_text().startswith("a medium shot photo of m4ra")
        card(page, "medium-01").locator(".caption").tap()
        assert sideways(page) <= 0
        page.locator("textarea").fill("m4ra at home")
        page.get_by_role("button", name="Save").tap()
        page.wait_for_selector('[data-name="medium-01"] .caption:has-text("at home")')
        card(page, "more/one").get_by_role("button", name="Leave out").tap()
        page.locator("#said").get_by_role("button", name="Undo").tap()
        page.wait_for_selector('[data-name="more/one"]:not(.excluded)')
        page.wait_for_function("() => !document.querySelector('.excluded')")
        assert "exclude" not in CHARACTER.read_text()


def test_another_page_changes_nothing(chromium, board):
    before = CHARACTER.read_bytes(), sorted(Path("pics").iterdir())
    context = chromium.new_context()
    page = context.new_page()
    page.goto("data:text/html,<p>evil")
    attack = """async board => {
      const home = board.replace("/c/mara/board", "/board/mara");
      for (const path of ["/caption", "/exclude", "/put?picture=fullbody-01&version="])
        for (const mode of ["no-cors", "cors"])
          try { await fetch(home + path, { method: "POST", mode, body: JSON.stringify({ picture: "medium-01", out: true }) }); } catch {}
    }"""  # noqa: E501
    page.evaluate(attack, board)
    image = """address => new Promise(done => { const image = new Image(); image.onload = () => done("seen");
      image.onerror = () => done("refused"); image.src = address; })"""
    address = board.replace("/c/mara/board", "/board/mara/picture?picture=medium-01")
    assert page.evaluate(image, address) == "refused"
    context.close()
    assert (CHARACTER.read_bytes(), sorted(Path("pics").iterdir())) == before
