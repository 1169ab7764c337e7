"""The page of messages is what the code says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import messages  # noqa: E402


def test_the_page_of_messages_is_up_to_date():
    """After a change run  python tools/messages.py"""
    assert messages.PAGE.read_text(encoding="utf-8") == messages.page()


def test_messages_are_found_in_every_way_they_are_written(tmp_path):
    (tmp_path / "charloom").mkdir()
    (tmp_path / "charloom/a.py").write_text(
        'raise UserError("plain; do this")\n'
        'raise UserError(f"{path}: has {len(x)} parts; " f"cut {self.name}")\n'
        'raise errors.UserError("a " + more)\n'
        "raise UserError(text)\n"
    )
    found = [text for _, text in messages.messages(tmp_path)]
    assert found == ["plain; do this", "{path}: has {…} parts; cut {name}", "a {…}"]


def test_every_message_says_what_to_do():
    said = {text for module, text in messages.messages() if module not in messages.CAUSES}
    silent = {text for text in said if messages.remedy(text) is None}
    assert silent - set(messages.FILLED_IN) == set(), "end them in '; do this'"
    assert set(messages.FILLED_IN) <= silent, "these say it themselves"
    assert all(map(messages.remedy, messages.FILLED_IN.values()))


@pytest.mark.parametrize(
    "text, remedy",
    [
        ("{path}: is damaged; get it again", "get it again"),
        ("{path}: is gone; delete x, or run it again", "run it again"),
        ("there is no {name}; did you mean …?", "did you mean …?"),
        ("{path}: belongs to another model", None),
        ("{path}: a file of this name; it is not read", None),
    ],
)
def test_a_remedy_is_a_clause_that_begins_with_what_to_do(text, remedy):
    assert messages.remedy(text) == remedy
