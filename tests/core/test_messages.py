"""The page of messages is what the code says."""

from __future__ import annotations

import sys
from pathlib import Path

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
