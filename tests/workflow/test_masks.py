"""Masks from the user's files to the sizes of the latents, and through the rules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_project
from PIL import Image
from small_project import edit, picture, run_script

from charloom.config import masking
from charloom.config.project import load
from charloom.core import pictures
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors
from charloom.dataset import manifest
from charloom.dataset.crop import crop_file
from charloom.judge import person
from charloom.workflow import latents, mask_slices, masks, slices

MARA = Path("config/characters/mara.yaml")
FILE = {"source": "file", "crop": {"right": 0, "bottom": 0}, "resolutions": [64, 96]}
AUTO = {**FILE, "source": "auto"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mara with pictures of her own and a mask for each."""
    monkeypatch.chdir(small_project.make(tmp_path))
    for folder in ("pics", "masks"):
        Path(folder).mkdir()
    for seed, shot in enumerate(small_project.CHARACTER["shots"]):
        picture(Path(f"pics/{shot['name']}.png"), (140, 130), seed)
        box(Path(f"masks/{shot['name']}.png"), (140, 130), (35, 0, 105, 130))
    edit(MARA, images={"source": "folder", "path": "pics", "count": 3, "masks": "masks"})
    return tmp_path


def box(path: Path, size: tuple[int, int], white: tuple[int, int, int, int]) -> Path:
    """A mask: a white box on black."""
    mask = Image.new("L", size)
    mask.paste(255, white)
    mask.save(path)
    return path


def test_a_mask_lies_on_its_picture_at_every_size(tmp_path: Path) -> None:
    """The picture is the mask: what latents would see at a size, averaged over cells, is what the mask says."""
    size = (150, 260)
    mask = box(tmp_path / "mask.png", size, (40, 60, 110, 200))
    Image.open(mask).convert("RGB").save(tmp_path / "image.png")
    made, origin = masks.make(tmp_path / "image.png", None, mask, FILE)
    assert origin == "mask"
    seen = latents.resized(tmp_path / "image.png", FILE["resolutions"])
    assert set(made) == {f"{w}x{h}" for w, h in seen} and len(made) == 2
    for (width, height), pixels in seen.items():
        cells = pixels[:, :, 0].reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)) / 255
        assert np.abs(made[f"{width}x{height}"].numpy() - cells).max() < 0.04
    # Another place on the picture is another place in the mask.
    moved, _ = masks.make(tmp_path / "image.png", None, box(tmp_path / "m.png", size, (0, 0, 70, 140)), FILE)
    assert all(abs(float((moved[name] - made[name]).abs().mean())) > 0.2 for name in made)


def test_a_mask_moves_with_the_crop_and_the_flip(tmp_path: Path) -> None:
    own = picture(tmp_path / "own.png", (160, 140), 1)
    mask = box(tmp_path / "mask.png", (160, 140), (80, 20, 150, 120))
    crop_file(own, tmp_path / "cut.png", right=40, bottom=20, minimum=64)
    settings = {**FILE, "crop": {"right": 40, "bottom": 20}}
    cut, _ = masks.make(tmp_path / "cut.png", own, mask, settings)
    Image.open(mask).crop((0, 0, 120, 120)).save(tmp_path / "cut-mask.png")
    direct, _ = masks.make(tmp_path / "cut.png", own, tmp_path / "cut-mask.png", settings)
    assert all(np.array_equal(cut[name], direct[name]) for name in cut)
    # A smaller mask of the same shape is a mask all the same; another shape is a mistake.
    Image.open(mask).resize((80, 70)).save(tmp_path / "half.png")
    half, _ = masks.make(tmp_path / "cut.png", own, tmp_path / "half.png", settings)
    assert all(np.abs((half[name] - cut[name]).numpy()).mean() < 0.05 for name in cut)
    Image.new("L", (100, 140)).save(tmp_path / "odd.png")
    with pytest.raises(UserError, match="odd.png: 100x140 has a different aspect ratio from its picture, 160x140"):
        masks.make(tmp_path / "cut.png", own, tmp_path / "odd.png", settings)
    mirrored = Image.open(tmp_path / "cut-mask.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(tmp_path / "mirrored.png")
    other, _ = masks.make(tmp_path / "cut.png", own, tmp_path / "mirrored.png", settings)
    assert all(np.abs((other[name].flip(1) - cut[name]).numpy()).max() <= 1 / 255 for name in cut)


def test_transparency_is_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upright as the picture, whatever its EXIF data says; an opaque picture is left to the segmenter."""
    own = Image.open(picture(tmp_path / "own.png", (160, 120), 1)).convert("RGBA")
    own.putalpha(Image.open(box(tmp_path / "mask.png", (160, 120), (0, 0, 160, 60))))
    exif = Image.Exif()
    exif[0x0112] = 6
    own.save(tmp_path / "own.png", exif=exif)
    pictures.save_png(pictures.read(tmp_path / "own.png"), tmp_path / "image.png")
    assert Image.open(tmp_path / "image.png").size == (120, 160)
    made, origin = masks.make(tmp_path / "image.png", tmp_path / "own.png", None, AUTO)
    assert origin == "alpha"
    for mask in made.values():
        width = mask.shape[1]
        assert float(mask[:, : width // 2].max()) == 0.0 and float(mask[:, width // 2 + 1 :].min()) == 1.0
    opaque = picture(tmp_path / "opaque.png", (96, 96), 2)
    assert pictures.opacity(opaque) is None
    monkeypatch.setattr(person, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="images.masks: auto needs mediapipe where pictures are not transparent: pip"):
        masks.make(opaque, opaque, None, AUTO)
    monkeypatch.setattr(person, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(UserError, match="images.masks: auto needs mediapipe, which cannot be imported .*: pip install"):
        masks.make(opaque, opaque, None, AUTO)
    person_left = np.zeros((96, 96), np.float32)
    person_left[:, :48] = 1.0
    monkeypatch.setattr(person, "share", lambda pixels: person_left)
    made, origin = masks.make(opaque, opaque, None, AUTO)
    assert origin == "segmenter" and float(made["96x96"][:, :6].min()) == 1.0 and float(made["96x96"][:, 6:].max()) == 0
    monkeypatch.setattr(person, "share", lambda pixels: None)
    made, origin = masks.make(opaque, opaque, None, AUTO)
    assert origin == "nobody" and all(bool((mask == 1).all()) for mask in made.values())


def test_a_white_mask_is_exactly_one_everywhere(tmp_path: Path) -> None:
    image = picture(tmp_path / "image.png", (157, 233), 1)
    made, _ = masks.make(image, image, box(tmp_path / "mask.png", (157, 233), (0, 0, 157, 233)), FILE)
    assert all(bool((mask == 1.0).all()) for mask in made.values())


def test_who_asks_for_none_has_none(project: Path) -> None:
    wanted = load().characters["mara"]
    assert mask_slices.masked(wanted) == wanted.shot_names
    assert json.loads(slices.manifest(wanted))["masks"] == dict.fromkeys(wanted.shot_names, 0.1)
    edit(MARA, recipe={"data": {"mask_weight": 0.5}})
    assert json.loads(slices.manifest(load().characters["mara"]))["masks"]["medium-01"] == 0.5
    # The weight is the manifest's: neither latents nor the settings of training know of it.
    assert slices.train(load().characters["mara"]) == slices.train(wanted)
    assert slices.latents(load().characters["mara"], "medium-01") == slices.latents(wanted, "medium-01")
    edit(MARA, images={"source": "folder", "path": "pics", "count": 3})
    without = load().characters["mara"]
    assert mask_slices.masked(without) == [] and "masks" not in json.loads(slices.manifest(without))


def test_missing_masks_are_named(project: Path) -> None:
    assert masking.problems(load().characters["mara"]) == []
    Path("masks/medium-01.png").unlink()
    (line,) = masking.problems(load().characters["mara"])
    assert line.startswith("images.masks: masks has no mask for medium-01; draw one")
    edit(MARA, images={"source": "folder", "path": "pics", "count": 3, "masks": "nowhere"})
    (line,) = masking.problems(load().characters["mara"])
    assert line == "images.masks: there is no folder nowhere; correct it, or write auto"


@pytest.mark.parametrize("plan", [True, False])
def test_the_folder_of_pictures_is_none_of_masks(project: Path, plan: bool) -> None:
    """Neither of a plan, where a picture would be its own mask, nor where every picture is used."""
    images = {"source": "folder", "path": "pics", "masks": "./masks/../pics"}
    if plan:
        edit(MARA, images={**images, "count": 3})
    else:
        small_project.write_yaml(MARA, {"trigger": "m4ra", "images": images})
    (line,) = masking.problems(load().characters["mara"])
    assert line.startswith("images.masks: ./masks/../pics is images.path, whose pictures are trained on; put masks")


def test_masks_and_extra_sets_in_a_whole_folder_are_not_its_pictures(project: Path) -> None:
    Path("masks").rename("pics/masks")
    for folder in ("pics/beach", "pics/beach/masks", "pics/day-2"):
        Path(folder).mkdir()
        picture(Path(folder, "One.png"), (150, 140), 1)
    sets = [{"name": "beach", "path": "pics/beach", "masks": "pics/beach/masks", "default_caption": "a beach"}]
    images = {"source": "folder", "path": "pics", "masks": "pics/masks"}
    picture(Path("pics/masks/day-2-one.png"), (150, 140), 1)
    small_project.write_yaml(MARA, {"trigger": "m4ra", "images": images, "datasets": sets})
    mara = load().characters["mara"]
    assert mara.image_names == ["closeup-01", "day-2-one", "fullbody-01", "medium-01", "beach/one"]
    assert masking.problems(mara) == [] and mara.unused_files() == []
    assert masking.mask_file(mara, "day-2-one") == Path("pics/masks/day-2-one.png")
    assert masking.mask_file(mara, "beach/one") == Path("pics/beach/masks/One.png")


def test_the_workflow_makes_a_mask_for_each_shot(project: Path) -> None:
    assert small_project.planned(small_project.add_code(project))["make_mask"] == 3
    character = load().characters["mara"]
    image = "pics/medium-01.png"
    arguments = [image, "--user-file", image, "--mask", "masks/medium-01.png", "--output", "results/mara/masks/m.st"]
    settings = mask_slices.mask(character, "medium-01")
    for _ in range(2):
        done = run_script("make_mask", *arguments, "--settings", settings, "--store", "store", cwd=project)
        assert done.returncode == 0, done.stderr
    assert len(list(Path("store/mask").rglob("*.safetensors"))) == 1
    made = read_safetensors(Path("results/mara/masks/m.st"))[0]
    assert set(made) == {"png", *(f"{w}x{h}" for w, h in latents.resized(Path(image), [128]))}


def test_an_extra_set_has_masks_of_its_own(project: Path) -> None:
    sets = ("others", "held")
    for number, part in enumerate(sets):
        Path(part).mkdir()
        Path(f"{part}/One.png").write_bytes(picture(project / "x.png", (150, 140), number).read_bytes())
        Path(f"{part}/One.txt").write_text("m4ra in a garden")
    Path("set-masks").mkdir()
    own = [{"name": part, "path": part} for part in sets]
    own[0] |= {"masks": "set-masks", "crop": {"right": 10, "bottom": 4}, "resolutions": [64]}
    edit(MARA, datasets=own, images={"source": "folder", "path": "pics", "count": 3})
    (line,) = masking.problems(load().characters["mara"])
    assert line.startswith("datasets[1].masks: set-masks has no mask for others/one; draw one")
    box(Path("set-masks/One.png"), (150, 140), (0, 0, 75, 140))
    mara = load().characters["mara"]
    assert masking.problems(mara) == [] and mask_slices.masked(mara) == ["others/one"]
    assert masking.mask_file(mara, "others/one") == Path("set-masks/One.png")
    given = json.loads(mask_slices.mask(mara, "others/one"))
    assert (given["source"], given["crop"], given["resolutions"]) == ("file", {"right": 10, "bottom": 4}, [64])
    assert json.loads(slices.manifest(mara))["masks"] == {"others/one": 0.1}
    planned = small_project.planned(small_project.add_code(project))
    assert planned["make_mask"] == 1 and planned["convert_set_picture"] == 2
    # What is held out is compared whole; masks among the pictures would be trained on.
    for changed, said in {
        "held": "datasets[2].masks: what is held out is compared as whole pictures; remove it",
        "others": "datasets[1].masks: others is datasets[1].path, whose pictures are trained on; put masks into",
    }.items():
        mine = [{**part, "masks": part["name"]} if part["name"] == changed else part for part in own]
        edit(MARA, datasets=[mine[0], {**mine[1], "holdout": True}])
        assert any(line.startswith(said) for line in masking.problems(load().characters["mara"]))


def test_a_bundle_makes_the_same_masks(project: Path, tmp_path: Path) -> None:
    """Wherever the first came from: a file of another size, or transparency."""
    own = Image.open(picture(tmp_path / "own.png", (160, 140), 1)).convert("RGBA")
    own.putalpha(Image.open(box(tmp_path / "clear.png", (160, 140), (20, 0, 90, 100))))
    own.save(tmp_path / "own.png")
    crop_file(tmp_path / "own.png", tmp_path / "cut.png", right=40, bottom=20, minimum=64)
    store = Store(tmp_path / "store")
    for number, (mask, given) in enumerate([(box(tmp_path / "m.png", (80, 70), (9, 9, 50, 60)), FILE), (None, AUTO)]):
        settings = {**given, "crop": {"right": 40, "bottom": 20}}
        masks.stored(tmp_path / "cut.png", tmp_path / "own.png", mask, settings, store, f"first{number}")
        first = store.path(masks.KIND, f"first{number}", ".safetensors")
        packed = tmp_path / "packed.png"
        packed.write_bytes(bytes(read_safetensors(first)[0][masks.WHOLE].numpy().tobytes()))
        # There, the picture is the cropped one.
        masks.stored(tmp_path / "cut.png", tmp_path / "cut.png", packed, FILE, store, f"again{number}")
        assert store.path(masks.KIND, f"again{number}", ".safetensors").read_bytes() == first.read_bytes()


def test_the_manifest_names_masks(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "sets": [{"items": ["medium-01"], "weight": 1.0, "repeats": 1, "is_reg": False}],
        "variants": [],
        "class": [],
        "masks": {"medium-01": 0.2},
    }
    files = manifest.Results("results/mara")
    for path in (files.image("medium-01"), files.latents("medium-01"), files.mask("medium-01"),
                 files.embedding("medium-01"), files.caption("medium-01")):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name}\n")
    (item,) = manifest.manifest(Path("results/mara"), settings)["items"]
    assert item["mask"] == "results/mara/masks/medium-01.safetensors" and item["mask_weight"] == 0.2
    assert len(item["mask_sha256"]) == 64
    (item,) = manifest.manifest(Path("results/mara"), {**settings, "masks": {}})["items"]
    assert not [key for key in item if "mask" in key]
