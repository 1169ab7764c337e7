"""What was finished before is kept, and stands beside what took its place."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, opened, sideways
from finished_results import OTHER, PROMPT, finish

from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.report import versus
from charloom.train.keys import CHECKPOINT, checkpoint_key
from charloom.workflow import history


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def page(store: Store, final: Path) -> str:
    found = list(history.records(store))
    now = history.of_file(found, "mara", final)
    assert now
    before = history.earlier(found, now.facts)
    return versus.page(now.facts, before.facts if before else None, partial(history.picture, store))


def test_without_an_old_result_it_is_one_line(tmp_path: Path, store: Store) -> None:
    finish(tmp_path / "mara", store, "old")
    text = page(store, tmp_path / "mara/final.safetensors")
    assert "No earlier result of Mara is stored" in text and "<img" not in text and "<table" not in text


def test_the_same_prompts_and_seeds_stand_side_by_side_with_scores(tmp_path: Path, store: Store) -> None:
    finish(tmp_path / "mara", store, "old")
    finish(tmp_path / "mara", store, "new", prompts=[PROMPT, {**OTHER, "seed": 7}])
    text = page(store, tmp_path / "mara/final.safetensors")
    assert text.count("<img") == 2  # the second prompt has another seed
    assert "1 picture drawn now alone" in text and "1 picture drawn before alone" in text
    assert re.search(r"identity</th><td>0\.80</td><td>0\.90</td><td>\+0\.100", text)
    assert re.search(r"obedience</th><td>0\.70</td><td>0\.70</td><td>none</td>", text)
    assert re.search(r"share that shows somebody else</th><td>0\.10</td>", text)
    assert not re.search(r"<th>(step|samples|blank|faceless|portraits)</th>", text)
    assert re.search(r"revision</th><td>old</td><td class=\"other\">new", text)
    assert "<b>jumping" not in text


def test_it_fits_a_phone(tmp_path: Path, store: Store, chromium: Any) -> None:
    finish(tmp_path / "mara", store, "old")
    finish(tmp_path / "mara", store, "new")
    file = tmp_path / "mara/compare.html"
    about = page(store, tmp_path / "mara/final.safetensors").replace("owner/name", "resources/bases/a-long-name")
    file.write_text(about, encoding="utf-8")
    with opened(chromium, file.as_uri(), PHONE) as shown:
        assert sideways(shown) <= 0 and shown.locator("a", has_text="Report").get_attribute("href") == "report.html"


def test_a_result_of_another_base_goes_before_a_newer_one_of_the_same(tmp_path: Path, store: Store) -> None:
    first, new = finish(tmp_path / "mara", store, "old"), finish(tmp_path / "mara", store, "new")
    for number, path in enumerate(sorted((store.root / history.KIND).glob("*/*"), key=os.path.getmtime)):
        os.utime(path, (number, number))
    (tmp_path / "mara/final.safetensors").write_text("a higher rank")
    third = history.remember(
        store, Results(tmp_path / "mara"), tmp_path / "mara/final.safetensors", 100,
        {"name": "mini", "components": {"transformer": "transformer-new"}}, {**new, "prompts": [PROMPT]},
    )  # fmt: skip
    found = list(history.records(store))
    assert len(found) == 3
    before = history.earlier(found, third)
    assert before and before.facts["final"] == first["final"]
    assert history.earlier(found, {**third, "trigger": "somebody else"}) is None


def test_the_run_is_found_by_its_file_or_by_its_bytes(tmp_path: Path, store: Store) -> None:
    assert finish(tmp_path / "mara", store, "old")["run"] == "old"
    store.path(CHECKPOINT, checkpoint_key("old", 100), ".safetensors").unlink()
    made = Results(tmp_path / "mara")
    lock = {"name": "mini", "components": {"transformer": "t"}}
    about = {"character": "mara", "trigger": "m4ra", "prompts": []}
    assert history.remember(store, made, made.final, 100, lock, about)["run"] is None


def test_broken_records_are_passed_over(store: Store, tmp_path: Path) -> None:
    finish(tmp_path / "mara", store, "old")
    for text in ("{", "[]", "{}"):
        path = store.root / history.KIND / "aa" / f"{len(text)}x.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert len(list(history.records(store))) == 1
