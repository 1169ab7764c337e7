"""The judge ``auto``: several instruments in one table, and what happens when one is missing or fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import judge_models
import numpy as np
import pytest
from PIL import Image

from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.judge import backend, choice, drift, locking, study, table
from charloom.judge.backend import Picture
from charloom.judge.memory import Memory
from charloom.judge.summary import LIMITS, limits_of
from charloom.workflow import scores

PROMPTS = [
    "a medium shot photo of l3yla, laughing, wearing a red hoodie, kitchen",
    "a medium shot photo of l3yla, soft smile, wearing teal pajamas, bedroom",
    "photo of a woman, beach",
]
CAPTIONS = [f"a close-up portrait photo of l3yla, wearing a white shirt, {place} studio" for place in ("white", "gray")]


def noise(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((64, 64), Image.Resampling.NEAREST))


def references(number: int = 4) -> list[Picture]:
    return [Picture(f"r{i}", CAPTIONS[i % 2], noise(i), content=f"r{i}") for i in range(number)]


def samples(first: int = 50) -> list[Picture]:
    return [
        Picture(f"{i + 1:02d}", text, noise(first + i), 42, content=f"s{first + i}") for i, text in enumerate(PROMPTS)
    ]


SETTINGS = {"identity": "image", "trigger": "l3yla", "prompts": PROMPTS, "line": ""}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("models")
    made = {"dinov2": judge_models.dinov2, "siglip": judge_models.siglip, "vlm": judge_models.vision_language}
    return {name: {"path": str(make(folder / name))} for name, make in made.items()}


def lock_of(models: dict[str, Any], store: Store, *names: str) -> dict[str, Any]:
    lock = locking.lock({"name": "tiny", "models": models}, store)
    return {**lock, "instruments": {name: lock["instruments"][name] for name in names}}


def judged(models: dict[str, Any], store: Store, *names: str, settings: Any = SETTINGS) -> dict[str, Any]:
    others = [Picture(f"o{i}", "", noise(200 + i), content=f"o{i}") for i in range(3)]
    return study.study(lock_of(models, store, *names), settings, references(), others, Memory(store))


def document(judge: dict[str, Any], store: Store, pictures: list[Picture], step: int = 50) -> dict[str, Any]:
    opened = backend.open_backend("auto", None, Memory(store), judge=judge)
    return backend.score(opened, opened.study(references()), "c", step, pictures, "l3yla")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def test_models_of_the_hub_are_locked_with_the_library_that_runs_them(
    models: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of(models, store, "dinov2", "vlm")
    assert locking.changed(lock) == {}
    newer = {"transformers": "99.0"}
    monkeypatch.setattr(locking, "versions", lambda kind: newer)
    wrong = locking.changed(lock)
    assert wrong.keys() == {"dinov2", "vlm"} and wrong["vlm"].startswith("transformers is 99.0, not ")
    # A lock from before they were listed stays usable.
    lock["instruments"]["vlm"]["versions"] = {}
    assert locking.changed(lock).keys() == {"dinov2"}


def test_every_value_names_its_instrument(models: dict[str, Any], store: Store) -> None:
    made = document(judged(models, store, "dinov2", "siglip", "vlm"), store, samples())
    assert made["not_scored"] == [] and json.loads(json.dumps(made)) == made
    by = {row["metric"]: (row["backend"], len(row["weights"])) for row in made["rows"]}
    assert by["identity"] == by["identity_relative"] == by["bleed.copy"] == ("dinov2", 64)
    assert by["obedience.outfit"] == by["obedience"] == ("vlm", 64)
    assert by["detail"] == ("plain", 0)
    assert by["bleed.background"] == ("siglip", 64) and by["bleed"][0].startswith("dinov2+siglip")
    rows = table.from_scores([made])
    assert {row["backend"] for row in rows} >= {"dinov2", "siglip", "vlm", "plain"}
    assert made["coverage"] == {"identity": [2, 2]}
    # The third prompt lacks the trigger: what it has of the character is a leak.
    of = {row["metric"] for row in made["rows"] if row["prompt"] == "03"}
    assert "leak.identity" in of and not of & {"identity", "identity_relative", "bleed", "copy.cosine"}


def test_siglip_obeys_by_comparison_where_no_model_answers(models: dict[str, Any], store: Store) -> None:
    made = document(judged(models, store, "siglip"), store, samples())
    values = {(r["prompt"], r["metric"]): r["value"] for r in made["rows"]}
    assert set(values[p, "obedience.outfit"] for p in ("01", "02")) <= {0.0, 1.0}
    wrong = [line for lines in made["misses"].values() for line in lines if "looks more like" in line]
    assert len(wrong) == sum(v == 0.0 for (_, metric), v in values.items() if metric.startswith("obedience."))


def test_a_copied_training_picture_is_named(models: dict[str, Any], store: Store) -> None:
    copied = [Picture("01", PROMPTS[0], noise(2), content="r2")]
    made = document(judged(models, store, "dinov2"), store, copied)
    values = {row["metric"]: row["value"] for row in made["rows"]}
    assert values["bleed.copy"] == 1.0 and values["copy.bits"] == 0.0
    assert values["copy.cosine"] == pytest.approx(1.0, abs=1e-4)
    assert any("nearly r2 of the training pictures" in line for line in made["misses"]["01"])


def test_without_instruments_each_metric_has_a_remedy(models: dict[str, Any], store: Store) -> None:
    judge = judged({}, store)
    assert judge["identity"] is None and judge["limits"] == {}
    made = document(judge, store, samples())
    assert made["not_scored"] == ["identity", "identity_relative", "obedience", "bleed"]
    assert {row["metric"] for row in made["rows"]} == {"detail", "contrast"}
    lines = {line.split(" is not scored")[0]: line for line in made["remedies"]}
    assert "judge_models.siglip" in lines["obedience"] and "tiny.lock.json" in lines["obedience"]


def test_an_instrument_that_is_gone_is_not_scored_and_not_taken_for_scored(
    models: dict[str, Any], tmp_path: Path
) -> None:
    store, folder = Store(tmp_path / "store"), judge_models.dinov2(tmp_path / "dinov2")
    judge = judged({"dinov2": {"path": str(folder)}}, store, "dinov2")
    results = tmp_path / "results"
    for name, number in (("dataset/a", 1), ("dataset/b", 2), ("samples/step-000050/01", 3)):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(results / f"{name}.png")
    items = [{"name": name, "caption": CAPTIONS[0], "image": name} for name in ("a", "b")]
    (results / "dataset.json").write_text(json.dumps({"items": items}))
    prompts = [{"name": "01", "text": PROMPTS[0], "seed": 42, "scale": 1.0}]
    settings = {"character": "c", "trigger": "l3yla", "judge": "auto", "prompts": prompts}

    def judgement() -> scores.Judgement:
        return scores.Judgement(results, settings, None, judge)

    whole = judgement().key(50)
    (folder / "model.safetensors").unlink()
    without = judgement()
    assert without.key(50) != whole
    steps, notes = without.make(store)
    assert steps == [50] and any("is gone; what it measures is not scored" in line for line in notes)
    made = json.loads(store.path(scores.KIND, without.key(50), ".json").read_text())
    assert "bleed" in made["not_scored"] and made["notes"] == notes


def test_a_corrupt_preview_is_left_out_with_a_line(models: dict[str, Any], store: Store, tmp_path: Path) -> None:
    (tmp_path / "02.png").write_bytes(b"no picture")
    broken = backend.later(tmp_path / "02.png", PROMPTS[1], "broken", name="02")
    made = document(judged(models, store, "dinov2"), store, [samples()[0], broken])
    assert {row["prompt"] for row in made["rows"]} == {"01"}
    (note,) = made["notes"]
    assert "02.png: is not a picture that can be read" in note


def test_references_are_looked_at_once(models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    judge = judged(models, store, "dinov2")
    document(judge, store, samples())

    def unread(self: Picture) -> np.ndarray:
        raise AssertionError(f"{self.name} is read again")

    monkeypatch.setattr(Picture, "pixels", property(unread))
    again = document(judge, store, samples())
    assert {row["metric"] for row in again["rows"]} >= {"identity", "detail", "bleed.copy"}


def test_auto_needs_its_file() -> None:
    with pytest.raises(UserError, match="judge.json is missing"):
        backend.open_backend("auto")


# The choice on the judge's own scale


def rows(values: dict[int, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    return [
        {"character": "c", "step": step, "prompt": prompt, "seed": 1, "strength": 1.0, "metric": metric, "value": value,
         "backend": "x", "weights": ""}
        for step, metrics in values.items() for metric, found in metrics.items() for prompt, value in found.items()
    ]  # fmt: skip


def both(value: float) -> dict[str, float]:
    return {"01": value, "02": value}


def test_the_limits_are_the_judges_unless_the_user_gives_some() -> None:
    found = limits_of(
        {"identity_enough": 0.9, "stranger": 0.4}, {"stranger": 0.5, "identity_low": "auto", "bleed": 0.2}
    )
    assert (found.identity_enough, found.stranger, found.identity_low, found.bleed) == (0.9, 0.5, 0.8, 0.2)
    course = {100: {"identity_relative": both(0.7)}, 200: {"identity_relative": both(0.75)}}
    assert choice.choose(rows(course), (100, 200))["verdicts"][1]["recognisable"] is False
    own = choice.choose(rows(course), (100, 200), limits=limits_of({"identity_enough": 0.72, "identity_low": 0.5}))
    assert own["verdicts"][1]["recognisable"] is True and own["limits"]["identity_enough"] == 0.72


def test_previews_without_a_face_are_counted_and_no_pass() -> None:
    course = {
        100: {"identity_relative": {"01": 1.0}, "identity.found": {"01": 1.0, "02": 0.0}},
        200: {"identity.found": both(0.0)},
    }
    first, second = choice.choose(rows(course), (100, 200))["verdicts"]
    assert "In 1 of 2 samples the judge found nobody to compare." in [reason["text"] for reason in first["reasons"]]
    assert second["reasons"][0]["text"] == "Identity was not scored: the judge found nobody in 2 samples."
    assert second["recognisable"] is None


def test_prompts_that_lose_the_character_are_named() -> None:
    good = {f"{i:02d}": 1.0 for i in range(1, 11)}
    course = {step: {"identity_relative": {**good, "03": 0.1, "07": 0.2}} for step in (100, 200)}
    result = choice.choose(rows(course), (100, 200))
    assert "Prompts 03, 07 lose the character: somebody else at all 2 recognisable checkpoints." in result["warnings"]


def test_a_leaking_trigger_is_warned_of_with_its_evidence() -> None:
    course = {
        0: {"leak.identity": {"01-class": 0.1}},
        200: {"leak.identity": {"01-class": 0.9}, "identity_relative": both(1.0)},
    }
    warnings, advice = drift.warnings(rows(course), 200, LIMITS)
    assert "0.80 of the character's identity more than the base alone at step 200 (most: 01-class)" in warnings[0]
    assert "preservation.differential" in advice[0]
    course[200]["leak.identity"] = {"01-class": 0.3}
    assert drift.warnings(rows(course), 200, LIMITS) == ([], [])
    # An earlier choice is warned by what the last checkpoint shows.
    course[200]["leak.identity"] = {"01-class": 0.9}
    assert "at step 200" in drift.warnings(rows(course), 100, LIMITS)[0][0]


def test_each_prompt_counts_where_it_was_measured() -> None:
    course = {0: {"leak.identity": {"09": 0.0}}, 100: {"leak.identity": {"09": 0.1}}}
    course[200] = {"leak.identity": {"09": 0.1, "01-class": 0.9}}
    assert "at step 200 (most: 01-class)" in drift.warnings(rows(course), 100, LIMITS)[0][0]


def test_a_turbo_that_needs_more_steps_is_warned_of() -> None:
    warnings, advice = drift.warnings(rows({200: {"drift.steps": both(0.3)}}), 200, LIMITS)
    assert "0.30 more identity" in warnings[0] and "training adapter" in advice[0]
    measured = {"drift.steps": both(0.1), "drift.obedience": both(0.2)}
    (warning,), _ = drift.warnings(rows({200: measured}), 200, LIMITS)
    assert "bring 0.20 more obedience than" in warning and "identity" not in warning


def test_drift_is_the_difference_to_the_ordinary_preview(models: dict[str, Any], store: Store) -> None:
    opened = backend.open_backend("auto", None, Memory(store), judge=judged(models, store, "dinov2"))
    opened.study(references())
    usual, many, class_ = noise(60), noise(61), noise(62)
    special = [
        ({"kind": "steps", "of": "01"}, Picture("01-steps", PROMPTS[0], many)),
        ({"kind": "class", "of": "01"}, Picture("01-class", PROMPTS[0].replace("l3yla", "a woman"), class_)),
    ]
    special = [({**one, "name": picture.name}, picture) for one, picture in special]
    made = drift.measure(opened, "c", 200, special, {"01": Picture("01", PROMPTS[0], usual)})
    found = {row["metric"]: row["value"] for row in made["rows"]}
    alone = [
        reading.values["identity_relative"]
        for reading in opened.measure([Picture("a", PROMPTS[0], p) for p in (many, usual, class_)])
    ]
    assert found["drift.steps"] == pytest.approx(alone[0] - alone[1], abs=1e-5)
    assert found["leak.identity"] == pytest.approx(alone[2], abs=1e-5)
    assert all(row["backend"] == "dinov2" for row in made["rows"])


def test_scores_of_another_judge_are_left_out_with_a_line() -> None:
    documents = [{"step": step, "backend": "auto", "weights": weights, "character": "c", "rows": []}
                 for step, weights in ((100, "a" * 64), (200, "a" * 64), (300, "b" * 64))]  # fmt: skip
    kept, lines = table.of_one_judge(documents)
    assert [one["step"] for one in kept] == [100, 200]
    assert len(lines) == 1 and "step 300 are another judge's" in lines[0] and "step-000300.json" in lines[0]
    assert table.of_one_judge(kept) == (kept, [])
