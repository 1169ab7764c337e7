"""The live page in a browser."""

from __future__ import annotations

import time

import pytest
import yaml
from browser import DESKTOP, PHONE, opened, sideways

pytest.importorskip("starlette", reason="needs the extra [watch]")
pytest.importorskip("uvicorn", reason="needs the extra [watch]")

CHARACTER = "config/characters/mara.yaml"


@pytest.fixture
def address(project, served) -> str:
    """Where the project is served."""
    return served(project)


def test_the_page_follows_the_run(chromium, address, project):
    with opened(chromium, f"{address}/c/mara") as page:
        page.wait_for_selector("text=Training: step 60 of 100")
        assert page.locator("#title").text_content() == "Mara"
        assert page.locator(".couple img").count() == 2
        assert page.locator(".miss", has_text="<b>arms</b>").count() == 1  # words stay words
        with (project / "results/mara/training/metrics.jsonl").open("a") as file:
            file.write('{"step": 75, "loss": 0.1, "smoothed": 0.1, "rate": 2.0}\n')
        page.wait_for_selector("text=Training: step 75 of 100")
        (project / "results/mara/logs/later.log").write_text("a line of <u>log</u>\n")
        page.wait_for_selector("text=a line of <u>log</u>")
        page.locator(".couple button").first.click()
        assert page.locator("dialog[open] img").evaluate("image => image.naturalWidth") == 64


def test_a_flat_curve_has_a_different_number_at_every_line(chromium, address, project):
    lines = [
        f'{{"step": {step}, "loss": 0.4, "smoothed": {0.4 + step / 1e5}, "rate": 2.0}}\n' for step in range(60, 99)
    ]
    (project / "results/mara/training/metrics.jsonl").write_text("".join(lines))
    with opened(chromium, f"{address}/c/mara") as page:
        page.wait_for_selector("text=Training: step 98 of 100")
        labels = page.locator("svg.plot").first.locator(".grid + text").all_text_contents()
        assert len(set(labels)) == len(labels) > 3


def test_a_click_chooses_the_checkpoint(chromium, address, project):
    before = (project / CHARACTER).read_text()
    with opened(chromium, f"{address}/c/mara") as page:
        page.wait_for_selector("button.ship")
        assert page.locator("button.ship", has_text="not trained yet").is_disabled()
        page.locator("button.ship", has_text="Choose this one").click()
        page.wait_for_selector("text=checkpoint: 50 written into mara.yaml")
        assert (project / CHARACTER).read_text() == before + "checkpoint: 50\n"
        page.wait_for_selector("text=ships by your choice")
        reasons = '{"step": 100, "how": "rule", "why": ["It is the latest."]}'
        (project / "results/mara/validation.json").write_text(reasons)
        page.wait_for_selector("text=The scores prefer step 100:")
        page.locator("button.ship", has_text="Let the scores choose").click()
        page.wait_for_selector("text=checkpoint: auto written")
        page.wait_for_selector("text=Step 100 ships (checkpoint: auto, by scores).")
        assert page.locator("text=The scores prefer").count() == 0
        assert yaml.safe_load((project / CHARACTER).read_text())["checkpoint"] == "auto"


def test_a_checkpoint_that_is_only_the_best_available_is_not_praised(chromium, address, project):
    (project / "results/mara/validation.json").write_text('{"step": 50, "how": "fallback"}')
    with opened(chromium, f"{address}/c/mara") as page:
        page.wait_for_selector("text=Step 50 ships (checkpoint: auto, the best available).")
        assert page.locator(".choices .pill.good").text_content() == "the best available"
        verdicts = '{"step": 50, "how": "fallback", "verdicts": [{"step": 50, "verdict": "undertrained"}]}'
        (project / "results/mara/validation.json").write_text(verdicts)
        page.wait_for_selector(".choices .pill:text-is('undertrained')")
        assert page.locator(".choices .pill.good").text_content() == "the best available"


def test_an_enlarged_preview_goes_on_to_its_neighbours(chromium, ahead, served):
    with opened(chromium, f"{served(ahead)}/c/mara") as page:
        page.wait_for_selector("text=Previews: step 150")
        first = page.locator(".couple button").first
        first.focus()
        page.keyboard.press("Enter")
        words = page.locator("dialog[open] .words")
        assert words.text_content().startswith("Prompt 01, step 100")
        assert page.locator("[data-go='-1']").is_disabled()
        page.keyboard.press("ArrowRight")
        assert words.text_content().startswith("Prompt 01, step 150")
        page.locator("[data-go='1']").click()
        assert words.text_content().startswith("Prompt 02, step 100")
        page.keyboard.press("ArrowLeft")
        assert words.text_content().startswith("Prompt 01, step 150")
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0


def test_what_the_run_has_made_is_linked_at_the_top(chromium, address, project):
    made = project / "results/mara"
    with opened(chromium, f"{address}/c/mara") as page:
        page.wait_for_selector("text=Training: step 60 of 100")
        assert page.locator(".crumbs a").all_inner_texts() == ["All characters", "Data set"]
        (made / "gallery").mkdir()
        for file in ("report.html", "gallery/index.html", "compare.html"):
            (made / file).write_text('<link rel="icon" href="data:,">')
        page.wait_for_selector(".crumbs >> text=Before and now")
        links = page.locator(".crumbs a")
        assert links.all_inner_texts()[2:] == ["Report", "Gallery", "Before and now"]
        links.nth(2).focus()
        (made / "training/metrics.jsonl").open("a").write('{"step": 80, "loss": 0.1, "smoothed": 0.1}\n')
        page.wait_for_selector("text=Training: step 80 of 100")
        assert links.nth(2).evaluate("link => link === document.activeElement")
        links.nth(3).click()
        page.wait_for_url("**/files/mara/gallery/index.html?*")


@pytest.mark.parametrize("kind", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_of_a_running_training_every_saved_step_can_be_compared_and_chosen(chromium, ahead, served, kind):
    with opened(chromium, f"{served(ahead)}/c/mara", kind) as page:
        page.wait_for_selector("text=Previews: step 150")
        assert "m4ra, laughing" in page.locator(".pairs h3").first.text_content()
        assert page.locator(".couple").first.inner_text().split() == ["step", "100", "step", "150"]
        page.select_option("#beside", label="step 50")
        assert page.locator(".couple").first.inner_text().startswith("step 50 · identity 0.50")
        for picture in page.locator(".couple img").all():
            picture.evaluate("image => image.decode()")  # raises if it is none
        assert page.locator("#part-choices .note").inner_text().startswith("No checkpoint is chosen yet")
        assert sideways(page) <= 0
        page.locator("tr", has_text="step 100").locator("button").click()
        page.wait_for_selector("text=checkpoint: 100 written into mara.yaml")
        page.wait_for_selector("text=Step 100 ships, because the character file says so.")
        assert page.locator("#beside").input_value() == "50"


def test_a_file_that_changes_at_that_moment_is_left_alone(chromium, address, project):
    with opened(chromium, f"{address}/c/mara", allowed="409") as page:  # which the browser itself reports
        page.wait_for_selector("button.ship")
        page.evaluate("stream.close()")  # the page does not hear of the edit
        text = (project / CHARACTER).read_text() + "# mine\n"
        (project / CHARACTER).write_text(text)
        replies = []
        page.on("response", lambda reply: reply.request.method == "POST" and replies.append(reply.status))
        page.locator("button.ship", has_text="Choose this one").click()
        page.wait_for_selector("text=has changed in the meantime and was not edited")
        assert (project / CHARACTER).read_text() == text and replies == [409]


def test_another_page_cannot_choose(chromium, address, project):
    """A page of another origin in the same browser, with everything but the token and the origin."""
    before = (project / CHARACTER).read_text()
    context = chromium.new_context()
    page = context.new_page()
    page.goto("data:text/html,<p>evil")
    attack = """async address => {
      const body = JSON.stringify({ name: "mara", step: 50, seen: "" });
      for (const options of [{ method: "POST", mode: "no-cors", body }, { method: "POST", body }, { mode: "cors" }])
        try { await fetch(address + (options.method ? "/choose" : "/c/mara"), options); } catch {}
    }"""
    page.evaluate(attack, address)
    image = """address => new Promise(done => { const image = new Image(); image.onload = () => done("seen");
      image.onerror = () => done("refused"); image.src = address; })"""
    assert page.evaluate(image, f"{address}/files/mara/samples/step-000050/01.png") == "refused"
    context.close()
    time.sleep(0.1)
    assert (project / CHARACTER).read_text() == before


def test_all_characters_on_a_phone_before_and_in_the_middle_of_a_run(chromium, address, project):
    text = (project / CHARACTER).read_text().replace("m4ra", "n1ka").replace("name: Mara", "name: Nika")
    (project / "config/characters/nika.yaml").write_text(text)
    with opened(chromium, f"{address}/", PHONE) as page:
        page.wait_for_selector("text=60 of 100")
        page.wait_for_selector("text=not started", timeout=10_000)
        assert sideways(page) <= 0
        page.locator("a", has_text="Nika").tap()
        page.wait_for_selector("text=The first ones come with the first checkpoint.")
        assert sideways(page) <= 0
