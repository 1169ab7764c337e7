"""What is said of the experiments and of the choice is what the committed tables say."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
import small_project

from charloom.experiments import design, tables

ROOT = small_project.ROOT
TABLES = sorted((ROOT / "benchmarks/results/experiments").glob("*.csv"))
CHOICE = ROOT / "benchmarks/results/choice.json"
WITHIN = 0.02


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_page_says_what_the_table_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    experiment, table = design.read(path.stem), tables.read(path)
    assert {row["experiment"] for row in table} == {path.stem}
    found = tables.values(table, experiment.measures[0])
    assert set(found) == set(experiment.arms), "an arm has no result"
    table = tables.whole_seeds(experiment, table)
    for claim in experiment.claims:
        one = tables.verdict(claim, table)
        means = f"{one.left:.3f}, {one.right:.3f}"
        row = f"| [{path.stem}](#{path.stem}) | `{claim}` | **{one.word}** | {means} | {one.for_it} of {one.seeds} |"
        assert row in page
    assert tables.summary(experiment, table) in page


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_arms_train_as_long_as_those_of_the_table_did(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the miniature's recipe says by now."""
    monkeypatch.chdir(ROOT)
    experiment = design.read(path.stem)
    trained = {arm: int(arm) if path.stem == "steps" else 800 for arm in experiment.arms}
    assert {arm: look.step for arm, look in experiment.looks([42])} == trained
    assert {look.training.person.recipe["train"]["batch_size"] for _, look in experiment.looks([42])} == {2}


def test_a_seed_that_an_arm_lacks_stays_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not compared, and waits for the other arms."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import experiments_page

    experiment, table = design.read(TABLES[0].stem), tables.read(TABLES[0])
    lonely = [{**row, "seed": 999} for row in table if row["arm"] == next(iter(experiment.arms)) and row["seed"] == 42]
    page = tmp_path / "page.md"
    page.write_text(experiments_page.BEGIN + experiments_page.END)
    for name, value in {"TABLES": tmp_path, "FIGURES": tmp_path, "PAGE": page, "CHOICE": tmp_path / "none"}.items():
        monkeypatch.setattr(experiments_page, name, value)
    monkeypatch.setattr(design, "names", lambda *_: [experiment.name])
    monkeypatch.setattr(tables, "plot", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["experiments_page.py"])
    tables.write([*table, *lonely], tmp_path / TABLES[0].name)
    experiments_page.main()
    assert tables.read(tmp_path / TABLES[0].name) == [*table, *lonely] and lonely
    assert tables.summary(experiment, table) in page.read_text()


@pytest.mark.skipif(not CHOICE.is_file(), reason="the proof of the choice has not been run")
def test_the_choice_is_among_the_checkpoints_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the miniature's recipe says by now."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import choice

    rows = json.loads(CHOICE.read_text(encoding="utf-8"))["rows"]
    trainings = choice.trainings(choice.CHARACTERS, choice.SEEDS)
    made = {(one.character, one.seed): choice.steps_of(one) for one in trainings}
    assert {(row["character"], row["seed"]): [*map(int, row["checkpoints"])] for row in rows} == made


@pytest.mark.skipif(not CHOICE.is_file(), reason="the proof of the choice has not been run")
def test_the_chosen_checkpoints_are_as_good_as_the_table_says() -> None:
    result = json.loads(CHOICE.read_text(encoding="utf-8"))
    rows = result["rows"]
    runs = {(row["character"], row["seed"]) for row in rows}
    assert len(runs) == len(rows)
    assert all({(name, seed) for seed in (42, 43)} <= runs for name in ("leyla", "nika", "orla"))
    for row in rows:
        values = {int(step): value["truth"] for step, value in row["checkpoints"].items() if int(step)}
        assert values[row["best"]] == max(values.values())
        assert row["short"] == pytest.approx(1 - values[row["chosen"]] / values[row["best"]], abs=1e-3)
    assert result["within"] == sum(row["short"] <= WITHIN for row in rows)
    assert result["mean_short"] == pytest.approx(fmean(row["short"] for row in rows), abs=1e-3)
    said = f"{result['within']} of {len(rows)} choices are within 2 %"
    assert said in (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
