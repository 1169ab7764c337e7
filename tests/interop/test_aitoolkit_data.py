"""Import of ai-toolkit jobs: sample prompts, data sets, and the job as a whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from aitoolkit_job import JOB, imported, pictures
from cli_helpers import ROOT, call, root, said  # noqa: F401 (root is a fixture)

from charloom.config import previews, project
from charloom.core import drives
from charloom.core.errors import UserError
from charloom.dataset import lint, sources
from charloom.interop.aitoolkit import read as aitoolkit
from charloom.interop.aitoolkit.samples import split
from charloom.workflow import slices

# Prompts


def test_a_flag_ends_where_the_next_begins():
    assert split("a cup--w 64--h 128") == ("a cup", [("w", "64"), ("h", "128")])
    text, flags = split("a cup, two-tone -n x --n ugly, bad hands, extra fingers --w 768 --odd --seed -1 -- gone")
    assert text == "a cup, two-tone -n x"
    assert flags == [("n", "ugly, bad hands, extra fingers"), ("w", "768"), ("odd", ""), ("seed", "-1"), ("", "gone")]


def test_flags_of_a_prompt(tmp_path):
    prompts = ["m1ra with a cup --n ugly, bad hands --w 768 --h 512 --m 0.5", "m1ra --d 9 --steps 9 --cfg 1",
               "m1ra --l 4 --s 20 --gr 0.7 --wibble a b --w wide"]  # fmt: skip
    found = imported(tmp_path, sample__prompts=prompts)
    assert found.character["sample_prompts"] == [
        {"prompt": "{trigger} with a cup", "width": 768, "height": 512, "scale": 0.5},
        {"prompt": "{trigger}", "seed": 9},
        "{trigger}",
    ]
    left = [
        re.search(r"--.*?(?= was left out)", line)[0] for line in found.todo if "was left out; a single preview" in line
    ]
    assert left == ["--l 4", "--s 20", "--gr 0.7", "--wibble a b", "--w wide"]  # --n goes nowhere without guidance


def test_a_negative_prompt_is_reported_where_it_would_count(tmp_path):
    changes = {"sample__prompts": ["m1ra --n ugly"], "sample__guidance_scale": 4.0, "sample__neg": "blurry"}
    found = imported(tmp_path, **changes)
    assert "sample.neg" in found.ignored and "--n ugly was left out" in "\n".join(found.todo)
    assert "sample.neg" in imported(tmp_path, **{**changes, "sample__guidance_scale": 1.0}).understood


@pytest.mark.parametrize("walk", [True, False])
def test_seeds_that_are_random_become_ours(tmp_path, walk):
    samples = [{"prompt": "m1ra"}, {"prompt": "m1ra", "seed": -1}, {"prompt": "m1ra --seed -1"}]
    found = imported(tmp_path, sample__seed=-1, sample__walk_seed=walk, sample__samples=samples, sample__prompts=None)
    assert found.character["sample_prompts"] == ["{trigger}"] * 3
    todo = "\n".join(found.todo)
    assert "recipe.sample.seed: -1 means a random seed" in todo and "seed" not in found.character["recipe"]["sample"]
    assert "sample_prompts[2].seed: -1" in todo and "sample_prompts[3].seed: -1" in todo


@pytest.mark.parametrize("walk, seeds", [(True, [5, 6, 40, 8, 9]), (False, [5, 5, 40, 40, 2])])
def test_previews_get_the_seeds_that_they_have_in_ai_toolkit(root, walk, seeds):  # noqa: F811
    """A sample's own seed holds for those after it, unless the seed walks; a flag counts for its prompt alone."""
    last = "d --seed 2" if not walk else "d"
    samples = [{"prompt": "m1ra"}, {"prompt": "a"}, {"prompt": "b", "seed": 40}, {"prompt": "c"}, {"prompt": last}]
    folder = pictures(root / "pics", a="m1ra in a park")
    job = yaml.safe_load(JOB)
    process = job["config"]["process"][0]
    process["sample"] |= {"seed": 5, "walk_seed": walk, "samples": samples}
    process["datasets"][0]["folder_path"] = str(folder)
    (root / "job.yaml").write_text(yaml.safe_dump(job))
    assert call("import-ai-toolkit", "job.yaml", "--name", "mira").exit_code == 0
    assert [prompt.seed for prompt in project.load(root).characters["mira"].sample_prompts] == seeds


def test_prompts_without_the_trigger_stay_as_they_are(tmp_path):
    found = imported(tmp_path, sample__prompts=["a dog", "m1ra beside [trigger] and M1ra, [trigger]", "a red car"])
    prompts = found.character["sample_prompts"]
    assert prompts == ["a dog", "{trigger} beside the person and the person, the person", "a red car"]
    assert [line for line in found.todo if "prompts" in line] == [
        "sample_prompts[2]: had the trigger several times; check the wording"
    ]
    found = imported(tmp_path, sample__prompts=["a dog"])
    assert found.character["sample_prompts"] == [
        "a dog",
        previews.prompts("person", "photographic")[0],
    ]  # no seed moves
    assert "sample_prompts: none has the trigger; a default of charloom new was added" in found.todo


def test_samples_count_rather_than_prompts(tmp_path):
    found = imported(tmp_path, sample__samples=[{"prompt": "m1ra --w 512 --m 0.8", "seed": 3, "ctrl_img": "x.png"}])
    assert found.character["sample_prompts"] == [{"prompt": "{trigger}", "width": 512, "scale": 0.8, "seed": 3}]
    assert {"sample.prompts", "sample.samples[1].ctrl_img"} <= set(found.ignored)


@pytest.mark.parametrize(
    ("save", "sampled", "rounded"), [(200, 200, None), (200, 250, 400), (300, 100, 300), (0, 300, 2000)]
)
def test_previews_between_checkpoints_are_put_off(tmp_path, save, sampled, rounded):
    found = imported(tmp_path, save__save_every=save, sample__sample_every=sampled)
    assert found.character["recipe"]["sample"]["every"] == (rounded or sampled)
    assert ("only saved steps are sampled" in "\n".join(found.todo)) == (rounded is not None)


# Data sets


def test_a_data_set_brings_its_captions_and_nothing_is_guessed(root):  # noqa: F811
    texts = {
        "a-1": "a close-up portrait photo of m1ra, a woman with green hair, frontal view, wearing a red coat, garden",
        "a-2": "m1ra at night, neon signs behind her, high-profile event, full body of water",
    }
    folder = pictures(root / "mine", **texts, ComfyUI_00012_="a photo of [trigger], wearing a cap", reference="m1ra")
    (folder / "ComfyUI_00012_.png").rename(folder / "ComfyUI_00012_.PNG")
    (folder / "A-1.png").write_bytes((folder / "a-1.png").read_bytes())
    (root / "job.yaml").write_text(JOB.replace("/nowhere/mira", "mine"))
    text = said(call("import-ai-toolkit", "job.yaml", "--name", "mira"))
    assert "3 captions" in text and 'to do: 1 picture has no .txt and is captioned "m1ra" alone, as in ai-' in text
    assert "reference.png: is the neutral reference" in text
    path = root / "config" / "characters" / "mira.yaml"
    assert yaml.safe_load(path.read_text())["shots"] == [
        {"name": "a-1-2", "file": "A-1.png"},
        {"name": "comfyui_00012", "file": "ComfyUI_00012_.PNG"},
        {"name": "a-1"},
        {"name": "a-2"},
    ]
    assert "what the image shows" not in path.read_text() and "behind" not in path.read_text()
    captions = root / "config" / "captions" / "mira"
    assert {file.stem: file.read_text().strip() for file in captions.iterdir()} == {
        **texts, "comfyui_00012": "a photo of m1ra, wearing a cap",
    }  # fmt: skip
    (captions / "a-1-2.txt").write_text("m1ra again")
    person = project.load(root, ready="mira", image_problems=sources.problems).characters["mira"]
    assert [json.loads(slices.prompt_sheet(person))["shots"], person.count] == [[], 4]
    assert json.loads(slices.caption(person, "a-1-2")) == {}, "its own caption alone, for a plan that has no words"
    settings = json.loads(slices.lint(person))
    judged = [finding for finding in lint.lint([], settings) if finding.where == "plan"]
    assert judged == []


def test_pictures_without_captions_are_captioned_by_the_trigger_as_in_ai_toolkit(root):  # noqa: F811
    pictures(root / "mine", a=None, b=None)
    (root / "job.yaml").write_text(JOB.replace("/nowhere/mira", "mine"))
    text = said(call("import-ai-toolkit", "job.yaml", "--name", "mira"))
    (to_do,) = [line for line in text.splitlines() if "picture" in line]
    assert to_do.startswith('to do: 2 pictures have no .txt and are captioned "m1ra" alone, as in ai-toolkit; ')
    assert "next:\n  charloom lint mira\n" in text and "snakemake --profile profiles/gpu-16gb --cores 8 mira" in text
    person = project.load(root, ready="mira", image_problems=sources.problems).characters["mira"]
    assert json.loads(slices.caption(person, "b")) == {"default": "m1ra"}
    path = root / "config" / "characters" / "mira.yaml"
    path.write_text(path.read_text().replace("default_caption: '{trigger}'", "default_caption: ''"))
    with pytest.raises(UserError, match=r"shots\.a: has no caption, nor tier, view, outfit, background"):
        project.load(root, ready="mira", image_problems=sources.problems)


@pytest.mark.parametrize("folder", ["/nowhere/mira", "C:\\Users\\me\\mira"])
def test_pictures_that_are_not_here_may_come_later(root, monkeypatch, folder):  # noqa: F811
    """The file names no shots: whatever is in the folder then counts. In WSL a drive of Windows is below /mnt."""
    monkeypatch.setattr(drives, "MOUNTS", root / "mnt")
    (root / "mnt" / "c" / "Users" / "me").mkdir(parents=True)
    there = root / "mnt/c/Users/me/mira" if folder.startswith("C:") else Path(folder)
    (root / "job.yaml").write_text(JOB.replace("/nowhere/mira", folder))
    text = said(call("import-ai-toolkit", "job.yaml", "--name", "mira"))
    (to_do,) = [line for line in text.splitlines() if "folder" in line and line.startswith("to do")]
    assert to_do == (
        f"to do: images.path: there is no folder {there}; "
        "write the folder of your pictures into config/characters/mira.yaml"
    )
    path = root / "config" / "characters" / "mira.yaml"
    pictures(root / "mine", a="m1ra, a park", b=None, c="a pier")
    assert yaml.safe_load(path.read_text())["images"] == {"source": "folder", "path": there.as_posix()}
    path.write_text(path.read_text().replace(there.as_posix(), "mine"))
    person = project.load(root, ready="mira", image_problems=sources.problems).characters["mira"]
    assert (person.image_names, person.default_caption) == (["a", "b", "c"], "m1ra")


def test_a_trigger_that_another_character_has_is_said_and_stops_neither(root):  # noqa: F811
    """Training a job again, to compare, is what comes first."""
    pictures(root / "mine", a="m1ra, a park")
    (root / "job.yaml").write_text(JOB.replace("/nowhere/mira", "mine").replace("m1ra", "L3yla"))
    text = said(call("import-ai-toolkit", "job.yaml", "--name", "mira"))
    clash = "trigger: {} is the trigger of config/characters/{}.yaml too, so one picture cannot show both; to compare"
    assert f"to do: {clash.format('L3yla', 'leyla')}" in text
    assert {"leyla", "mira"} <= set(project.load(root).characters)
    for name, word, other in (("mira", "L3yla", "leyla"), ("leyla", "l3yla", "mira")):
        assert f"warning: {clash.format(word, other)}" in said(call("lint", name)), name


def test_a_drawn_character_needs_every_phrase(root):  # noqa: F811
    path = root / "config" / "characters" / "leyla.yaml"
    data = yaml.safe_load(path.read_text())
    data |= {"shots": [{"name": "x", "tier": "medium", "view": "frontal view", "background": "a park"}]}
    data["images"] = {"source": "paperdoll", "count": 1}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=r"leyla.yaml: shots.x.outfit: is missing"):
        project.load(root)


def test_captions_say_the_trigger_as_in_ai_toolkit(root):  # noqa: F811
    """In place of [trigger], else in front; a trigger word that cannot be one here gives way to another everywhere."""
    pictures(root / "mine", a="ohwx man on a pier", b="[trigger] in a hat", c="an empty beach", d="x")
    (root / "mine" / "d.txt").rename(root / "mine" / "d.caption")
    job = JOB.replace("/nowhere/mira", "mine").replace("trigger_word: m1ra", "trigger_word: ohwx man")
    (root / "job.yaml").write_text(job.replace("- a portrait of m1ra", "- a portrait of ohwx man"))
    found = aitoolkit.read(root / "job.yaml", root)
    trigger = found.character["trigger"]
    assert found.captions == {"a": f"{trigger} on a pier", "b": f"{trigger} in a hat", "c": f"{trigger} an empty beach"}
    assert found.character["sample_prompts"][0].startswith("a portrait of {trigger} under")
    todo = "\n".join(found.todo)
    assert "captions of c.png: the trigger was prepended" in todo and "1 picture has no .txt and is" in todo
    (root / "job.yaml").write_text(job.replace("caption_ext: txt", "caption_ext: .caption"))
    found = aitoolkit.read(root / "job.yaml", root)
    assert found.captions == {"d": f"{trigger} x"} and "datasets.caption_ext" in found.understood


@pytest.mark.parametrize("spelled", ["~/pics", "sub\\pics", "beside", "sub/pics"])
def test_folders_are_found_as_they_are_spelled(root, monkeypatch, spelled):  # noqa: F811
    monkeypatch.setenv("HOME", str(root / "home"))
    (root / "jobs").mkdir()
    where = {"~/pics": root / "home" / "pics", "beside": root / "jobs" / "beside"}.get(spelled, root / "sub" / "pics")
    where.parent.mkdir(exist_ok=True)
    pictures(where, a="m1ra")
    job = yaml.safe_load(JOB)
    job["config"]["process"][0]["datasets"][0]["folder_path"] = spelled
    (root / "jobs" / "job.yaml").write_text(yaml.safe_dump(job))
    found = aitoolkit.read(root / "jobs" / "job.yaml", root)
    assert found.captions == {"a": "m1ra"} and Path(found.character["images"]["path"]).samefile(where)


def test_several_data_sets_and_a_default_caption(root):  # noqa: F811
    """Every key of every data set is accounted for; the file loads and gives the same data sets."""
    pictures(root / "mine", **{"a-1": "a photo of [trigger], garden", "a-2": None})
    pictures(root / "faces", **{"x-1": None})
    pictures(root / "more", **{"m-1": "a photo of [trigger]", "m-2": None, "m-3": "a pier"})
    (root / "more" / "deep").mkdir()
    (root / "more" / "deep" / "n.png").touch()
    tree = yaml.safe_load(JOB)
    own = tree["config"]["process"][0]["datasets"][0]
    tree["config"]["process"][0]["datasets"] = [
        {"folder_path": "faces", "is_reg": True, "default_caption": "a  woman", "num_repeats": 3, "resolution": 512},
        {**own, "folder_path": "mine", "default_caption": "a photo of [trigger]", "loss_multiplier": 0.8},
        {"folder_path": "more", "loss_multiplier": 0.5, "network_weight": 0.5, "flip_x": True, "mask_path": "m",
         "resolution": [768, 512], "cache_latents_to_disk": True, "caption_ext": "caption", "wibble": 1},
    ]  # fmt: skip
    tree["config"]["process"][0]["train"]["reg_weight"] = 0.5
    (root / "job.yaml").write_text(yaml.safe_dump(tree))
    found = aitoolkit.read(root / "job.yaml", ROOT)
    assert found.character["datasets"] == [
        {"name": "faces", "path": "faces", "regularization": True, "repeats": 3, "weight": 0.5, "caption_dropout": 0.0,
         "resolutions": [512], "default_caption": "a woman"},
        {"name": "more", "path": "more", "weight": 0.5, "caption_dropout": 0.0, "flip_x": True,
         "resolutions": [512, 768], "default_caption": ""},
    ]  # fmt: skip
    assert {key for key in found.ignored if "datasets" in key} == {
        "datasets[3].mask_path", "datasets[3].network_weight", "datasets[3].wibble",
    }  # fmt: skip
    assert {"datasets.default_caption", "datasets.is_reg", "datasets[1].is_reg", "train.reg_weight"} <= set(
        found.understood
    )
    assert found.character["recipe"]["data"]["weight"] == 0.8 and found.captions["a-2"] == "a photo of m1ra"
    todo = "\n".join(line for line in found.todo if line.startswith("datasets.more"))
    for wanted in (
        "end in .caption",
        "m-2.png without a .txt",
        "m-1.png say [trigger]",
        "m-3.png lack the trigger",
        "deep",
    ):
        assert wanted in todo, wanted
    (root / "more/m-2.txt").write_text("a photo of m1ra, again")
    assert call("import-ai-toolkit", "job.yaml", "--name", "mira").exit_code == 0
    person = project.load(root).characters["mira"]
    assert person.image_names == ["a-1", "a-2", "faces/x-1", "more/m-1", "more/m-2", "more/m-3"]
    assert [(p.weight, p.repeats, p.regularization) for p in person.datasets] == [(0.5, 3, True), (0.5, 1, False)]


# The job as a whole


def test_keys_of_the_form_and_unknown_ones(tmp_path):
    found = imported(
        tmp_path,
        train__diff_output_preservation=True,
        train__diff_output_preservation_class="woman",
        train__blank_prompt_preservation=True,
        train__content_or_style="style",
        train__optimizer="automagic",
        train__train_text_encoder=True,
        train__wibble=3,
        model__low_vram=True,
        model__qtype_te="qint8",
        model__assistant_lora_path="ostris/zimage_turbo_training_adapter/zimage_turbo_training_adapter_v2.safetensors",
        network__network_kwargs={"ignore_if_contains": ["refiner"]},
        datasets__mask_path="m",
    )
    recipe, todo = found.character["recipe"], "\n".join(found.todo)
    both = recipe["train"]["preservation"]
    assert both["differential"] == {"enabled": True, "class": "woman"} and both["blank"]["enabled"] is False
    assert "differential and blank are both on" in todo
    assert recipe["train"]["timestep_bias"] == "low_noise"  # the key that ai-toolkit reads
    assert "optimizer" not in recipe["train"] and "automagic is not supported" in found.ignored["train.optimizer"]
    assert "not possible" in found.ignored["train.train_text_encoder"]
    assert found.ignored["train.wibble"] == "unknown to charloom"
    assert (recipe["low_vram"], recipe["quantization"]["text_encoder"]) == (True, "int8")
    assert recipe["training_adapter"] == "v2"
    assert "regular expressions" in found.ignored["network.network_kwargs"]
    assert found.ignored["datasets.mask_path"] == "set images.masks, or masks of the extra set, to that folder"


def test_what_a_job_leaves_open_is_said(tmp_path):
    found = imported(tmp_path, trigger_word=None, model__name_or_path="someone/else", model__adapter_path=None,
                     sample__prompts=[], sample__sample_every=300)  # fmt: skip
    todo = "\n".join(found.todo)
    for wanted in ("trigger: the job has none", "someone/else", "training_adapter", "sample_prompts", "not a multiple",
                   "there is no folder", "counts forward passes"):  # fmt: skip
        assert wanted in todo, wanted
    assert "base" not in found.character and len(found.character["sample_prompts"]) == 10


def test_the_name_of_the_job_and_variables_are_filled_in(root, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PICTURES", "pics")
    pictures(root / "pics", a="m1ra")
    job = JOB.replace("/nowhere/mira", "${PICTURES}").replace("m1ra under", "m1ra [name] ${NOT_SET} under")
    (root / "job.yaml").write_text(job)
    found = aitoolkit.read(root / "job.yaml", root)
    assert found.captions == {"a": "m1ra"} and "Mira Test ${NOT_SET}" in found.character["sample_prompts"][0]
    assert any("${NOT_SET}, which is not set" in line for line in found.todo)


@pytest.mark.parametrize("text, message", [
    ("a: 1", "is not a job of ai-toolkit"),
    ("config: {process: {type: x}}", "is not a job of ai-toolkit"),
    ("config: {process: [x]}", "is not a job of ai-toolkit"),
    ("job: generate\nconfig: {process: [{type: x}]}", "give a job with job: extension"),
    ("config: {name: '!', process: [{type: x}]}", "--name"),
    ("config: [", "opened and never closed"),
])  # fmt: skip
def test_what_is_no_job(tmp_path, text, message):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        aitoolkit.read(tmp_path / "job.yaml", ROOT)
    assert str(error.value).count("\n") == 0
    with pytest.raises(UserError, match="is a folder; give the job in it"):
        aitoolkit.read(tmp_path, ROOT)


def test_an_import_overwrites_nothing(root):  # noqa: F811
    (root / "job.yaml").write_text(JOB)
    before = (root / "config" / "characters" / "leyla.yaml").read_text()
    result = call("import-ai-toolkit", "job.yaml", "--name", "leyla")
    assert result.exit_code == 1 and "exists already" in said(result)
    assert (root / "config" / "characters" / "leyla.yaml").read_text() == before


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("m1ra, a man in a park", ("man", "")), ("m1ra, a fox", ("creature", "fox")), ("m1ra", ("person", ""))],
)
def test_the_class_is_what_the_captions_say(root, caption, expected):  # noqa: F811
    pictures(root / "mine", a=caption, b=caption)
    (root / "job.yaml").write_text(JOB.replace("/nowhere/mira", "mine"))
    assert call("import-ai-toolkit", "job.yaml", "--name", "mira").exit_code == 0
    data = yaml.safe_load((root / "config" / "characters" / "mira.yaml").read_text())
    assert (data["class"], data.get("noun", "")) == expected
