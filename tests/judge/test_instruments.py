"""The instruments one by one: packages with their real weights, Hub models as tiny random ones of the same classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import judge_models
import numpy as np
import pytest
from PIL import Image, ImageFilter

from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.judge import copies, identity, locking, phrases
from charloom.judge.backend import Picture
from charloom.judge.instruments import KINDS, open_instrument
from charloom.judge.memory import Memory
from charloom.judge.panel import Panel


def noise(seed: int, size: int = 64) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.NEAREST))


def picture(seed: int, text: str = "") -> Picture:
    return Picture(f"p{seed}", text, noise(seed), content=f"c{seed}")


def panel(folder: Path, **models: Path) -> Panel:
    store = Store(folder / "store")
    lock = locking.lock({"name": "tiny", "models": {k: {"path": str(v)} for k, v in models.items()}}, store)
    assert set(models) <= set(lock["instruments"]), lock["missing"]
    return Panel(lock, Memory(store))


@pytest.mark.parametrize("name", ["dinov2", "siglip", "ccip"])
def test_an_embedding_is_a_unit_vector_of_the_picture(name: str, tmp_path: Path) -> None:
    if name == "ccip":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    opened = panel(tmp_path, **{name: getattr(judge_models, name)(tmp_path / name)})
    one, other, again = (look["vector"] for look in opened.looks(name, [picture(1), picture(2), picture(1)]))
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5) and one.dtype == np.float32
    assert np.array_equal(one, again) and not np.allclose(one, other, atol=1e-3)
    similar = opened.cls(name).similarity(np.stack([one]), np.stack([one, other]))
    assert similar[0, 0] == pytest.approx(1.0, abs=1e-5) and similar[0, 1] < similar[0, 0]


@pytest.mark.parametrize("make", [judge_models.siglip, judge_models.siglip2])
def test_a_text_is_embedded_into_the_same_space(make: Callable[[Path], Path], tmp_path: Path) -> None:
    model = panel(tmp_path, siglip=make(tmp_path / "siglip")).opened("siglip")
    assert model.look([picture(1)])[0]["vector"].shape == (32,)
    vectors = model.texts(["a photo of a wall", "a photo of a user", "a photo of a wall"])
    assert vectors.shape == (3, 32) and np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-6) and not np.allclose(vectors[0], vectors[1], atol=1e-4)


def test_a_vision_language_model_answers_each_phrase(tmp_path: Path) -> None:
    model = panel(tmp_path, vlm=judge_models.vision_language(tmp_path / "vlm")).opened("vlm")
    asked = ["a wall", "a medium shot of a user", "a plain assistant"]
    yes = model.answers(picture(1), asked)["yes"]
    assert yes.shape == (3,) and ((yes > 0) & (yes < 1)).all()
    # Padding must not change an answer: each alone gives the same as all at once.
    alone = [float(model.answers(picture(1), [phrase])["yes"][0]) for phrase in asked]
    assert np.allclose(yes, alone, atol=1e-4) and len(set(np.round(alone, 5))) == 3


def test_a_model_that_cannot_say_yes_is_one_line(tmp_path: Path) -> None:
    folder = judge_models.vision_language(tmp_path / "vlm", words=False)
    with pytest.raises(UserError, match="no words for yes and no; use another model"):
        panel(tmp_path, vlm=folder).opened("vlm")


def test_a_damaged_model_leaves_its_metric_unscored(tmp_path: Path) -> None:
    folder = judge_models.dinov2(tmp_path / "dinov2")
    opened = panel(tmp_path, dinov2=folder)
    (folder / "config.json").write_text("{}")
    assert opened.looks("dinov2", [picture(1)]) == [None] and not opened.has("dinov2")
    (note,) = opened.memory.notes
    assert note.startswith("dinov2: ") and note.endswith("; what it measures is not scored") and "\n" not in note


def test_what_was_seen_is_remembered_by_content(tmp_path: Path) -> None:
    memory, calls = Memory(Store(tmp_path)), []

    def look(new):
        calls.append([one.name for one in new])
        return [{"a": np.array([float(one.pixels[0, 0, 0])])} if one.name != "p2" else {} for one in new]

    first = memory.looks("eye 1", [picture(1), picture(2)], look)
    again = Memory(Store(tmp_path)).looks("eye 1", [picture(2), picture(1), picture(3)], look)
    assert calls == [["p1", "p2"], ["p3"]]
    assert again[0] == {} == first[1] and again[1]["a"] == first[0]["a"]
    memory.looks("eye 2", [picture(1)], look)
    assert calls[-1] == ["p1"]


def test_a_picture_that_cannot_be_read_is_left_out_with_a_line() -> None:
    def broken() -> np.ndarray:
        raise UserError("a.png: is not a picture")

    memory = Memory()
    looks = memory.looks("eye", [Picture("a", "", broken), picture(1)], lambda new: [{"x": np.ones(1)} for _ in new])
    assert looks[0] is None and looks[1] and memory.notes == ["a.png: is not a picture"]


# dlib, EfficientNet and BRISQUE with their own weights


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return pytest.importorskip("skimage.data").astronaut()


def real(name: str, folder: Path) -> Panel:
    opened = panel(folder)
    if not opened.has(name):
        pytest.skip(opened.lock["missing"][name]["why"])
    return opened


def changed(pixels: np.ndarray, angle: float, blur: float) -> Picture:
    image = Image.fromarray(pixels).rotate(angle).filter(ImageFilter.GaussianBlur(blur))
    return Picture(f"{angle}", "", np.asarray(image))


def test_a_face_is_found_and_recognised(tmp_path: Path, portrait: np.ndarray) -> None:
    opened = real("dlib", tmp_path)
    samples = [changed(portrait, 0, 0), changed(portrait, 4, 1.5), Picture("none", "", noise(1, 256))]
    own, again, nobody = opened.looks("dlib", samples)
    faces = opened.cls("dlib")
    assert faces.similarity(own["vector"][None], again["vector"][None])[0, 0] > faces.cut
    left, top, right, bottom = own["box"]
    assert 150 < left < right < 320 and 40 < top < bottom < 240  # where the astronaut's face is
    assert nobody == {}


def test_brisque_and_efficientnet_see_a_blurred_picture(tmp_path: Path, portrait: np.ndarray) -> None:
    sharp, soft = changed(portrait, 0, 0), changed(portrait, 0, 3)
    opened = real("brisque", tmp_path)
    good, bad = (float(look["brisque"][0]) for look in opened.looks("brisque", [sharp, soft]))
    assert good < 10 < 50 < bad
    opened = real("efficientnet", tmp_path)
    one, other = (look["vector"] for look in opened.looks("efficientnet", [sharp, Picture("n", "", noise(1, 256))]))
    assert one @ other < 0.8 and one.shape == (1280,)


def test_the_large_landmark_model_is_never_touched() -> None:
    names = [name for kind in KINDS.values() if kind.files for name in kind.files()]
    assert not [name for name in names if "68" in name]


# What is done with the looks


class Axis:
    """An instrument for which similarity is the cosine."""

    name, stranger, cut = "axis", 0.0, None

    @staticmethod
    def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return one @ other.T


def around(angle: float, spread: float, number: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    angles = np.random.default_rng(seed).normal(angle, spread, number)
    return [{"vector": np.array([np.cos(a), np.sin(a)], np.float32)} for a in angles]


class Blind(Axis):
    name = "blind"


def test_the_instrument_that_separates_best_is_taken() -> None:
    knows = identity.trial(Axis, around(0.0, 0.1, 10), around(1.4, 0.1, 6, 1))
    blind = identity.trial(Blind, around(0.0, 0.3, 10), around(0.3, 0.3, 6, 1))
    chosen, why = identity.best([blind, knows], True)
    assert chosen is knows and "axis" in why and "100 %" in why and "blind" in why


def test_an_instrument_that_sees_few_references_loses_to_one_that_sees_all() -> None:
    seldom = identity.trial(Axis, [*around(0.0, 0.01, 4), *[{}] * 6], around(1.4, 0.1, 6, 1))
    always = identity.trial(Blind, around(0.0, 0.3, 10), around(1.2, 0.3, 6, 1))
    assert identity.best([seldom, always], True)[0] is always


def test_without_pictures_of_others_the_first_that_covers_half() -> None:
    seldom = identity.trial(Axis, [*around(0.0, 0.01, 4), *[{}] * 6])
    always = identity.trial(Blind, around(0.0, 0.3, 10))
    chosen, why = identity.best([seldom, always])
    assert chosen is always and "no pictures of the base alone" in why


def test_no_instrument_is_not_scored() -> None:
    assert identity.best([]) == (None, "identity is not scored: there is no instrument for it")
    nobody = identity.trial(Axis, [{}] * 10)
    chosen, why = identity.best([nobody])
    assert chosen is None and "axis in 0 of 10" in why


def test_the_scale_is_calibrated_on_the_references() -> None:
    trial = identity.trial(Axis, around(0.0, 0.1, 40), around(1.4, 0.1, 20, 1))
    assert trial.relative(trial.level) == pytest.approx(1.0) and trial.relative(trial.stranger) == pytest.approx(0.0)
    wide = identity.trial(Axis, around(0.0, 0.5, 40), around(1.4, 0.1, 20, 1))
    tight, loose = identity.limits(trial, None), identity.limits(wide, None)
    assert loose["identity_enough"] < tight["identity_enough"] and loose["stranger"] <= tight["stranger"]
    for found in (tight, loose):
        assert found["stranger"] <= found["identity_low"] < found["identity_enough"]


def test_a_copy_is_told_from_another_picture_of_the_set() -> None:
    training = [picture(seed) for seed in range(6)]

    def vectors(pictures: list[Picture]) -> np.ndarray:
        flat = np.stack(
            [np.asarray(Image.fromarray(p.pixels).resize((8, 8)), np.float64).reshape(-1) for p in pictures]
        )
        flat -= flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    own = vectors(training)
    near = vectors([copies.near_copy(one) for one in training])
    known = copies.Copies(
        [one.name for one in training], own, np.stack([look["bits"] for look in copies.hashes(training)]),
        copies.limit(own, near),
    )  # fmt: skip
    copied = copies.near_copy(training[3])
    found = known.nearest(vectors([copied])[0], copies.hashes([copied])[0]["bits"])
    assert (found.name, found.copied) == ("p3", True)
    new = picture(99)
    assert not known.nearest(vectors([new])[0], copies.hashes([new])[0]["bits"]).copied
    assert known.nearest(own[2], copies.hashes([training[2]])[0]["bits"]).bits == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "a medium shot photo of l3yla, side profile, laughing, wearing a teal hoodie, gold hoop earrings, kitchen",
            {"tier": "medium shot", "view": "side profile", "expression": "laughing", "outfit": "wearing a teal hoodie",
             "accessory": "gold hoop earrings", "background": "kitchen"},
        ),
        (
            "photo of l3yla sitting in a cafe",
            {"pose": "sitting in a cafe"},
        ),
        (
            "a full body photo of l3yla, a woman with long hair, arms crossed, on the moon",
            {"tier": "full body", "pose": "arms crossed", "background": "on the moon"},
        ),
    ],
)  # fmt: skip
def test_a_prompt_is_split_into_phrases(text: str, found: dict[str, str]) -> None:
    assert phrases.by_attribute(phrases.split(text, "l3yla", ", a woman with long hair")) == found


# The lock


def test_the_lock_says_what_to_install(tmp_path: Path) -> None:
    models = {"siglip": {"repo": "owner/name", "revision": "0" * 40}}
    lock = locking.lock({"name": "z", "models": models}, Store(tmp_path))
    assert lock["missing"]["siglip"]["install"] == f"hf download owner/name --revision {'0' * 40}"
    assert "judge_models.vlm" in lock["missing"]["vlm"]["install"]


def test_a_model_in_the_cache_is_used_and_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    repo = tmp_path / "models--owner--dino"
    judge_models.dinov2(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    models = {"dinov2": {"repo": "owner/dino", "revision": "main"}}
    entry = locking.lock({"name": "z", "models": models}, Store(tmp_path / "store"))["instruments"]["dinov2"]
    assert entry["revision"] == commit and len(entry["sha256"]) == 64


def test_a_listed_checksum_must_hold(tmp_path: Path) -> None:
    folder = judge_models.dinov2(tmp_path / "dinov2")
    models = {"dinov2": {"path": str(folder), "checksums": {"model.safetensors": "0" * 64}}}
    assert (
        "is not the file that is listed"
        in locking.lock({"name": "z", "models": models}, Store(tmp_path))["missing"]["dinov2"]["why"]
    )


def test_a_locked_file_that_changed_is_not_used(tmp_path: Path) -> None:
    folder = judge_models.dinov2(tmp_path / "dinov2")
    made = panel(tmp_path, dinov2=folder).lock
    assert locking.changed(made) == {}
    (folder / "model.safetensors").write_bytes(b"other")
    assert "has changed" in locking.changed(made)["dinov2"]
    (folder / "model.safetensors").unlink()
    assert "is gone" in locking.changed(made)["dinov2"]
    with pytest.raises(UserError, match="is gone"):
        locking.files_of(made, "dinov2")


def test_whatever_a_package_raises_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UserError, match="^dinov2 cannot be loaded") as caught:
        open_instrument("dinov2", {"config.json": tmp_path / "config.json"}, "")
    assert "\n" not in str(caught.value)
