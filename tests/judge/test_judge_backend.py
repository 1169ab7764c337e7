"""Back ends, the score document and the table."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.judge import backend, table
from charloom.judge.backend import Picture
from charloom.judge.plain import Plain
from charloom.workflow.scores import KIND, Judgement


def noise(seed: int, blur: float = 0.0, size: int = 256) -> np.ndarray:
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur)))


class FakeProbe:
    """Reads attributes that are written into the first pixels of a picture, and an identity from one more."""

    def read(self, images):
        from charloom.paperdoll.attributes import TABLES

        out = {key: np.zeros((len(images), len(values)), np.float32) for key, values in TABLES.items()}
        for i, image in enumerate(images):
            for j, key in enumerate(TABLES):
                out[key][i, image[8 * (j // 16) + 4, 8 * (j % 16) + 4, 0] // 10] = 1.0
        angle = np.array([image[200, 200, 0] / 255 * np.pi / 2 for image in images])
        return {"attributes": out, "identity": np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)}


def doll(text: str, angle: float = 0.0, name: str = "01", **change: str) -> Picture:
    """A picture in which :class:`FakeProbe` reads what ``text`` says, except for ``change``."""
    from charloom.paperdoll import language
    from charloom.paperdoll.attributes import TABLES

    values = {**vars(language.scene_from(text)), **change}
    pixels = np.full((256, 256, 3), 120, np.uint8)
    for j, (key, allowed) in enumerate(TABLES.items()):
        top, left = 8 * (j // 16), 8 * (j % 16)
        pixels[top : top + 8, left : left + 8, 0] = 10 * (allowed.index(values[key]) if key in values else 0) + 5
    pixels[190:210, 190:210, 0] = round(angle * 255)
    return Picture(name, text, pixels)


CAPTION = "a close-up portrait photo of l3yla, frontal view, soft smile, wearing a beige pantsuit, light gray studio"
PROMPT = "a close-up portrait photo of l3yla, side profile, laughing, wearing a teal hoodie, park with trees"


@pytest.fixture
def judge():
    from charloom.judge.paperdoll import Paperdoll

    judge = Paperdoll(None, FakeProbe())
    judge.study([doll(CAPTION, 0.05 * i, earrings="hoops") for i in range(5)])
    return judge


def test_a_picture_that_cannot_be_read_has_no_values(judge, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    first, second, third = judge.measure([doll(PROMPT), backend.later(broken, PROMPT, "x"), doll(PROMPT)])
    assert second.values == {} and first.values == third.values != {}


def test_obeyed_prompt(judge):
    reading = judge.measure([doll(PROMPT)])[0]
    assert reading.values["obedience"] == 1.0
    assert reading.values["bleed"] == 0.0
    assert {"obedience.outfit", "obedience.color", "obedience.background", "obedience.view"} <= set(reading.values)
    assert reading.misses == ()


def test_training_pictures_coming_back(judge):
    sample = doll(PROMPT, outfit="pantsuit", color="beige", background="light gray studio", earrings="hoops")
    values = judge.measure([sample])[0].values
    assert [values[f"bleed.{key}"] for key in ("outfit", "background", "earrings")] == [1.0, 1.0, 1.0]
    assert values["bleed"] == 1.0
    assert values["obedience"] == pytest.approx(3 / 6)
    misses = judge.measure([sample])[0].misses
    assert "outfit: asked for hoodie, got pantsuit" in misses
    assert "earrings: hoops comes from the training pictures" in misses


def test_a_mistake_that_copies_nothing_is_no_bleed(judge):
    values = judge.measure([doll(PROMPT, outfit="sundress", background="beach")])[0].values
    assert values["bleed"] == 0.0 and values["obedience"] == pytest.approx(4 / 6)


def test_asked_accessories_are_no_bleed(judge):
    prompt = PROMPT.replace("park", "gold hoop earrings, park")
    values = judge.measure([doll(prompt, earrings="hoops")])[0].values
    assert "bleed.earrings" not in values and values["obedience.earrings"] == 1.0


def test_identity_is_relative_to_the_characters_own(judge):
    levels = judge.study([doll(CAPTION, 0.1 * i) for i in range(5)])
    same, other = judge.measure([doll(PROMPT, 0.2), doll(PROMPT, 1.0)])
    assert 0.9 < levels["identity"] < 1.0
    assert same.values["identity"] == pytest.approx(1.0, abs=1e-3)
    assert same.values["identity_relative"] == pytest.approx(1.0 / levels["identity"], abs=1e-3)
    assert other.values["identity"] < 0.5


def test_without_references_identity_is_not_scored():
    from charloom.judge.paperdoll import Paperdoll

    judge = Paperdoll(None, FakeProbe())
    document = backend.score(judge, judge.study([]), "c", 50, [doll(PROMPT)])
    assert {"identity", "identity_relative", "bleed", "detail"} == set(document["not_scored"])


def test_a_sample_without_the_trigger_has_no_identity(judge):
    samples = [doll(PROMPT, name="01"), doll(PROMPT.replace("l3yla", "a woman"), name="02", earrings="hoops")]
    document = backend.score(judge, {}, "c", 50, samples, "l3yla")
    metrics = {
        name: {r["metric"].split(".")[0] for r in document["rows"] if r["prompt"] == name} for name in ("01", "02")
    }
    assert metrics["01"] - metrics["02"] == {"identity", "identity_relative", "bleed"}
    assert metrics["02"] == {"obedience", "detail", "contrast"} and document["not_scored"] == []


def test_the_scores_of_a_checkpoint_know_the_trigger(judge, tmp_path, monkeypatch):
    prompts = [PROMPT, PROMPT.replace("l3yla", "a woman")]
    for folder, names in {"dataset": ["a", "b"], "samples/step-000050": ["01", "02"]}.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            Image.fromarray(doll(PROMPT).pixels).save(tmp_path / folder / f"{name}.png")
    items = [{"name": name, "caption": CAPTION, "image": name} for name in ("a", "b")]
    (tmp_path / "dataset.json").write_text(json.dumps({"items": items}))
    monkeypatch.setattr(backend, "open_backend", lambda name, weights, memory: judge)
    numbered = [{"name": f"{i:02d}", "text": text, "seed": 42, "scale": 1.0} for i, text in enumerate(prompts, 1)]
    settings = {"character": "c", "trigger": "l3yla", "judge": "paperdoll", "prompts": numbered}
    judgement, store = Judgement(tmp_path, settings, None), Store(tmp_path / "store")
    assert judgement.make(store) == ([50], [])
    rows = json.loads(store.path(KIND, judgement.key(50), ".json").read_text())["rows"]
    assert [row["prompt"] for row in rows if row["metric"] == "identity"] == ["01"]


def test_a_real_probe_runs():
    import torch

    from charloom.judge.paperdoll import Paperdoll
    from charloom.paperdoll.probe import Probe

    torch.set_num_threads(1)
    torch.manual_seed(0)
    judge = Paperdoll(None, Probe().eval())
    levels = judge.study([Picture(f"r{i}", CAPTION, noise(i)) for i in range(3)])
    document = backend.score(judge, levels, "c", 50, [Picture("01", PROMPT, noise(9), 42)])
    assert json.loads(json.dumps(document)) == document
    assert document["not_scored"] == []
    assert all(np.isfinite(row["value"]) for row in document["rows"])


def test_plain_measures_sharpness_and_contrast_only():
    judge = Plain()
    assert judge.study([Picture("r", "", noise(1, 1.0))])["sharpness"] > 0
    sharp, soft, blank = judge.measure(
        [
            Picture("1", "", noise(2, 1.0)),
            Picture("2", "", noise(2, 4.0)),
            Picture("3", "", np.zeros((64, 64, 3), np.uint8)),
        ]
    )
    assert sharp.values["detail"] == pytest.approx(1.0, abs=0.1)
    assert soft.values["detail"] < 0.1
    assert blank.values == {"contrast": 0.0, "detail": 0.0}
    document = backend.score(judge, {}, "c", 50, [Picture("1", "", noise(2))])
    assert document["not_scored"] == ["identity", "identity_relative", "obedience", "bleed"]


def test_sharpness_does_not_depend_on_the_number_of_pixels():
    base = Image.fromarray(noise(3, 3.0))
    judge = Plain()
    judge.study([Picture("r", "", np.asarray(base))])
    large = np.asarray(base.resize((1024, 1024), Image.Resampling.BICUBIC))
    assert judge.measure([Picture("1", "", large)])[0].values["detail"] == pytest.approx(1.0, abs=0.1)


def test_open_backend(tmp_path):
    assert backend.open_backend("none").name == "none"
    with pytest.raises(UserError, match="no back end 'photos'; use one of auto, none, paperdoll"):
        backend.open_backend("photos")
    with pytest.raises(UserError, match="no probe at"):
        backend.open_backend("paperdoll", tmp_path / "probe.safetensors")


def test_load_picture(tmp_path):
    Image.fromarray(noise(1, size=1200)).save(tmp_path / "a.png")
    picture = backend.load_picture(tmp_path / "a.png", "words", edge=300)
    assert (picture.name, picture.pixels.shape) == ("a", (300, 300, 3))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="b.png: is not a picture that can be read"):
        backend.load_picture(tmp_path / "b.png", "")
    with pytest.raises(UserError, match="c.png: there is no such picture"):
        backend.load_picture(tmp_path / "c.png", "")


def test_table_round_trip(tmp_path):
    judge = Plain()
    levels = judge.study([Picture("r", "", noise(1))])
    for step in (100, 50):
        document = backend.score(judge, levels, "c", step, [Picture("01", "a prompt", noise(2), 42, 0.8)])
        (tmp_path / f"step-{step:06d}.json").write_text(json.dumps(document))
    documents = table.read_scores(sorted(tmp_path.glob("*.json"), reverse=True))
    rows = table.from_scores(documents)
    assert [row["step"] for row in rows] == [50, 50, 100, 100]
    table.write_csv(rows, tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", encoding="utf-8", newline="") as file:
        lines = file.read()
    assert "\r" not in lines and lines.splitlines()[0] == ",".join(table.COLUMNS)
    written = list(csv.DictReader(lines.splitlines()))
    assert written == [{key: str(value) for key, value in row.items()} for row in rows]
    table.write_csv([], tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == ",".join(table.COLUMNS) + "\n"
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(UserError, match="bad.json: is not a score file"):
        table.read_scores([tmp_path / "bad.json"])
