"""The page of the check: findings with the pictures that show them, everything escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from charloom.report import lint_page


def record(**changes: Any) -> dict[str, Any]:
    finding = {
        "rule": "blur",
        "level": "warning",
        "where": "<b>.png",
        "what": "looks blurred",
        "remedy": "replace it",
        "pictures": ["b"],
        "evidence": {},
    }
    return {
        "character": "mara",
        "errors": 0,
        "warnings": 1,
        "notes": 0,
        "findings": [finding],
        "missing": 0,
        "tokens": "estimated",
        "detectors": [],
        "rules": [{"name": "blur", "level": "warning", "about": "A picture is out of focus.", "remedy": ""}],
        "pictures": [
            {"name": "a", "file": "a.png", "text": "a.txt", "caption": "m4ra & <co>", "role": "shot", "tier": "medium",
             "size": [64, 48], "findings": []},
            {"name": "b", "file": "b.png", "text": "b.txt", "caption": None, "role": "set", "tier": "", "size": None,
             "findings": [0]},
        ],
        **changes,
    }  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, colour in (("a", "teal"), ("b", "plum")):
        Image.new("RGB", (64, 48), colour).save(tmp_path / f"{name}.png")
        found[name] = tmp_path / f"{name}.png"
    return found


def test_findings_stand_with_their_pictures_and_everything_is_escaped(files: dict[str, Path]) -> None:
    page = lint_page.as_html(record(), files)
    assert "&lt;b&gt;.png" in page and "m4ra &amp; &lt;co&gt;" in page and "<b>.png" not in page
    assert "A picture is out of focus." in page and "looks blurred; replace it" in page
    # Once beside the finding, once in the list; the picture with a finding comes first there.
    assert page.count("data:image/webp;base64,") == 3
    cards = page[page.index('class="cards"') :]
    assert cards.index(">b ") < cards.index(">a<") and "no caption that can be read" in cards
    assert "http" not in page.replace("https://", "http://").split("<style>")[0]


def test_a_page_of_many_pictures_stays_a_page(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint_page, "LISTED", 1)
    monkeypatch.setattr(lint_page, "SHOWN", 1)
    made = record()
    made["findings"][0]["pictures"] = ["b", "a"]
    page = lint_page.as_html(made, files)
    assert "1 pictures without findings are left out here" in page and "and 1 more" in page


def test_a_broken_picture_breaks_no_page(files: dict[str, Path]) -> None:
    files["b"].write_bytes(b"no picture")
    assert lint_page.as_html(record(), files).count("data:image/webp;base64,") == 1


def test_what_is_allowed_is_listed(files: dict[str, Path]) -> None:
    made = record(allowed=[{**record()["findings"][0], "what": "is meant so"}], findings=[], pictures=[])
    page = lint_page.as_html(made, files)
    assert "is meant so" in page and "Nothing was found." in page
