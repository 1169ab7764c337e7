"""One arm for real, with two steps of training: data set, checkpoint, pictures, readings, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_project

from charloom.core.canonical import canonical_json
from charloom.core.errors import UserError
from charloom.experiments import measures, truth
from charloom.experiments.data import Place
from charloom.experiments.design import Look, Training
from charloom.experiments.reader import TABLES, Reader
from charloom.experiments.run import Run, Studio, measured


@pytest.mark.slow
def test_an_arm_is_trained_drawn_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.ROOT)
    reader = tmp_path / "reader.safetensors"
    Reader().save(reader)
    recipe = {"train": {"steps": 2, "batch_size": 1}, "data": {"resolutions": [128]}}
    training = Training("leyla", 42, canonical_json({"recipe": recipe}))
    studio = Studio(Place(tmp_path / "work"), reader)
    lines = list(measured(studio, [Look(training, 2), Look(training, 2, 0.6)], tmp_path / "pictures"))
    assert [line["strength"] for line in lines] == [0.6, 1.0]
    for line in lines:
        assert len(line["pictures"]) == 30
        assert all(len(picture["reader"]) == len(TABLES) for picture in line["pictures"])
        assert 0.0 <= measures.truth(line, truth.world(training)) <= 1.0
        assert (tmp_path / "pictures" / f"{line['look']}.webp").stat().st_size > 1000
    # The base alone obeys; that is said by the judge, which has been trained.
    base = {"pictures": (run := Run(studio, training)).read(run.draw(0, 1.0)[:10])}
    assert measures.MEASURES["judge.obedience"](base, truth.world(training)) > 0.8
    before = run.checkpoint(2).stat().st_mtime_ns
    assert run.checkpoint(2).stat().st_mtime_ns == before


def test_a_reader_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reader.safetensors: there is no reader; train one"):
        Reader.load(tmp_path / "reader.safetensors")
