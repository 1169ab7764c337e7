"""Crops, image sources, extra data sets and the manifest."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import small_project
from PIL import Image
from small_project import picture, run_script, with_sets

from charloom.base import locks
from charloom.config.character import Character
from charloom.config.project import load
from charloom.core import contents, pictures, words
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.dataset import lint, manifest
from charloom.dataset.crop import crop_file
from charloom.dataset.sources import folder as folder_source
from charloom.dataset.sources import paperdoll as paperdoll_source
from charloom.workflow import jobs, own_files, slices

# crops


def test_a_crop_loses_nothing_but_the_edges(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    assert crop_file(source, tmp_path / "out" / "a.png") == (1150, 1050)
    with Image.open(source) as a, Image.open(tmp_path / "out" / "a.png") as b:
        assert b.format == "PNG"
        assert np.array_equal(np.asarray(a)[:1050, :1150], np.asarray(b))
    assert source.read_bytes() == before


def test_a_crop_of_nothing_keeps_all_pixels(tmp_path: Path) -> None:
    assert crop_file(picture(tmp_path / "a.png"), tmp_path / "b.png", right=0, bottom=0) == (1300, 1200)


def test_crops_that_cannot_be(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", (1100, 1300))
    message = r"a\.png: 1100x1300 leaves 950x1150 .* less than the minimum of 1024; use a .* set crop: {right: 0, bot"
    with pytest.raises(UserError, match=message):
        crop_file(source, tmp_path / "b.png")
    with pytest.raises(UserError, match=r"1100x1300 is less than the minimum of 1200; .* lower crop.minimum$"):
        crop_file(source, tmp_path / "b.png", right=0, bottom=0, minimum=1200)
    with pytest.raises(UserError, match="overwritten by its own crop"):
        crop_file(source, source, right=0)
    (tmp_path / "c.png").write_text("no image")
    with pytest.raises(UserError, match=r"c\.png: is not a picture that can be read"):
        crop_file(tmp_path / "c.png", tmp_path / "b.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path: Path, mode: str) -> None:
    whole = {"right": 0, "bottom": 0, "minimum": 8}
    with Image.open(picture(tmp_path / "a.png", (64, 64))) as image:
        image.convert(mode).save(tmp_path / "opaque.png")
        clear = image.convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 32, 64))
    clear.convert(mode).save(tmp_path / "clear.png")
    crop_file(tmp_path / "clear.png", tmp_path / "b.png", **whole)
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "RGB" and image.getpixel((10, 10)) == (255, 255, 255) != image.getpixel((50, 50))
    assert lint.facts(tmp_path / "b.png")["notes"] == [pictures.FLATTENED]
    crop_file(tmp_path / "opaque.png", tmp_path / "c.png", **whole)
    with Image.open(tmp_path / "opaque.png") as image:
        image.convert("RGB").save(tmp_path / "expected.png", compress_type=zlib.Z_RLE)
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert "notes" not in lint.facts(tmp_path / "c.png")


def test_the_crop_script_does_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("a.png", "b.jpg", "small.png")):
        picture(tmp_path / "in" / name, (1100, 1100) if name == "small.png" else (1300, 1200), seed)
    result = run_script("crop_watermark", "in", "--output", "out", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == "a.png: 1150x1050\nb.jpg: 1150x1050\n"
    assert re.fullmatch(r"error: in/small\.png: 1100x1100 leaves 950x950 .*\n", result.stderr)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


# sources


def test_the_doll_is_drawn_from_what_the_phrases_mean(mara: Character) -> None:
    scene = paperdoll_source.scene(mara.shot("closeup-01"))
    assert (scene.tier, scene.view, scene.expression) == ("close-up", "frontal", "smile")
    assert (scene.outfit, scene.color, scene.earrings, scene.background) == (
        "t-shirt",
        "white",
        "hoops",
        "light gray studio",
    )
    reference = json.loads(slices.source_image(mara, None))
    assert reference["scene"]["expression"] == "neutral" and reference["identity"] == mara.doll
    assert paperdoll_source.inputs(mara, None) == []
    assert paperdoll_source.inputs(mara, mara.shots[0]) == ["results/mara/reference.png"]


def test_own_images_are_copied_as_they_are(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    folder_source.make({}, [str(source)], tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == source.read_bytes()
    picture(tmp_path / "b.jpg")
    folder_source.make({}, [str(tmp_path / "b.jpg")], tmp_path / "b.png")
    with Image.open(tmp_path / "b.jpg") as a, Image.open(tmp_path / "b.png") as b:
        assert b.format == "PNG" and np.array_equal(np.asarray(a), np.asarray(b))
    with Image.open(source) as image:
        image.putalpha(100)
        image.save(tmp_path / "d.webp", lossless=True)
    folder_source.make({}, [str(tmp_path / "d.webp")], tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as image:
        assert image.mode == "RGB"
    assert pictures.read(tmp_path / "d.png").notes == (pictures.FLATTENED,)
    with pytest.raises(UserError, match="no longer in the folder"):
        folder_source.make({}, [], tmp_path / "c.png")


# further data sets


def test_further_sets_take_the_same_way(mara: Character, tmp_path: Path) -> None:
    person = with_sets(tmp_path, repeats=3, weight=0.5, resolutions=[64], flip_x=True)
    assert person.image_names == [*mara.shot_names, "others/a-1", "others/a-2"]
    assert json.loads(slices.caption(person, "others/a-1")) == {}
    assert json.loads(slices.caption(person, "others/a-2")) == {"default": "somebody"}
    own = json.loads(own_files.picture_settings(person, "others/a-1"))
    assert own == {"crop": {"right": 0, "bottom": 0, "minimum": 64}, "recipe": [3, 3]}
    assert json.loads(slices.crop(person, "medium-01"))["right"] == 150
    own = json.loads(slices.latents(person, "others/a-1"))
    assert (own["resolutions"], own["flips"]) == ([64], ["x"])
    assert json.loads(slices.latents(person, "medium-01"))["resolutions"] == [128]
    plan, others = json.loads(slices.manifest(person))["sets"]
    assert plan == {"items": mara.shot_names, "is_reg": False, "repeats": 1, "weight": 1.0}
    assert others == {
        "set": "others",
        "items": ["others/a-1", "others/a-2"],
        "is_reg": True,
        "repeats": 3,
        "weight": 0.5,
        "own": {"resolutions": [64], "flip_x": True},
    }
    # The settings of the plan do not know of the set.
    for slice_of in (slices.caption, slices.crop, slices.latents, slices.source_image):
        assert slice_of(person, "medium-01") == slice_of(mara, "medium-01")
    assert slices.train(person) == slices.train(mara)


def test_a_default_caption_is_for_images_without_text(mara: Character, tmp_path: Path) -> None:
    def captions_of(default: str) -> list[str]:
        recipe = {**small_project.CONFIG["recipe"], "data": {"default_caption": default}}
        small_project.edit(tmp_path / "config/config.yaml", recipe=recipe)
        person = load(tmp_path).characters["mara"]
        return [slices.caption(person, name) for name in person.shot_names]

    assert captions_of("a photo of {trigger}") == captions_of("")
    own = tmp_path / "config/captions/mara/medium-01.txt"
    own.parent.mkdir(parents=True)
    own.write_text(" \n")
    with pytest.raises(UserError, match=r"config/captions/mara/medium-01.txt: is empty; write a caption, delete the"):
        captions_of("")
    before, after = captions_of("x {trigger}"), captions_of("a photo\n of {trigger}")
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    result = run_script(
        "write_caption", "--user-file", str(own), "--settings", after[1], "--output", "out.txt", cwd=tmp_path
    )
    assert result.returncode == 0 and (tmp_path / "out.txt").read_text() == "a photo of m4ra\n"


def test_class_captions_have_the_class_word_for_the_trigger(mara: Character, tmp_path: Path) -> None:
    assert slices.class_captions(mara) == [] and slices.swap(mara) == "null"
    recipe = {"train": {"preservation": {"differential": {"enabled": True, "class": "girl"}}}}
    small_project.edit(tmp_path / "config/characters/mara.yaml", recipe=recipe)
    person = with_sets(tmp_path)
    assert slices.class_captions(person) == mara.shot_names  # nobody to preserve on regularisation images
    assert json.loads(slices.swap(person)) == ["m4ra", "girl"]
    assert words.swapped("M4ra, m4rab and m4ra", ["m4ra", "girl"]) == "girl, m4rab and girl"
    assert slices.texts(person) == slices.texts(mara)


# manifest and base


def test_the_manifest_names_contents(mara: Character, tmp_path: Path) -> None:
    results = tmp_path / "results" / "mara"
    for name in (*mara.shot_names, "_empty", "_trigger"):
        for folder, suffix in (
            ("dataset", "png"),
            ("dataset", "txt"),
            ("latents", "safetensors"),
            ("embeddings", "safetensors"),
        ):
            (results / folder).mkdir(parents=True, exist_ok=True)
            (results / folder / f"{name}.{suffix}").write_text(f"{name} in {folder}\n")
    made = manifest.manifest(Path("results/mara"), json.loads(slices.manifest(mara)))
    assert [item["name"] for item in made["items"]] == ["closeup-01", "medium-01", "fullbody-01"]
    assert made["items"][0]["caption"] == "closeup-01 in dataset"
    assert made["items"][0]["latents"] == "results/mara/latents/closeup-01.safetensors"
    assert set(made["variants"]) == {"empty", "trigger"}
    assert not {"set", "class_embeddings", "resolutions"} & set(made["items"][0])
    assert len({item["embeddings_sha256"] for item in made["items"]}) == 3


def test_the_manifest_blesses_no_damaged_file(mara: Character, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds is what training is checked against."""
    results, store = Path("results/mara"), Store("store")
    settings = json.loads(slices.manifest(mara))
    for name in (*mara.shot_names, "_empty", "_trigger"):
        for folder in ("latents", "embeddings"):
            with store.put(folder, "a" * 64, f"{name}.bin") as path:
                path.write_text(f"{name} in {folder}")
            store.fetch(folder, "a" * 64, f"{name}.bin", results / folder / f"{name}.safetensors")
        (results / "dataset").mkdir(exist_ok=True)
        (results / "dataset" / f"{name}.txt").write_text(f"{name}\n")
        (results / "dataset" / f"{name}.png").write_text(name)
    whole = manifest.manifest(results, settings, store.fetched("mara"))
    assert whole == manifest.manifest(results, settings)
    for file in ("latents/medium-01", "embeddings/_empty"):
        path = results / f"{file}.safetensors"
        before = path.read_bytes()
        path.write_bytes(before[:-1] + b"?")
        with pytest.raises(UserError, match=f"{path}: is damaged, it is not what was stored; delete it and run again"):
            manifest.manifest(results, settings, store.fetched("mara"))
        path.write_bytes(before)
    # So it is when the folder was moved.
    moved = tmp_path.with_name("moved")
    shutil.copytree(tmp_path, moved)
    monkeypatch.chdir(moved)
    assert manifest.manifest(results, settings, store.fetched("mara")) == whole
    (results / "latents/medium-01.safetensors").write_text("other")
    with pytest.raises(UserError, match="is damaged"):
        manifest.manifest(results, settings, store.fetched("mara"))
    # What the store no longer has cannot be compared.
    store.remove(store.path("latents", "a" * 64, "medium-01.bin"))
    (results / "latents/medium-01.safetensors").write_text("other")
    assert manifest.manifest(results, settings, store.fetched("mara")) != whole
    caption = results / "dataset/medium-01.txt"
    caption.write_text("mediu")
    with pytest.raises(UserError, match=f"{caption}: is truncated; delete it and run again"):
        manifest.manifest(results, settings)


def test_the_manifest_of_several_sets_and_class_captions(mara: Character, tmp_path: Path) -> None:
    recipe = {"train": {"preservation": {"differential": {"enabled": True}}}}
    small_project.edit(tmp_path / "config/characters/mara.yaml", recipe=recipe)
    person = with_sets(tmp_path, weight=0.5, resolutions=[64])
    results = tmp_path / "results" / "mara"
    files = [f"dataset/{n}.{s}" for n in person.image_names for s in ("png", "txt")]
    files += [f"{folder}/{n}.safetensors" for n in person.image_names for folder in ("latents", "embeddings")]
    files += [f"embeddings/{n}.class.safetensors" for n in mara.shot_names]
    for name in (*files, "embeddings/_empty.safetensors", "embeddings/_trigger.safetensors"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(f"{name}\n")
    slice_ = json.loads(slices.manifest(person))
    made = manifest.manifest(Path("results/mara"), slice_)["items"]
    assert [item["name"] for item in made] == person.image_names
    assert all(item["class_embeddings"].endswith(f"{item['name']}.class.safetensors") for item in made[:3])
    assert "class_embeddings" not in made[3]
    shares = [(i.get("set"), i["weight"], i["repeats"], i["is_reg"], i.get("resolutions")) for i in made[2:4]]
    assert shares == [(None, 1.0, 1, False, None), ("others", 0.5, 1, True, [64])]

    slice_["sets"][1]["holdout"] = True
    held = manifest.manifest(Path("results/mara"), slice_)
    assert [item["name"] for item in held["items"]] == mara.shot_names
    assert [item["name"] for item in held["holdout"]] == ["others/a-1", "others/a-2"]


def test_a_held_out_set_says_so_in_the_manifest_slice(mara: Character, tmp_path: Path) -> None:
    person = with_sets(tmp_path, regularization=False, holdout=True)
    assert json.loads(slices.manifest(person))["sets"][1]["holdout"] is True
    assert slices.train(person) == slices.train(mara)


def test_a_set_is_held_out_or_regularises(mara: Character, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\[1\]: holdout and regularization exclude each other"):
        with_sets(tmp_path, holdout=True)


def test_a_lock_names_bytes_not_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_project.make(tmp_path))
    base, store = load(".").bases["mini"], Store("store")
    settings = json.loads(slices.base_lock(base))
    lock = locks.lock(settings, store)
    assert set(lock["components"]) == set(locks.COMPONENTS)
    (tmp_path / "resources/bases/mini/vae/README.md").write_text("about")
    monkeypatch.setattr(contents, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert locks.lock(settings, store) == lock
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources/bases/mini").rename(tmp_path / "elsewhere")
    moved = locks.lock({**settings, "path": "elsewhere", "adapters": {}}, store)
    assert (moved["components"], moved["root"]) == (lock["components"], "elsewhere")
    (tmp_path / "elsewhere/vae/config.json").unlink()
    with pytest.raises(UserError, match="elsewhere: the base has no files in vae/"):
        locks.lock({**settings, "path": "elsewhere", "adapters": {}}, store)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    settings = {"name": "x", "repo": "nobody/nothing", "revision": "1", "adapters": {}}
    with pytest.raises(UserError, match="nobody/nothing at 1 cannot be fetched from the hub") as caught:
        locks.lock(settings, Store(tmp_path))
    assert "\n" not in str(caught.value)


def test_self_batching_makes_once(tmp_path: Path) -> None:
    store, made = Store(tmp_path / "store"), []

    def make() -> None:
        for key in ("aa", "bb"):
            made.append(key)
            with store.put("thing", key, ".txt") as path:
                path.write_text(key)

    for key in ("aa", "bb"):
        jobs.serve(store, "thing", key, ".txt", tmp_path / f"{key}.txt", "lock", make)
    assert made == ["aa", "bb"]
    assert (tmp_path / "bb.txt").read_text() == "bb"
