"""The page of a gallery: escaped, self-contained, readable on a phone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, opened, sideways
from report_helpers import picture

from charloom.core.errors import UserError
from charloom.report.gallery import page

SCENE = {"text": "a photo of n1ka <b>& co</b>", "guidance": 1.0, "seed": 5, "strength": 0.8, "styles": []}


def settings(*names: str, **changes: Any) -> dict[str, Any]:
    wide = {"width": 192, "height": 112, "steps": 36}
    scenes = [{**SCENE, **wide, "name": name, **changes} for name in names]
    who = {"character": "nika", "name": "Nika <script>", "trigger": "n1ka", "base": "z-image-turbo", "miniature": False}
    return {**who, "scenes": scenes, "recipe": 1}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results/nika"
    (root / "gallery").mkdir(parents=True)
    for number in (1, 2, 3):
        picture(number, (192, 112)).save(root / f"gallery/{number:02d}.png")
    return root


def test_every_scene_is_there_with_its_prompt_and_settings(results: Path) -> None:
    styles = [{"style": "<ink>", "strength": 0.7}]
    text = page(results, settings("01", "02", "03", styles=styles, guidance=2.0))
    assert text.count("data:image/webp") == 3 and text.count("192 × 112, 36 steps, seed 5") >= 3
    assert "guidance 2, strength 0.8, &lt;ink&gt; at 0.7" in text
    assert "Nika &lt;script&gt;" in text and "n1ka &lt;b&gt;&amp; co&lt;/b&gt;" in text
    assert "<script>" not in text.replace("<script>\n", "", 1) and "<b>&" not in text
    assert 'data-file="02.png"' in text and 'href="../report.html"' in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert "ComfyUI" in text and "ComfyUI" not in page(results, {**settings("01"), "miniature": True})


def test_a_missing_picture_is_named(results: Path) -> None:
    with pytest.raises(UserError, match=r"gallery/04.png: there is no such picture"):
        page(results, settings("01", "04"))


@pytest.mark.parametrize("kind", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_can_be_looked_at(chromium: Any, results: Path, kind: dict[str, Any]) -> None:
    path = results / "gallery/index.html"
    path.write_text(page(results, settings("01", "02", "03")), encoding="utf-8")
    with opened(chromium, path.as_uri(), kind) as shown:
        assert sideways(shown) <= 0
        shown.locator(".scene > button").nth(1).click()
        box = shown.locator("dialog[open]")
        assert "02: 192 × 112" in box.locator(".words").text_content()
        assert box.locator(".file").get_attribute("href") == "02.png"
        shown.keyboard.press("ArrowRight")
        assert "03: 192 × 112" in box.locator(".words").text_content()
        assert box.locator("[data-go='0,1']").is_disabled() and sideways(shown) <= 0
        box.locator(".close").click()
        shown.locator("summary").first.click()
        assert "n1ka" in shown.locator("pre").first.text_content() and sideways(shown) <= 0
