"""The page of all characters."""

from __future__ import annotations

import re

from charloom.report.index import index


def test_a_checkpoint_chosen_by_hand_is_the_one_that_is_shown(results, settings):
    one = {key: settings[key] for key in ("character", "name", "trigger", "base")} | {"prompts": ["01", "02"]}
    by_scores, by_hand = index(results.parent, [one]), index(results.parent, [one | {"checkpoint": 50}])
    assert "<dd>100</dd>" in by_scores and 'pill good">good' in by_scores
    assert "<dd>50, your choice</dd>" in by_hand and 'pill good">good' not in by_hand and "<dd>0.50</dd>" in by_hand
    assert by_scores.split("data:image")[1:] != by_hand.split("data:image")[1:]
    (results / "validation.json").unlink()
    assert "Not finished: snakemake nika" in index(results.parent, [one | {"checkpoint": 50}])


def test_characters_are_listed_with_links_to_their_pages(results, settings):
    (results / "report.html").write_text("")
    one = {key: settings[key] for key in ("character", "name", "trigger", "base")} | {"prompts": ["01", "02"]}
    text = index(results.parent, [one, one | {"character": "mara", "name": "<b>Mara"}])
    assert text.count("data:image/webp") == 3
    assert 'href="nika/report.html"' in text and "Nika &lt;script&gt;" in text and "Step" in text
    assert "&lt;b&gt;Mara" in text and "Not finished: snakemake mara" in text and 'href="mara' not in text
    assert "2 characters. " in text and "1 character. " in index(results.parent, [one])
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
