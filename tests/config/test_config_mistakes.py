"""Every mistake in a configuration gets one line that names file, key and remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_project
from config_project import BASE, CONFIG, MARA, further_set, problems, recipe, stray_caption, text
from small_project import CHARACTER, edit, write_yaml


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_project.make(tmp_path)


MISTAKES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "unknown key": (
        recipe(network={"rnak": 8}),
        ["config/config.yaml: recipe.network.rnak: unknown key; did you mean rank?"],
    ),
    "a LoRA to start from that is not there": (
        recipe(network={"init": "first.safetensors"}),
        ["config/characters/mara.yaml: recipe.network.init: there is no file first.safetensors; correct the path"],
    ),
    "a LoRA to start from of another kind": (
        recipe(network={"init": "first.pt"}),
        [
            "config/characters/mara.yaml: recipe.network.init: first.pt is not a .safetensors file, and no other kind "
            "of LoRA is read; convert it first"
        ],
    ),
    "a LoRA to start from for a LoKr": (
        lambda p: ((p / "first.safetensors").touch(), recipe(network={"init": "first.safetensors", "type": "lokr"})(p)),
        [
            "config/characters/mara.yaml: recipe.network.init: needs network.type lora, not lokr; set it so, or remove "
            "init"
        ],
    ),
    "key in the wrong place": (
        recipe(lr=0.1),
        ["config/config.yaml: recipe.lr: unknown key; did you mean recipe.train.lr?"],
    ),
    "wrong type": (
        recipe(train={"steps": "many"}),
        ["config/config.yaml: recipe.train.steps: must be a whole number, not the text 'many'"],
    ),
    "nothing": (
        recipe(train={"steps": None}),
        ["config/config.yaml: recipe.train.steps: is empty; expected number of optimiser updates, or take the key"],
    ),
    "unknown value": (
        recipe(train={"optimizer": "adamw9bit"}),
        ["config/config.yaml: recipe.train.optimizer: the text 'adamw9bit' is not known; did you mean adamw8bit? "],
    ),
    "out of range": (
        recipe(network={"rank": 0}),
        ["config/config.yaml: recipe.network.rank: must be at least 1, not 0"],
    ),
    "odd resolution": (
        recipe(data={"resolutions": [500]}),
        ["config/config.yaml: recipe.data.resolutions[1]: must be a multiple of 16, not 500"],
    ),
    "previews between checkpoints": (
        recipe(sample={"every": 75}),
        ["config/characters/mara.yaml: recipe.sample.every: 75 is not a multiple of save.every 50; only saved"],
    ),
    "unknown adapter": (
        recipe(training_adapter="v3"),
        [
            "config/characters/mara.yaml: recipe.training_adapter: config/bases/mini.yaml has no adapter "
            "v3; write v1 or none"
        ],
    ),
    "broken expression": (
        recipe(network={"modules": ["layers.("]}),
        ["config/characters/mara.yaml: recipe.network.modules: 'layers.(' is not a regular expression"],
    ),
    "no such base": (
        lambda p: edit(p / CONFIG, base="minni"),
        ["config/config.yaml: base: there is no config/bases/minni.yaml; did you mean mini?"],
    ),
    "several GPUs on one": (
        lambda p: edit(p / CONFIG, gpus=2, device="cuda:1"),
        [
            "config/config.yaml: gpus: 2 contradicts device: cuda:1, which is one GPU; set device: cuda, or gpus: 1",
        ],
    ),
    "no such character": (
        lambda p: edit(p / CONFIG, characters=["marra"]),
        ["config/config.yaml: characters: there is no config/characters/marra.yaml; did you mean mara?"],
    ),
    "base without weights": (
        lambda p: edit(p / BASE, path="resources/none"),
        ["config/bases/mini.yaml: path: there is no folder resources/none; correct it"],
    ),
    "base without adapter": (
        lambda p: (p / "resources/bases/mini/adapter.safetensors").unlink(),
        ["config/bases/mini.yaml: adapters.v1: there is no file resources/bases/mini/adapter.safetensors"],
    ),
    "base from two places": (
        lambda p: edit(p / BASE, repo="a/b", revision="c"),
        ["config/bases/mini.yaml: give either path (a folder) or repo and revision (on the Hub)"],
    ),
    "a name of ai-toolkit": (
        recipe(network={"linear": 8}),
        ["config/config.yaml: recipe.network.linear: unknown key; did you mean recipe.network.rank?"],
    ),
    "a name of kohya": (
        recipe(network={"network_dim": 8}, max_train_steps=300),
        [
            "config/config.yaml: recipe.max_train_steps: unknown key; did you mean recipe.train.steps?",
            "config/config.yaml: recipe.network.network_dim: unknown key; did you mean recipe.network.rank?",
        ],
    ),
    "an adapter in capitals": (
        recipe(training_adapter="V1"),
        ["config/characters/mara.yaml: recipe.training_adapter: config/bases/mini.yaml has no adapter V1; write v1 or"],
    ),
    "the size of a scene": (
        lambda p: edit(p / MARA, gallery=[{"prompt": "{trigger} on a bridge", "size": 1024}]),
        ["config/characters/mara.yaml: gallery[1].size: unknown key; did you mean width and height?"],
    ),
    "the size of a preview": (
        lambda p: edit(p / MARA, sample_prompts=[{"prompt": "{trigger} on a bridge", "size": 1024}]),
        ["config/characters/mara.yaml: sample_prompts[1].size: unknown key; did you mean width and height?"],
    ),
    "a knob outside of the recipe": (
        lambda p: edit(p / MARA, steps=300),
        ["config/characters/mara.yaml: steps: unknown key; did you mean recipe.train.steps or recipe.sample.steps?"],
    ),
    "a knob one group too high": (
        recipe(rank=8),
        ["config/config.yaml: recipe.rank: unknown key; did you mean recipe.network.rank?"],
    ),
    "a group without its colon": (
        text(CONFIG, "train:\n    steps: 100", "train:\n    steps 100"),
        [
            "config/config.yaml: recipe.train: must be a group of keys, not the text 'steps 100'; write each of its "
            "keys, steps, batch_size, gradient_accumulation, optimizer"
        ],
    ),
    "a trigger alone without quotes": (
        text(MARA, "full: '{trigger}, a woman with curly black hair and green eyes'", "full: {trigger}"),
        [
            "config/characters/mara.yaml: identity_line.full: must be a text, not a group of keys; a text that "
            "begins with { needs quotes: '{trigger}'"
        ],
    ),
    "a list without its end": (
        lambda p: (p / CONFIG).write_text("base: [mini\ndevice: cpu"),
        ["config/config.yaml: line 1: a [ or { is opened and never closed; close it"],
    ),
    "a key twice": (
        lambda p: (p / CONFIG).write_text("base: mini\nbase: mini\n"),
        ["config/config.yaml: line 2: the key 'base' is written twice; remove one"],
    ),
    "a group in brackets twice": (
        lambda p: (p / CONFIG).write_text("base: mini\nrecipe: {}\nrecipe: {train: {steps: 2000}}\n"),
        ["config/config.yaml: line 3: the key 'recipe' is written twice; remove one"],
    ),
    "a group inside brackets twice": (
        lambda p: (p / CONFIG).write_text("recipe: {train: {steps: 1}, train: {lr: 2}}\n"),
        ["config/config.yaml: line 1: the key 'train' is written twice; remove one"],
    ),
    "a group without its bracket": (
        lambda p: (p / CONFIG).write_text("recipe: {train: {steps: 1}, network: {rank: 8}\n"),
        ["config/config.yaml: line 1: a [ or { is opened and never closed; close it"],
    ),
    "a bracket too many": (
        lambda p: (p / CONFIG).write_text("recipe: {train: {steps: 1}}}\n"),
        ["config/config.yaml: line 1: a } too many; remove it"],
    ),
    "no comma between two groups": (
        lambda p: (p / CONFIG).write_text("recipe: {train: {steps: 1} network: {rank: 8}}\n"),
        ["config/config.yaml: line 1: a comma or a bracket is missing before 'network: {rank: 8}}'; put it there"],
    ),
    "a trigger without quotes between brackets": (
        lambda p: (p / CONFIG).write_text("p: {prompt: {trigger} here, seed: 1}\n"),
        ["config/config.yaml: line 1: a text that begins with { needs quotes: '{trigger} here'"],
    ),
    "no comma between two keys": (
        lambda p: (p / CONFIG).write_text("crop: {right: 150 bottom: 150}\n"),
        ["config/config.yaml: line 1: a comma is missing in this line; put one between its entries"],
    ),
    "a tab": (
        lambda p: (p / CONFIG).write_text("base: mini\nrecipe:\n\ttrain: {}\n"),
        ["config/config.yaml: line 3: begins with a tab, which YAML does not allow; indent it with spaces"],
    ),
    "a trigger without quotes": (
        lambda p: (p / CONFIG).write_text("base: mini\nstore: {trigger}, a woman\n"),
        ["config/config.yaml: line 2: a text that begins with { needs quotes: '{trigger}, a woman'"],
    ),
    "a Windows path in double quotes": (
        lambda p: (p / CONFIG).write_text('base: mini\nstore: "C:\\Users\\me"\n'),
        ["config/config.yaml: line 2: \\ has a meaning of its own between double quotes; use single quotes, or /"],
    ),
    "no colon": (
        lambda p: (p / CONFIG).write_text("base: mini\ndevice cpu\nstore: x\n"),
        ["config/config.yaml: line 2: no colon and space after 'device cpu'; write it as key: value"],
    ),
    "no colon after a group": (
        lambda p: (p / CONFIG).write_text("base: mini\nrecipe\n  train: {}\n"),
        ["config/config.yaml: line 2: no colon and space after 'recipe'; write it as key: value"],
    ),
    "a colon too many": (
        lambda p: (p / CONFIG).write_text("base: mini\nstore: a: b\n"),
        ["config/config.yaml: line 2: a text with a colon in it needs quotes: 'a: b'"],
    ),
    "a key too far right": (
        lambda p: (p / CONFIG).write_text("base: mini\n  store: x\n"),
        ["config/config.yaml: line 2: is indented too far; align it with the key above"],
    ),
    "a date that there never was": (
        lambda p: (p / CONFIG).write_text("base: mini\nstore: 2024-13-45\n"),
        ["config/config.yaml: not valid YAML (month must be in 1..12)"],
    ),
    "a line between two depths": (
        lambda p: (p / CONFIG).write_text("base: mini\nrecipe:\n  train:\n    steps: 3\n   save: {}\n"),
        ["config/config.yaml: line 5: is not aligned with the keys that it belongs to; fix its indentation"],
    ),
    "an open quote": (
        lambda p: (p / CONFIG).write_text("base: 'mini\ndevice: cpu\n"),
        ["config/config.yaml: line 1: a quote is opened and never closed; close it"],
    ),
    "a quote inside quotes": (
        lambda p: (p / CONFIG).write_text("base: mini\nstore: 'Mara's'\n"),
        ["config/config.yaml: line 2: text goes on after the closing quote; put all of it in quotes of the other kind"],
    ),
    "a picture in place of a configuration": (
        lambda p: (p / CONFIG).write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(2**20)),
        ["config/config.yaml: is not a text file, so it cannot be YAML; correct its name"],
    ),
    "missing key": (
        lambda p: write_yaml(p / MARA, {k: v for k, v in CHARACTER.items() if k != "trigger"}),
        ["config/characters/mara.yaml: trigger: is missing; expected the new word for the character"],
    ),
    "trigger missing from the identity template": (
        text(MARA, "'{trigger}, a woman with curly black hair and green eyes'", "a woman with green eyes"),
        [
            "config/characters/mara.yaml: identity_line.full: must contain the trigger exactly once; begin it "
            "with '{trigger}, '"
        ],
    ),
    "a trigger that is the class": (
        text(MARA, "trigger: m4ra", "trigger: woman"),
        [
            "config/characters/mara.yaml: trigger: woman is an ordinary word, by which captions call the character "
            "already; make one up, such as n1ka",
        ],
    ),
    "trigger missing from all prompts": (
        lambda p: edit(p / MARA, sample_prompts=["a dog", {"prompt": "a cat"}]),
        ["config/characters/mara.yaml: sample_prompts: none contains the trigger, so none shows the character; write"],
    ),
    "trigger twice in a prompt": (
        text(MARA, "a medium shot photo of {trigger}", "a medium shot photo of {trigger} and M4ra"),
        ["config/characters/mara.yaml: sample_prompts[1]: contains the trigger 2 times; use it once, or not at"],
    ),
    "no concept to draw from": (
        lambda p: write_yaml(p / MARA, {k: v for k, v in CHARACTER.items() if k != "concept"}),
        ["config/characters/mara.yaml: concept.prompt: is missing; describe the neutral reference"],
    ),
    "a file that is not there": (
        lambda p: (
            (p / "photos").mkdir(),
            [(p / "photos" / name).touch() for name in ("medium-01.png", "fullbody-01.jpg")],
            edit(p / MARA, images={"source": "folder", "path": "photos", "count": 3}),
            text(MARA, "name: closeup-01", "name: closeup-01\n  file: Mira 01.png")(p),
        ),
        ["config/characters/mara.yaml: shots.closeup-01.file: photos has no Mira 01.png; correct it, or add the"],
    ),
    "an empty caption beside an image": (
        lambda p: (
            (p / "photos").mkdir(),
            [(p / "photos" / f"{shot['name']}.png").touch() for shot in CHARACTER["shots"]],
            (p / "photos/medium-01.txt").write_text(" "),
            edit(p / MARA, images={"source": "folder", "path": "photos", "count": 3}),
        ),
        ["photos/medium-01.txt: is empty; write a caption, delete the file, or set recipe.data.default_caption"],
    ),
    "a mistake in the recipe and a missing folder": (
        lambda p: edit(
            p / MARA,
            images={"source": "folder", "path": "photos", "count": 3},
            recipe={"train": {"steps": 40, "warmup_steps": 50}},
        ),
        [
            "config/characters/mara.yaml: recipe.train.warmup_steps: is more than train.steps 40",
            "config/characters/mara.yaml: images.path: there is no folder photos; make it and put 3 images in it",
        ],
    ),
    "trigger told to the generator": (
        text(MARA, "appearance: a woman", "appearance: m4ra, a woman"),
        [
            "config/characters/mara.yaml: appearance: contains the trigger, which an image generator does not "
            "know; remove it"
        ],
    ),
    "two shots instead of three": (
        lambda p: edit(p / MARA, shots=CHARACTER["shots"][:2]),
        ["config/characters/mara.yaml: shots: 2 shots (1 close-up, 1 medium, 0 full-body) where 3 are expected; add"],
    ),
    "a shot twice": (
        lambda p: edit(p / MARA, shots=[*CHARACTER["shots"][:2], CHARACTER["shots"][0]]),
        ["config/characters/mara.yaml: shots: closeup-01 appears twice; every shot needs its own name"],
    ),
    "a name that is no file name": (
        text(MARA, "name: closeup-01", "name: ../closeup"),
        ["config/characters/mara.yaml: shots[1].name: the text '../closeup' is not valid; expected name of the image"],
    ),
    "a mistake in the middle of a list": (
        text(MARA, "view: side profile", "view: sideways"),
        ["config/characters/mara.yaml: shots[2].view: the text 'sideways' is not known; allowed: frontal view, "],
    ),
    "a character file that is no file name": (
        lambda p: (p / MARA).rename(p / "config/characters/Mara One.yaml"),
        ["config/characters/Mara One.yaml: rename it; the name becomes part of paths"],
    ),
    "an outfit that nobody can draw": (
        text(MARA, "a beige pantsuit", "a beige panzuit"),
        [
            "config/characters/mara.yaml: shots.fullbody-01.outfit: the paper doll cannot draw 'a beige "
            "panzuit'; did you mean"
        ],
    ),
    "a colour that nobody can draw": (
        text(MARA, "a beige pantsuit", "a mauve pantsuit"),
        ["config/characters/mara.yaml: shots.fullbody-01.outfit: 'a mauve pantsuit' has no colour that can be drawn; "],
    ),
    "a part of the doll unknown": (
        text(MARA, "skin: tan", "skin: blue"),
        ["config/characters/mara.yaml: doll.skin: cannot be 'blue'; known: porcelain, fair, "],
    ),
    "a checkpoint that is not saved": (
        lambda p: edit(p / MARA, checkpoint=75),
        ["config/characters/mara.yaml: checkpoint: step 75 is not saved; auto or one of 50, 100"],
    ),
    "a caption for no shot": (
        stray_caption,
        ["config/captions/mara/closup-01.txt: there is no shot called closup-01; did you mean closeup-01?"],
    ),
    "a folder that is not there": (
        lambda p: edit(p / MARA, images={"source": "folder", "path": "photos", "count": 3}),
        ["config/characters/mara.yaml: images.path: there is no folder photos; make it and put 3 images in it"],
    ),
    "a data set that is not there": (
        lambda p: edit(p / MARA, datasets=[{"name": "more", "path": "more"}]),
        ["config/characters/mara.yaml: datasets[1].path: there is no folder more; correct it, or remove the"],
    ),
    "a data set without images": (
        lambda p: (further_set(p), (p / "more/a.png").unlink(), (p / "more/b.jpg").unlink()),
        ["config/characters/mara.yaml: datasets[1].path: more has no image (such as .png, .jpg or .webp); add some"],
    ),
    "a data set without captions": (
        lambda p: further_set(p),
        ["config/characters/mara.yaml: datasets[1].path: more has no text in a.txt and 1 more; write captions, or set"],
    ),
    "two data sets of one name": (
        lambda p: (further_set(p, default_caption="x"), further_set(p, default_caption="x")),
        ["config/characters/mara.yaml: datasets[2].name: more appears twice; every data set needs its own name"],
    ),
    "an unknown key of a data set": (
        lambda p: further_set(p, default_caption="x", is_reg=True),
        ["config/characters/mara.yaml: datasets[1].is_reg: unknown key; did you mean regularization?"],
    ),
    "two preservations": (
        recipe(train={"preservation": {"differential": {"enabled": True}, "blank": {"enabled": True}}}),
        ["config/characters/mara.yaml: recipe.train.preservation: differential and blank are both on; switch one of"],
    ),
    "a plan that is not there": (
        lambda p: edit(p / MARA, shots="portrait-30"),
        ["config/characters/mara.yaml: shots: there is no config/plans/portrait-30.yaml; there are none"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(project: Path, name: str) -> None:
    change, expected = MISTAKES[name]
    change(project)
    found = problems(project)
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning)


def test_all_mistakes_are_reported_together(project: Path) -> None:
    text(MARA, "skin: tan", "skin: blue")(project)
    text(MARA, "a beige pantsuit", "a cape")(project)
    edit(project / MARA, checkpoint=7)
    assert [line.split(":")[1].strip() for line in problems(project)] == [
        "checkpoint",
        "doll.skin",
        "shots.fullbody-01.outfit",
    ]
