"""The gallery of a character file: defaults in their order, mistakes in a line each, styles on top."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_project
from small_project import edit

from charloom.config import gallery, portable
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.workflow import delivery, gallery_slices, slices

MARA = "config/characters/mara.yaml"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ink.safetensors").write_bytes(b"")
    return small_project.make(tmp_path)


def scenes(root: Path, written: Any) -> tuple[gallery.Scene, ...]:
    edit(root / MARA, gallery=written)
    return load(root).characters["mara"].gallery


def test_what_is_not_said_has_a_default(root: Path) -> None:
    (plain,) = scenes(root, ["{trigger}  at\nsea"])
    assert plain == gallery.Scene("01", "m4ra at sea", 1920, 1088, 36, 1.0, 42, 1.0)
    assert plain.prompt == "gallery-01"


def test_an_entry_wins_over_the_gallery_and_that_over_the_base(root: Path) -> None:
    edit(root / "config/bases/mini.yaml", gallery={"width": 64, "height": 96, "steps": 5})
    own = {"prompt": "{trigger}", "steps": 9, "seed": 3, "strength": 0.5, "guidance": 2, "width": 4096}
    first, second = scenes(root, {"height": 128, "seed": 70, "prompts": ["{trigger} asleep", own]})
    assert (first.width, first.height, first.steps, first.seed, first.strength) == (64, 128, 5, 70, 1.0)
    assert (second.width, second.height, second.steps, second.seed, second.strength) == (4096, 128, 9, 3, 0.5)
    assert second.guidance == 2.0


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (["a {Trigger}"], "gallery[1]: {Trigger} is taken literally; did you mean {trigger}?"),
        (["a woman"], "gallery[1]: does not contain the trigger; write {trigger} where the character is named, once"),
        (["{trigger} and m4ra"], "gallery[1]: contains the trigger 2 times"),
        ([{"prompt": "{trigger}", "width": 1080}], "must be a multiple of 16, not 1080"),
        ([{"prompt": "{trigger}", "scale": 1}], "scale: unknown key; did you mean strength?"),
        ({"prompts": []}, "gallery.prompts: must have at least 1 entry"),
        ([{"prompt": "{trigger}", "styles": ["sepia"]}], "gallery: styles: there is no config/styles/sepia.yaml"),
        ([{"prompt": "{trigger}", "styles": [{"file": "no.safetensors"}]}], "there is no file no.safetensors"),
        ([{"prompt": "{trigger}", "styles": [{"file": "~nosuchuser/x.safetensors"}]}], "no file ~nosuchuser/x"),
        ([{"prompt": "{trigger}", "styles": [{"file": "ink.ckpt"}]}], "ink.ckpt is not a .safetensors file"),
        ([{"prompt": "{trigger}", "styles": [{"strength": 1}]}], "give either style (a name) or file (a path)"),
    ],
)
def test_a_mistake_is_a_line(root: Path, written: Any, line: str) -> None:
    with pytest.raises(UserError) as caught:
        scenes(root, written)
    (said,) = str(caught.value).splitlines()
    assert said.startswith("config/characters/mara.yaml: gallery") and line in said


def test_a_style_brings_its_trigger_and_must_fit_the_base(root: Path) -> None:
    scenes(root, [{"prompt": "{trigger} runs", "styles": [{"file": "ink.safetensors", "strength": 0.6}]}])
    mara = load(root).characters["mara"]
    assert mara.gallery[0].styles == (gallery.Style("", "ink.safetensors", 0.6),)
    scene = replace(mara.gallery[0], styles=(gallery.Style("ink", "", 0.8),))
    assert gallery.Style("", "results/nika/final.safetensors", 1).label == "nika"
    mara = replace(mara, gallery=(scene, replace(scene, text="1nk drawing of m4ra")))
    style = replace(mara, id="ink", trigger="1nk", gallery=())
    found = gallery.with_styles(mara, {"ink": style})
    assert [one.text for one in found.gallery] == ["1nk, m4ra runs", "1nk drawing of m4ra"]
    assert gallery.with_styles(mara, {"ink": replace(style, trigger="")}) == mara
    with pytest.raises(UserError, match="ink is made for base other, mara for mini"):
        gallery.with_styles(mara, {"ink": replace(style, base="other")})
    with pytest.raises(UserError, match=r"there is no config/styles/ink.yaml; did you mean inky\?"):
        gallery.with_styles(mara, {"inky": style})
    with pytest.raises(UserError, match=r"there is no config/styles/ink.yaml; there is only wash"):
        gallery.with_styles(mara, {"wash": style})


def test_a_character_is_no_style(root: Path) -> None:
    with pytest.raises(UserError) as caught:
        scenes(root, [{"prompt": "{trigger} and a friend", "styles": ["mara"]}])
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith(MARA)]
    assert line.endswith("mara is a character, not a style; give its file instead: results/mara/final.safetensors")


def test_a_style_with_mistakes_is_not_called_missing(root: Path) -> None:
    small_project.write_yaml(root / "config/styles/ink.yaml", {"kind": "style", "name": "Ink"})
    with pytest.raises(UserError) as caught:
        scenes(root, [{"prompt": "{trigger}", "styles": ["ink"]}])
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith(MARA)]
    assert line.startswith(f"{MARA}: gallery: styles: config/styles/ink.yaml: images: is missing; ")
    assert line.endswith("(1 more: charloom lint ink)")


def test_a_picture_tells_what_its_base_needs(root: Path) -> None:
    scenes(root, ["{trigger} at sea"])
    before = load(root)
    usual = gallery_slices.about(before.characters["mara"], before.bases["mini"])
    assert not {"label", "negative"} & set(usual)
    sample = {**small_project.BASE["recipe"]["sample"], "guidance": 4, "negative": "blurry"}
    edit(
        root / "config/bases/mini.yaml",
        architecture="z-image/lora",
        recipe={**small_project.BASE["recipe"], "sample": sample},
    )
    after = load(root)
    told = gallery_slices.about(after.characters["mara"], after.bases["mini"])
    assert told == {**usual, "label": "mini", "negative": "blurry"}


def test_it_reaches_what_it_should_and_nothing_else(root: Path) -> None:
    before = load(root)
    mara, base = before.characters["mara"], before.bases["mini"]
    silent = [function(mara) for function in (slices.train, slices.manifest, slices.other_samples)]
    assert "gallery" not in slices.report(mara, base) and "gallery" not in delivery.bundle(mara, base)
    scenes(root, {"prompts": ["{trigger} at sea"], "styles": [{"file": "ink.safetensors"}]})
    mara = load(root).characters["mara"]
    assert [function(mara) for function in (slices.train, slices.manifest, slices.other_samples)] == silent
    assert slices.texts(mara)["_prompt-gallery-01"] == "m4ra at sea"
    assert json.loads(slices.report(mara, base))["gallery"] == 1
    assert json.loads(delivery.comfyui(mara, base))["prompts"]["scenes"] == "m4ra at sea"
    (listed,) = json.loads(delivery.bundle(mara, base))["gallery"]
    assert listed["text"] == "m4ra at sea" and listed["styles"] == [["ink", 1.0]]
    # Another machine does not have the files of the styles.
    assert "ink" not in portable.character_file(mara) and "at sea" in portable.character_file(mara)
    drawn = json.loads(gallery_slices.scene(mara, base, "01"))["drawing"]
    assert (drawn["width"], drawn["height"], drawn["steps"], drawn["scale"]) == (1920, 1088, 36, 1.0)


def test_the_shipped_scenes_ask_the_miniature_for_what_they_begin_with() -> None:
    """A small base reads the words of the captions alone; the other words must not be taken for any of them."""
    from charloom.paperdoll import language

    found = load(small_project.ROOT).characters
    assert set(found) == {"camila", "leyla", "nika", "orla", "yuna"}
    texts = [scene.text for one in found.values() for scene in one.gallery]
    assert [len(one.gallery) for one in found.values()] == [7] * 5 and len(set(texts)) == 35
    for text in texts:
        asked = language.parse(text.split(". ")[0])
        assert language.parse(text) == asked and {"tier", "view", "outfit", "background"} <= set(asked), text
        # The guide's form: subject, wardrobe, background, camera, mood.
        assert [word for word in ("Wardrobe: ", "Background: ", "Camera: ", "Mood: ") if word not in text] == []
