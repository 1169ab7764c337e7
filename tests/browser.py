"""A headless Chromium for tests of pages; they are skipped where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def start() -> Iterator[Any]:
    """The browser, for a session-wide fixture."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = os.environ.get("CHARLOOM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium is installed (apt install chromium, or name one in CHARLOOM_CHROMIUM)")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, kind: dict[str, Any] = DESKTOP, allowed: str = "\0", **more: Any) -> Iterator[Any]:
    """A page; when it is left, there must have been no error, nothing on the console (``allowed`` aside), and no
    request elsewhere."""
    context = browser.new_context(**kind, **more)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    home = url.split("/c/")[0] if url.startswith("http") else url.split("#")[0]
    page.on("request", lambda request: request.url.startswith((home, "data:")) or complaints.append(request.url))
    page.goto(url)
    yield page
    context.close()
    assert [line for line in complaints if allowed not in line] == []


def sideways(page: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
