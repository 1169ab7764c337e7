"""The judge of styles: it reads how a picture is made, whatever it shows, and the choice goes by that."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from charloom.core import files
from charloom.core.canonical import file_digest
from charloom.core.layout import Results
from charloom.core.store import Store
from charloom.judge import backend, choice
from charloom.judge.look import READ, Look, Reader, cells
from charloom.paperdoll import attributes
from charloom.paperdoll.draw import draw
from charloom.paperdoll.looks import LOOKS
from charloom.workflow.scores import Judgement

ROOT = Path(__file__).resolve().parents[2]
SCENERY = [place for place in attributes.BACKGROUND if "studio" not in place]


def strangers(seed: int, number: int, look: str | None, again: int = 0) -> list[np.ndarray]:
    """Pictures of strangers: the same people and places for the same seed, drawn in a look or without."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(number):
        who, scene = attributes.random_identity(rng), attributes.random_scene(rng)
        scene = attributes.Scene(**{**vars(scene), "background": rng.choice(SCENERY)})
        how = {"seed": rng.randrange(1000) + again, "look": LOOKS[look] if look else None}
        drawn.append(np.asarray(draw(who, scene, 128, **how)))
    return drawn


def pictures(drawn: list[np.ndarray], strength: float = 1.0) -> list[backend.Picture]:
    return [backend.Picture(f"{i:02d}", "", pixels, strength=strength) for i, pixels in enumerate(drawn, 1)]


@pytest.fixture(scope="module")
def judge() -> Look:
    made = Look(without=pictures(strangers(2, 10, None)))
    levels = made.study(pictures(strangers(1, 24, "ink")))
    assert levels["style"] == pytest.approx(1.0, abs=0.3) and levels["sharpness"] > 0
    return made


def test_the_same_subjects_are_read_with_the_look_and_not_without_it(judge: Look) -> None:
    def style(look: str | None) -> list[float]:
        return [reading.values["style"] for reading in judge.measure(pictures(strangers(2, 10, look)))]

    styled, plain = style("ink"), style(None)
    assert max(plain) < 1e-5, "they are what the base draws"
    assert sum(value > READ for value in styled) >= 9 and max(styled) <= 1.0
    again = [r.values["style"] for r in judge.measure(pictures(strangers(2, 10, None, again=1)))]
    assert sum(value > READ for value in again) <= 1, "drawn anew without the look, they do not pass for it"


def test_unknown_subjects_are_read_too(judge: Look) -> None:
    def places(look: str | None) -> np.ndarray:
        return judge._reader.read(np.stack([cells(one) for one in strangers(3, 24, look)]))

    assert (places("ink") > 0.5).mean() >= 0.85 and (places(None) <= 0.5).mean() >= 0.85


def test_what_is_not_drawn_in_the_style_is_said_in_words(judge: Look) -> None:
    (reading,) = judge.measure(pictures(strangers(2, 1, None)))
    assert reading.misses == ("style: 0.00, not drawn in it",)
    (off,) = judge.measure(pictures(strangers(2, 1, None), strength=0.0))
    assert off.misses == (), "nobody asked for it"


def test_too_few_pictures_make_no_reader() -> None:
    judge = Look(without=pictures(strangers(2, 3, None)))
    assert "style" not in judge.study(pictures(strangers(1, 6, "ink")))
    assert "style" not in judge.measure(pictures(strangers(2, 1, "ink")))[0].values


def test_the_same_pictures_on_both_sides_tell_nothing() -> None:
    seen = np.stack([cells(one) for one in strangers(1, 6, None)])
    assert np.abs(Reader(seen, seen).read(seen)).max() < 0.6


def test_cells_are_shares_and_know_colour_from_grey() -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 256, (64, 64, 1)), 3, axis=2).astype(np.uint8)
    shares = cells(grey)
    assert shares.sum() == pytest.approx(1.0, abs=1e-5) and shares.min() >= 0
    tinted = grey.copy()
    tinted[..., 2] //= 2
    assert np.abs(cells(tinted) - shares).sum() > 0.5


def test_the_measured_style_is_read_and_leaves_the_character_who_she_is() -> None:
    """benchmarks/results/style.json, by benchmarks/style.py; and the page about styles says the same."""
    made = json.loads((ROOT / "benchmarks/results/style.json").read_text())
    assert min(made["reader"]["right"]["at the places of the prompts"].values()) >= 0.95
    plain, *styled = made["rows"]
    assert plain["style_strength"] == 0 and [row["style_strength"] for row in styled] == [1.0, 0.8]
    page = (ROOT / "docs/styles.md").read_text()
    for row in styled:
        assert row["pictures"] >= 40
        assert row["style_read_in"] >= 0.95, row
        assert row["style_strength"] > 0.8 or row["identity_falls_by"] < 0.05, row
        cells = [
            f"{row['style_strength']:g}",
            f"{row['identity']:.3f} ({-row['identity_falls_by']:+.1%})",
            f"{row['style_read_in']:.1%}",
            f"{row['obedience']:.2f}",
        ]
        assert f"| {' | '.join(cells)} |" in page


def scored(step: int, *values: float, detail: float = 1.0) -> list[dict]:
    rows = []
    for number, value in enumerate(values, 1):
        key = {"character": "ink", "step": step, "prompt": f"{number:02d}", "seed": 42, "strength": 1.0}
        for metric, found in (("style", value), ("detail", detail), ("contrast", 0.2)):
            rows.append({**key, "metric": metric, "value": found, "backend": "look", "weights": ""})
    return rows


def test_the_latest_checkpoint_that_draws_the_style_is_chosen() -> None:
    rows = scored(0, 0, 0, 0) + scored(50, 0.3, 0.4, 0.8) + scored(100, 0.9, 0.95, 1.0) + scored(150, 0.97, 0.9, 0.98)
    made = choice.choose(rows, [50, 100, 150])
    assert (made["step"], made["how"]) == (150, "rule") and made["not_scored"] == [] and made["warnings"] == []
    assert "draws the style clearly and sharply" in made["why"][0]
    first = made["verdicts"][0]
    assert first["verdict"] == "undertrained" and first["scores"]["unstyled"] == ["01", "02"]
    assert any("2 of 3 samples are not drawn in the style (prompts 01, 02)." in r["text"] for r in first["reasons"])


def test_blur_speaks_against_a_style_and_weakness_is_said() -> None:
    rows = scored(50, 0.9, 0.95) + scored(100, 0.9, 0.96) + scored(150, 0.97, 0.9, detail=0.2)
    assert choice.choose(rows, [50, 100, 150])["step"] == 100
    weak = choice.choose(scored(50, 0.1, 0.2) + scored(100, 0.5, 0.6), [50, 100])
    assert weak["how"] == "fallback" and "the style is reached to 0.55" in weak["warnings"][0]


def test_scores_of_characters_say_nothing_of_styles() -> None:
    other = {"style": "identity"}
    rows = [{**row, "metric": other.get(row["metric"], row["metric"])} for row in scored(50, 0.9, 0.9)]
    made = choice.choose(rows, [50])
    assert not {"style", "unstyled"} & set(made["verdicts"][0]["scores"])
    assert made["not_scored"] == ["obedience", "bleed"]


def test_the_scores_of_a_style_compare_with_what_the_base_drew_whatever_judge_the_base_has(tmp_path: Path) -> None:
    made = Results(tmp_path / "ink")

    def save(path: Path, pixels: np.ndarray) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return file_digest(path)

    own = [(f"{i:03d}", pixels) for i, pixels in enumerate(strangers(1, 12, "ink"), 1)]
    items = [{"name": name, "caption": "", "image": save(made.image(name), pixels)} for name, pixels in own]
    files.write_json(made.manifest, {"items": items})
    prompts = [{"name": f"{i:02d}", "text": "x", "seed": 42, "scale": 1.0} for i in range(1, 6)]
    for step, look in ((0, None), (50, None), (100, "ink")):
        for prompt, pixels in zip(prompts, strangers(2, 5, look, again=step), strict=True):
            save(made.sample(step, prompt["name"]), pixels)
    settings = {"character": "ink", "trigger": "", "judge": "look", "prompts": prompts, "recipe": 1}
    judgement = Judgement(made.root, settings, None)
    store = Store(tmp_path / "store")
    assert judgement.make(store)[0] == [0, 50, 100]

    def style(step: int) -> float:
        rows = files.read_json(store.path("scores", judgement.key(step) or "", ".json"))["rows"]
        return float(np.mean([row["value"] for row in rows if row["metric"] == "style"]))

    assert style(0) < 1e-5 and style(50) < 0.3 and style(100) > 0.6
    before = judgement.key(100)
    save(made.sample(0, "01"), strangers(9, 1, None)[0])
    assert Judgement(made.root, settings, None).key(100) != before, "another picture of the base is another scale"
