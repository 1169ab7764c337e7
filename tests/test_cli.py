"""The charloom command: new, lint, plan, import-ai-toolkit, verify."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from charloom import aitoolkit, config, planning, scaffold, schema
from charloom.cli import app
from charloom.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

JOB = """
job: extension
config:
  name: Mira Test
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      trigger_word: m1ra
      network: {type: lora, linear: 24, linear_alpha: 12}
      save: {dtype: bf16, save_every: 200, max_step_saves_to_keep: 6}
      datasets:
        - folder_path: /nowhere/mira
          caption_ext: txt
          caption_dropout_rate: 0.1
          num_repeats: 2
          flip_x: false
          flip_y: false
          cache_latents_to_disk: false
          is_reg: false
          resolution: [512, 768]
      train:
        batch_size: 2
        gradient_accumulation_steps: 3
        steps: 2000
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        optimizer: adamw8bit
        lr: 5e-5
        weight_decay: 1e-3
        dtype: bf16
        loss_type: mae
        timestep_type: weighted
        timestep_bias: balanced
      model:
        name_or_path: Tongyi-MAI/Z-Image-Turbo
        adapter_path: ostris/zimage_turbo_training_adapter
        quantize: true
      sample:
        sampler: flowmatch
        sample_every: 200
        width: 768
        height: 1024
        seed: 7
        walk_seed: false
        skip_first_sample: true
        guidance_scale: 1.0
        sample_steps: 9
        prompts:
          - a portrait of m1ra under an umbrella, rainy street
          - a full body photo of [trigger], skating on a frozen lake
"""
"""Every key that the common job template of ai-toolkit for this model has, with values that are no defaults."""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A workflow folder with the shipped configuration and empty files in place of the base."""
    shutil.copytree(ROOT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("captions"))
    base = tmp_path / "resources" / "bases" / "paperdoll"
    base.mkdir(parents=True)
    (base / "model_index.json").write_text("{}")
    for name in ("training_adapter.safetensors", "probe.safetensors"):
        (base / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def said(result) -> str:
    """Everything that was printed; a traceback would be in ``exception``."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def imported(tmp_path: Path, text: str = JOB, **changes):
    tree = yaml.safe_load(text)
    for dotted, value in changes.items():
        node = tree["config"]["process"][0]
        *groups, key = dotted.split("__")
        for group in groups:
            node = node[group][0] if group == "datasets" else node.setdefault(group, {})
        node[key] = value
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tree))
    return aitoolkit.read(path, ROOT)


# new


def test_new_writes_a_file_that_passes_the_checks_and_is_never_overwritten(root):
    result = call("new", "mara")
    assert result.exit_code == 0 and "written" in said(result) and "to do" not in said(result)
    sheet, final = (said(result).index(f"results/mara/{file}") for file in ("prompts.html", "final.safetensors"))
    assert said(result).index("charloom lint mara") < sheet < final
    character = config.load(root).characters["mara"]
    assert (character.name, character.trigger, len(character.shots)) == ("Mara", "m4ra", 30)
    assert len(character.sample_prompts) == 10 and "m4ra" in character.sample_prompts[0].text
    path = root / "config" / "characters" / "mara.yaml"
    path.write_text("mine")
    again = call("new", "mara")
    assert again.exit_code == 1 and "exists already" in said(again) and path.read_text() == "mine"


def test_new_takes_a_trigger_and_refuses_names_that_make_no_path(root):
    assert call("new", "tess", "--trigger", "t3ss").exit_code == 0
    assert config.load(root).characters["tess"].trigger == "t3ss"
    result = call("new", "Tess Two")
    assert result.exit_code == 1 and "for example tess-two" in said(result) and said(result).count("\n") == 1


@pytest.mark.parametrize("name", ["mara", "jo", "x", "k9", "bartholomew", "rhythm"])
def test_triggers_are_short_and_hold_a_digit(name):
    trigger = scaffold.trigger_for(name)
    assert 4 <= len(trigger) <= 6 and any(c.isdigit() for c in trigger) and trigger.isalnum()


def test_outside_the_workflow_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["new", "x"], ["lint", "x"], ["plan"], ["import-ai-toolkit", "x.yaml"]):
        result = call(*command)
        assert result.exit_code == 1 and "change to the folder of the workflow" in said(result)


# lint


def test_lint_of_a_good_file_and_of_a_wrong_name(root):
    result = call("lint", "leyla")
    assert result.exit_code == 0 and "30 shots" in said(result)
    assert "snakemake --cores 2 results/leyla/lint.json" in said(result)
    assert said(call("lint", "config/characters/leyla.yaml")) == said(result)
    for name in ("leila", "config/characters/leila.yaml"):
        result = call("lint", name)
        assert result.exit_code == 1 and "did you mean leyla?" in said(result)


def test_lint_reports_every_mistake_in_a_file(root):
    path = root / "config" / "characters" / "nika.yaml"
    path.write_text(path.read_text().replace("trigger: n1ka", "trigger: n1ka\nrecipee: {}"))
    result = call("lint", "nika")
    assert result.exit_code == 1 and "nika.yaml: recipee: unknown key; did you mean recipe?" in said(result)


def test_lint_asks_for_the_images_of_one_character_alone(root):
    for name in ("nika", "orla"):
        path = root / "config" / "characters" / f"{name}.yaml"
        images = {"source": "folder", "path": name}
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "images": images}))
    assert call("lint", "leyla").exit_code == 0
    result = call("lint", "nika")
    assert result.exit_code == 1
    assert said(result) == (
        "error: config/characters/nika.yaml: images.path: there is no folder nika; make it and put 30 images in it\n"
    )
    (root / "nika").mkdir()
    for shot in config.load(root).characters["nika"].shot_names:
        (root / "nika" / f"{shot}.PNG").touch()
    (root / "nika" / "notes.txt").touch()
    text = said(call("lint", "nika"))
    assert "30 shots" in text and "warning: notes.txt: no image of a shot" in text


# plan

DRY = """
Job stats:
job    count

[now]
Job 97: leyla: caption fullbody-10
Reason: Params have changed since last execution: before, now
python /repo/scripts/write_caption.py --settings '{"caption": "Job 1: x"}' --output a
[now]
Job 3: leyla: embedding of fullbody-10
Reason: Input files updated by another job: results/leyla/dataset/fullbody-10.txt
python /repo/scripts/encode_text.py x
[now]
Job 4: leyla: embedding of fullbody-09
Reason: Updated input files: config/captions/leyla/fullbody-09.txt; Input files updated by another job: a
python /repo/scripts/encode_text.py x
[now]
Job 5: base paperdoll
Reason: Missing output files: work/bases/paperdoll.lock.json
Shell command: run lock_base x
[now]
Job 6: leyla: step 50
Reason: Forced execution
"""


def test_plan_groups_jobs_and_keeps_the_first_causes():
    found = {(group.who, group.rule): group for group in planning.groups(DRY)}
    assert found["leyla", "write_caption"].causes == {"its settings changed": 1}
    assert found["leyla", "encode_text"].causes == {"follows from that": 1, "its input changed": 1}
    assert found["leyla", "encode_text"].files == ["config/captions/leyla/fullbody-09.txt"]
    assert found["", "lock_base"].jobs == 1
    lines = planning.summary(list(found.values()))
    assert found["leyla", "step"].causes == {"forced": 1}
    assert lines[0].startswith("5 jobs to do") and lines[1] == "shared:"
    assert planning.summary([]) == ["Nothing to do: everything is up to date."]


def test_plan_asks_snakemake(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # also where charloom is not installed
    for name in ("Snakefile", "rules", "scripts", "profiles", "envs"):
        (root / name).symlink_to(ROOT / name)
    text = said(call("plan", "nika"))
    assert "train segment" in text and "not made yet" in text and "leyla:" not in text
    wrong = call("plan", "results/nobody/final.safetensors")
    assert wrong.exit_code == 1
    assert said(wrong).startswith("error: nothing makes results/nobody/final.safetensors; name a character (")
    assert said(call("plan", "nikka")) == "error: nothing makes nikka; did you mean nika?\n"
    text = said(call("plan", "config/characters/nika.yaml"))
    assert "train segment" in text and "leyla:" not in text
    unknown = call("plan", "results/nika/dataset/nobody.txt")
    assert said(unknown).startswith("error: nothing makes results/nika/dataset/nobody.txt; did you mean results/nika")
    assert said(unknown).count("\n") == 1 and unknown.exit_code == 1
    quiet = call("plan", "nika", "--quiet")
    assert said(quiet).startswith("error: plan: snakemake listed no jobs") and quiet.exit_code == 1


def test_plan_hands_options_on(root, monkeypatch):
    """A profile or --config may name another base, whose plan is another one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("Snakefile", "rules", "scripts", "profiles", "envs"):
        (root / name).symlink_to(ROOT / name)
    wrong = call("plan", "nika", "--config", "base=paperdol")
    assert said(wrong).startswith("error: config/config.yaml: base: there is no config/bases/paperdol.yaml; did you")
    wrong = call("plan", "nika", "--frobnicate")
    assert said(wrong).count("\n") == 1 and "unrecognized arguments: --frobnicate" in said(wrong)


# import-ai-toolkit


def test_every_key_of_the_template_is_understood_or_reported(tmp_path):
    found = imported(tmp_path)
    tree = yaml.safe_load(JOB)["config"]["process"][0]
    keys = {key for key, value in tree.items() if not isinstance(value, dict | list)}
    for group, values in tree.items():
        values = values[0] if group == "datasets" else values
        keys |= {f"{group}.{key}" for key in values} if isinstance(values, dict) else set()
    assert keys <= set(found.understood) | set(found.ignored)
    assert set(found.ignored) == {"training_folder", "device"}
    assert not set(found.understood) & set(found.ignored)


def test_round_trip_into_the_resolved_recipe(root):
    (root / "job.yaml").write_text(JOB)
    result = call("import-ai-toolkit", "job.yaml", "--name", "mira")
    assert result.exit_code == 0 and "2 ignored" in said(result) and "ignored: device:" in said(result)
    path = root / "config" / "characters" / "mira.yaml"
    # The folder of the job is not on this machine; any image will do for the check of the file.
    images = root / "images"
    images.mkdir()
    plan = yaml.safe_load((root / "config" / "plans" / "portrait-30.yaml").read_text())
    for shot in plan["shots"]:
        (images / f"{shot['name']}.png").touch()
    path.write_text(path.read_text().replace("/nowhere/mira", "images"))
    data, recipe = yaml.safe_load(path.read_text()), config.load(root).characters["mira"].recipe
    expected = {
        "network": {"type": "lora", "rank": 24, "alpha": 12.0},
        "quantization": {"transformer": "float8", "text_encoder": "float8"},
        "train": {"steps": 2000, "batch_size": 2, "gradient_accumulation": 3, "optimizer": "adamw8bit", "lr": 5e-5,
                  "weight_decay": 1e-3, "timestep_type": "weighted", "timestep_bias": "balanced", "loss": "mae",
                  "dtype": "bf16"},
        "save": {"dtype": "bf16", "every": 200, "keep": 6},
        "data": {"resolutions": [512, 768], "caption_dropout": 0.1, "repeats": 2, "flip_x": False, "flip_y": False},
        "sample": {"every": 200, "steps": 9, "guidance": 1.0, "width": 768, "height": 1024, "seed": 7,
                   "walk_seed": False, "skip_first": True},
        "training_adapter": "v1",
    }  # fmt: skip
    assert data["recipe"] == expected and data["base"] == "z-image-turbo"
    assert schema.merge(recipe, expected) == recipe
    assert data["sample_prompts"][1] == "a full body photo of {trigger}, skating on a frozen lake"
    assert data["crop"] == {"right": 0, "bottom": 0}


def test_a_data_set_brings_its_captions(root):
    folder = root / "mine"
    folder.mkdir()
    line = "m1ra, a woman with green hair and gray eyes"
    texts = {
        "a-1": f"a close-up portrait photo of {line}, frontal view, wearing a red coat, garden",
        "a-2": f"a full body photo of {line}, seen from behind, wearing a blue coat, pier at dusk",
    }
    for name, text in texts.items():
        (folder / f"{name}.png").touch()
        (folder / f"{name}.txt").write_text(text)
    (folder / "ComfyUI_00012_.PNG").touch()
    (folder / "ComfyUI_00012_.txt").write_text("a medium shot photo of m1ra, wearing a cap, yard")
    (folder / "A-1.png").touch()
    (root / "job.yaml").write_text(JOB.replace("/nowhere/mira", "mine"))
    text = said(call("import-ai-toolkit", "job.yaml", "--name", "mira"))
    assert "3 captions" in text
    assert [line for line in text.splitlines() if line.startswith("to do")] == [
        "to do: shots.a-1-2: has no caption; describe the shot in the character file"
    ]
    person = config.load(root, ready="mira").characters["mira"]
    assert {shot.name: shot.file for shot in person.shots} == {
        "a-1-2": "A-1.png",
        "comfyui_00012": "ComfyUI_00012_.PNG",
        "a-1": "",
        "a-2": "",
    }
    assert (person.concept, person.appearance) == ("", "a woman with green hair and gray eyes")
    assert person.crop == {"right": 0, "bottom": 0, "minimum": 256}
    assert (root / "config" / "captions" / "mira" / "a-2.txt").read_text().strip() == texts["a-2"]
    assert [(s.tier, s.view, s.outfit, s.background) for s in person.shots[2:]] == [
        ("close-up", "frontal view", "a red coat", "garden"),
        ("full-body", "seen from behind", "a blue coat", "pier at dusk"),
    ]
    assert person.identity_hidden == "{trigger}, a woman with green hair" and person.count == 4


def test_several_data_sets_and_a_default_caption(root):
    """Every key of every data set is understood; the file loads and gives the same data sets."""
    for folder, names in {"mine": ["a-1", "a-2", "reference"], "faces": ["x-1"], "more": ["m-1", "m-2"]}.items():
        (root / folder).mkdir()
        for name in names:
            (root / folder / f"{name}.png").touch()
    (root / "mine/a-1.txt").write_text("a close-up portrait photo of [trigger], wearing a red coat, garden")
    (root / "more/m-1.txt").write_text("a photo of m1ra")
    tree = yaml.safe_load(JOB)
    own = tree["config"]["process"][0]["datasets"][0]
    tree["config"]["process"][0]["datasets"] = [
        {"folder_path": "faces", "is_reg": True, "default_caption": "a  woman", "num_repeats": 3, "resolution": 512},
        {**own, "folder_path": "mine", "default_caption": "a photo of [trigger]", "network_weight": 0.8},
        {"folder_path": "more", "network_weight": 0.5, "caption_dropout_rate": 0.2, "flip_x": True, "mask_path": "m",
         "resolution": [768, 512], "cache_latents_to_disk": True, "caption_ext": "json", "wibble": 1},
    ]  # fmt: skip
    (root / "job.yaml").write_text(yaml.safe_dump(tree))
    found = aitoolkit.read(root / "job.yaml", ROOT)
    assert found.character["datasets"] == [
        {"name": "faces", "path": "faces", "repeats": 3, "regularization": True, "resolutions": [512],
         "default_caption": "a woman"},
        {"name": "more", "path": "more", "weight": 0.5, "caption_dropout": 0.2, "flip_x": True,
         "resolutions": [512, 768]},
    ]  # fmt: skip
    assert {key: why for key, why in found.ignored.items() if "datasets" in key} == {
        "datasets[3].mask_path": "masks are not supported",
        "datasets[3].caption_ext": "json is not possible: captions are .txt",
        "datasets[3].wibble": "unknown to charloom",
    }
    assert {"datasets.default_caption", "datasets.network_weight", "datasets.is_reg", "datasets.num_repeats"} <= set(
        found.understood
    )
    assert {"datasets[1].is_reg", "datasets[1].default_caption", "datasets[3].network_weight"} <= set(found.understood)
    assert found.character["recipe"]["data"]["weight"] == 0.8
    assert found.captions["a-2"] == "a photo of m1ra"
    assert "1 images have no .txt; write captions, or set default_caption" in "\n".join(found.todo)
    (root / "more/m-2.txt").write_text("a photo of m1ra, again")
    assert call("import-ai-toolkit", "job.yaml", "--name", "mira").exit_code == 0
    person = config.load(root).characters["mira"]
    assert person.image_names == ["a-1", "a-2", "faces/x-1", "more/m-1", "more/m-2"]
    assert [(p.weight, p.repeats, p.regularization) for p in person.datasets] == [(1.0, 3, True), (0.5, 1, False)]
    assert person.default_caption == "a photo of m1ra"


def test_prompts_without_the_trigger_stay_as_they_are(tmp_path):
    found = imported(tmp_path, sample__prompts=["a dog", "m1ra beside [trigger] and M1ra, [trigger]", "a red car"])
    prompts = found.character["sample_prompts"]
    assert prompts == ["a dog", "{trigger} beside the person and the person, the person", "a red car"]
    assert [line for line in found.todo if "prompts" in line] == [
        "sample_prompts[2]: had the trigger several times; read it again"
    ]
    found = imported(tmp_path, sample__prompts=["a dog"])
    assert found.character["sample_prompts"] == [scaffold.PROMPTS[0], "a dog"]
    assert "sample_prompts: none of the job has the trigger; one of charloom new was put in front" in found.todo


@pytest.mark.parametrize(
    ("save", "sampled", "rounded"), [(200, 200, None), (200, 250, 400), (300, 100, 300), (None, 300, 500)]
)
def test_previews_between_checkpoints_are_put_off(tmp_path, save, sampled, rounded):
    found = imported(tmp_path, save__save_every=save, sample__sample_every=sampled)
    assert found.character["recipe"]["sample"]["every"] == (rounded or sampled)
    assert ("only saved steps are sampled" in "\n".join(found.todo)) == (rounded is not None)


def test_two_preservations_in_a_job_are_pointed_out(tmp_path):
    found = imported(tmp_path, train__diff_output_preservation=True, train__blank_prompt_preservation=True)
    assert "differential and blank are both on" in "\n".join(found.todo)


def test_keys_of_the_form_and_unknown_ones(tmp_path):
    found = imported(
        tmp_path,
        train__ema_config={"use_ema": True, "ema_decay": 0.95},
        train__diff_output_preservation=True,
        train__diff_output_preservation_class="woman",
        train__content_or_style="style",
        train__optimizer="automagic",
        train__train_text_encoder=True,
        train__wibble=3,
        model__low_vram=True,
        model__qtype_te="qint8",
        model__assistant_lora_path="ostris/zimage_turbo_training_adapter/zimage_turbo_training_adapter_v2.safetensors",
        network__network_kwargs={"ignore_if_contains": ["refiner"]},
        datasets__mask_path="m",
        sample__samples=[{"prompt": "m1ra asleep --w 512 --m 0.8", "seed": 3, "ctrl_img": "x.png"}],
        sample__prompts=[],
    )
    recipe = found.character["recipe"]
    assert recipe["train"]["ema"] == {"decay": 0.95}
    assert recipe["train"]["preservation"]["differential"] == {"enabled": True, "class": "woman"}
    assert recipe["train"]["timestep_bias"] == "balanced"  # the newer name wins
    assert "optimizer" not in recipe["train"] and "automagic is not supported" in found.ignored["train.optimizer"]
    assert "not possible" in found.ignored["train.train_text_encoder"]
    assert found.ignored["train.wibble"] == "unknown to charloom"
    assert (recipe["low_vram"], recipe["quantization"]["text_encoder"]) == (True, "int8")
    assert recipe["training_adapter"] == "v2"
    assert "regular expressions" in found.ignored["network.network_kwargs"]
    assert found.ignored["datasets.mask_path"] == "masks are not supported"
    assert found.character["sample_prompts"] == [{"prompt": "{trigger} asleep", "width": 512, "scale": 0.8, "seed": 3}]
    assert "sample.prompts[1].ctrl_img" in found.ignored


def test_what_a_job_leaves_open_is_said(tmp_path):
    found = imported(tmp_path, trigger_word="", model__name_or_path="someone/else", model__adapter_path=None,
                     sample__prompts=[], sample__sample_every=300)  # fmt: skip
    todo = "\n".join(found.todo)
    for wanted in (
        "trigger: the job has none",
        "someone/else",
        "training_adapter",
        "sample_prompts",
        "no multiple",
        "no images",
    ):
        assert wanted in todo, wanted
    assert "base" not in found.character and len(found.character["sample_prompts"]) == 10


@pytest.mark.parametrize("text, message", [
    ("a: 1", "is no job of ai-toolkit"),
    ("job: generate\nconfig: {process: [{type: x}]}", "only job: extension"),
    ("config: [", "opened and never closed"),
])  # fmt: skip
def test_what_is_no_job(tmp_path, text, message):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        aitoolkit.read(tmp_path / "job.yaml", ROOT)


def test_an_import_overwrites_nothing(root):
    (root / "job.yaml").write_text(JOB)
    before = (root / "config" / "characters" / "leyla.yaml").read_text()
    result = call("import-ai-toolkit", "job.yaml", "--name", "leyla")
    assert result.exit_code == 1 and "exists already" in said(result)
    assert (root / "config" / "characters" / "leyla.yaml").read_text() == before


# verify


def test_verify_says_what_is_wrong_with_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("verify", "absent.safetensors")
    assert result.exit_code == 1 and "there is no such file" in said(result)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    result = call("verify", "broken.safetensors")
    assert result.exit_code == 1 and "FAILED" in said(result)
