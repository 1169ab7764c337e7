"""Import of ai-toolkit jobs: every key accounted for once, what ai-toolkit does kept, nothing made up."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from test_cli import ROOT, call, root, said  # noqa: F401 (root is a fixture)

from charloom.config import project, scaffold, schema
from charloom.config.yaml import merge
from charloom.core.errors import UserError
from charloom.dataset import lint, sources
from charloom.interop.aitoolkit import keys as aitoolkit_keys
from charloom.interop.aitoolkit import read as aitoolkit
from charloom.interop.aitoolkit.samples import split
from charloom.workflow import slices

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


def imported(tmp_path: Path, text: str = JOB, **changes: Any) -> aitoolkit.Imported:
    """The job with keys changed: ``train__lr=1``; None takes a key or a group out."""
    tree = yaml.safe_load(text)
    for dotted, value in changes.items():
        node = tree["config"]["process"][0]
        *groups, key = dotted.split("__")
        for group in groups:
            node = node[group][0] if group == "datasets" else node.setdefault(group, {})
        if value is None:
            node.pop(key, None)
        else:
            node[key] = value
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))
    return aitoolkit.read(path, ROOT)


def recipe_of(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """All knobs that an import leads to, those of the schema included."""
    found = imported(tmp_path, **changes)
    return merge(schema.defaults(schema.load_schema("recipe")), found.character["recipe"])


def pictures(folder: Path, **captions: str | None) -> Path:
    """A folder with an image for each name, and a caption for those that have one."""
    folder.mkdir()
    for name, text in captions.items():
        Image.new("RGB", (64, 64), (len(name) * 40 % 256, 90, 10)).save(folder / f"{name}.png")
        if text is not None:
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


# Accounting


def leaves(node: Any, name: str, own: int) -> list[str]:
    """Every value of a job by its path, as an import should name it."""
    if isinstance(node, dict) and node:
        start = f"{name}." if name else ""
        return [leaf for key, value in node.items() for leaf in leaves(value, f"{start}{key}", own)]
    if name == "datasets" and isinstance(node, list) and node and all(isinstance(part, dict) for part in node):
        paths = ["datasets" if i == own else f"datasets[{i + 1}]" for i in range(len(node))]
        return [leaf for path, part in zip(paths, node, strict=True) for leaf in leaves(part, path, own)]
    if name in ("sample.samples", "sample.prompts") and isinstance(node, list):
        if any(isinstance(entry, dict) for entry in node):
            return [leaf for i, entry in enumerate(node, 1) for leaf in leaves(entry, f"{name}[{i}]", own)]
    return [name]


def some_job(dice: random.Random) -> dict[str, Any]:
    """A job of keys that ai-toolkit has and of others, with values that it takes and with others."""
    values = (None, True, False, 0, 1, -1, 3, 0.5, 1e9, "x", "", "1e-4", "qint8", "cosine", "lokr", "nan", [], {},
              [512], [500, "x"], {"a": {"b": 1}, "c": None}, "[trigger] --w 64 --", ["a", {"prompt": "b"}])  # fmt: skip
    listed = [*aitoolkit_keys.NEVER, *aitoolkit_keys.WHATEVER, *aitoolkit_keys.ALREADY, *aitoolkit_keys.OFF]
    source = "".join((ROOT / "charloom/interop/aitoolkit" / f"{part}.py").read_text() for part in ("recipe", "sets", "samples"))
    known = sorted({*listed, *re.findall(r'"((?:train|network|model|save|sample)\.[a-z_.]+)"', source)})
    of_sets = [key.split(".", 1)[1] for key in known if key.startswith("datasets.")]
    of_sets += ["folder_path", "dataset_path", "num_repeats", "loss_multiplier", "resolution", "default_caption",
                "flip_x", "caption_ext", "trigger_word", "wibble"]  # fmt: skip
    tree: dict[str, Any] = {}
    for key in dice.sample(known, 25) + ["trigger_word", "wibble", "train.wobble"]:
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                break
        else:
            node[last] = dice.choice(values)
    sets = [{key: dice.choice(values) for key in dice.sample(of_sets, 6)} for _ in range(dice.randint(0, 3))]
    tree["datasets"] = dice.choice([sets, sets, sets, dice.choice(values)])
    sample = tree.setdefault("sample", {})
    if isinstance(sample, dict):
        keys = ("prompt", "width", "seed", "neg", "guidance_scale", "ctrl_img", "wibble")
        entries = [{key: dice.choice(values) for key in dice.sample(keys, 3)} for _ in range(3)]
        sample[dice.choice(["samples", "prompts"])] = dice.choice([entries, ["a", "b --w 64"], dice.choice(values)])
    if dice.random() < 0.3:
        tree[dice.choice(["train", "network", "model", "sample", "save"])] = dice.choice(values)
    return tree


def test_every_key_of_any_job_is_accounted_for_once_and_the_file_passes_the_schema(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(80):
        tree = some_job(random.Random(seed))
        path = tmp_path / "job.json"
        job = {
            "job": "extension",
            "config": {"name": "a b", "process": [tree, {"type": "x"}], "odd": 1},
            "meta": {"v": 1},
        }
        path.write_text(json.dumps(job))
        found = aitoolkit.read(path, ROOT)
        sets = tree["datasets"] if isinstance(tree["datasets"], list) else []
        own = next((i for i, part in enumerate(sets) if isinstance(part, dict) and not part.get("is_reg")), 0)
        wanted = [*leaves(tree, "", own), "job", "meta", "config.name", "config.odd", "process[2]"]
        reported = [*found.understood, *found.ignored]
        assert len(set(reported)) == len(reported), seed
        around = [
            key for key in wanted for _ in range(sum(key == r or key.startswith((f"{r}.", f"{r}[")) for r in reported))
        ]
        assert sorted(around) == sorted(wanted), (seed, set(wanted) ^ set(around))
        assert all(any(key == r or key.startswith(f"{r}.") for key in wanted) for r in reported), seed
        assert schema.check(found.character, "character", "x")[1] == [], (seed, found.character)
        assert schema.check(yaml.safe_load(aitoolkit.character_yaml(found, path)), "character", "x")[1] == []


def test_of_the_common_template_little_is_ignored(tmp_path):
    found = imported(tmp_path)
    assert set(found.ignored) == {"training_folder", "device", "network.linear_alpha"}
    found = imported(tmp_path, network__linear_alpha=24)
    assert set(found.ignored) == {"training_folder", "device"}


def test_tables_name_no_key_twice():
    tables = [*aitoolkit_keys.NEVER, *aitoolkit_keys.WHATEVER, *aitoolkit_keys.ALREADY, *aitoolkit_keys.OFF]
    assert len(set(tables)) == len(tables)


# What ai-toolkit does


def test_round_trip_into_the_resolved_recipe(root):  # noqa: F811
    (root / "job.yaml").write_text(JOB)
    result = call("import-ai-toolkit", "job.yaml", "--name", "mira")
    assert result.exit_code == 0 and "3 ignored" in said(result) and "ignored: device:" in said(result)
    path = root / "config" / "characters" / "mira.yaml"
    # The folder of the job is not on this machine; any image will do for the check of the file.
    images = root / "images"
    images.mkdir()
    plan = yaml.safe_load((root / "config" / "plans" / "portrait-30.yaml").read_text())
    for shot in plan["shots"]:
        (images / f"{shot['name']}.png").touch()
    path.write_text(path.read_text().replace("/nowhere/mira", "images"))
    data, recipe = yaml.safe_load(path.read_text()), project.load(root).characters["mira"].recipe
    expected = {
        "network": {"type": "lora", "rank": 24, "alpha": 24.0},
        "quantization": {"transformer": "float8", "text_encoder": "float8"},
        "train": {"steps": 2000, "batch_size": 2, "gradient_accumulation": 3, "optimizer": "adamw8bit", "lr": 5e-5,
                  "weight_decay": 1e-3, "timestep_type": "weighted", "timestep_bias": "balanced", "loss": "mae",
                  "dtype": "bf16"},
        "save": {"dtype": "bf16", "every": 200, "keep": 6},
        "data": {"resolutions": [512, 768], "caption_dropout": 0.1, "repeats": 2, "flip_x": False, "flip_y": False,
                 "dropout_caption": "trigger"},
        "sample": {"every": 200, "steps": 9, "guidance": 1.0, "width": 768, "height": 1024, "seed": 7,
                   "walk_seed": False, "skip_first": True},
        "training_adapter": "v1",
    }  # fmt: skip
    assert data["recipe"] == expected and data["base"] == "z-image-turbo"
    assert merge(recipe, expected) == recipe
    assert data["sample_prompts"][1] == "a full body photo of {trigger}, skating on a frozen lake"
    assert data["crop"] == {"right": 0, "bottom": 0}


ABSENT = {
    "network__linear": ("network.rank", 4), "network__type": ("network.type", "lora"),
    "model__quantize": ("quantization.transformer", "bf16"), "train__steps": ("train.steps", 1000),
    "train__batch_size": ("train.batch_size", 1), "train__optimizer": ("train.optimizer", "adamw"),
    "train__lr": ("train.lr", 1e-6), "train__weight_decay": ("train.weight_decay", 0.01),
    "train__timestep_type": ("train.timestep_type", "sigmoid"), "train__loss_type": ("train.loss", "mse"),
    "train__dtype": ("train.dtype", "fp32"), "save__dtype": ("save.dtype", "fp16"),
    "save__save_every": ("save.every", 1000), "save__max_step_saves_to_keep": ("save.keep", 5),
    "datasets__caption_dropout_rate": ("data.caption_dropout", 0.0), "datasets__num_repeats": ("data.repeats", 1),
    "datasets__resolution": ("data.resolutions", [512]), "sample__sample_every": ("sample.every", 200),
    "sample__sample_steps": ("sample.steps", 20), "sample__guidance_scale": ("sample.guidance", 7.0),
    "sample__width": ("sample.width", 512), "sample__height": ("sample.height", 512),
    "sample__seed": ("sample.seed", 0),
    "sample__skip_first_sample": ("sample.skip_first", False), "sample__walk_seed": ("sample.walk_seed", False),
}  # fmt: skip


@pytest.mark.parametrize("key", ABSENT)
def test_a_knob_that_the_job_leaves_open_is_what_ai_toolkit_takes(tmp_path, key):
    target, wanted = ABSENT[key]
    node: Any = recipe_of(tmp_path, **{key: None})
    for part in target.split("."):
        node = node[part]
    assert node == wanted


def test_defaults_hold_against_the_recipe_of_the_base_too(tmp_path):
    """The miniature has a recipe of its own, which must not shine through."""
    found = imported(
        tmp_path, model__name_or_path="resources/bases/paperdoll", train__batch_size=None, train__ema_config=None
    )
    assert found.character["base"] == "paperdoll"
    assert (found.character["recipe"]["train"]["batch_size"], found.character["recipe"]["train"]["ema"]) == (1, False)


@pytest.mark.parametrize(
    "decay, optimizer", [(0.01, "adamw"), (0.01, "adamw8bit"), (0, "lion"), (0, "prodigy"), (0, "adafactor")]
)
def test_weight_decay_is_that_of_the_optimizer(tmp_path, decay, optimizer):
    recipe = recipe_of(tmp_path, train__optimizer=optimizer, train__weight_decay=None)
    assert recipe["train"]["weight_decay"] == decay
    given = recipe_of(tmp_path, train__optimizer_params={"weight_decay": 0.3, "betas": [0.9, 0.99]})
    assert given["train"]["weight_decay"] == 0.3


@pytest.mark.parametrize("changes, rank, reported", [
    ({"network__linear": 32, "network__linear_alpha": 16}, 32, "network.linear_alpha"),
    ({"network__rank": 8, "network__linear_alpha": 8}, 8, None),
    ({"network__linear": None, "network__alpha": 1, "network__linear_alpha": None}, 4, "network.alpha"),
    ({"network__type": "dora", "network__linear_alpha": 1}, 24, "network.linear_alpha"),
    ({"network__type": "lokr", "network__lokr_full_rank": False}, 24, "network.linear_alpha"),
])  # fmt: skip
def test_alpha_is_the_rank(tmp_path, changes, rank, reported):
    found = imported(tmp_path, **changes)
    network = found.character["recipe"]["network"]
    assert (network["rank"], network["alpha"]) == (rank, float(rank))
    assert {key for key in found.ignored if "alpha" in key} == ({reported} if reported else set())


def test_a_lokr_of_full_rank_is_reported(tmp_path):
    for changes in ({}, {"network__lokr_full_rank": True}):
        found = imported(tmp_path, network__type="lokr", network__dropout=0.2, **changes)
        network = found.character["recipe"]["network"]
        assert network["rank"] == network["alpha"] == 512 and "LoKr has full rank" in "\n".join(found.todo)
        assert "no dropout for LoKr" in found.ignored["network.dropout"] and "dropout" not in network


def test_a_job_without_a_network_is_reported(tmp_path):
    assert "trains the whole model" in "\n".join(imported(tmp_path, network=None).todo)


@pytest.mark.parametrize("word, knobs", [
    ("constant", {"lr_scheduler": "constant", "warmup_steps": 0}),
    ("cosine", {"lr_scheduler": "cosine", "warmup_steps": 0}),
    ("constant_with_warmup", {"lr_scheduler": "constant", "warmup_steps": 1000}),
])  # fmt: skip
def test_schedules_that_are_the_same(tmp_path, word, knobs):
    recipe = recipe_of(tmp_path, train__lr_scheduler=word)
    assert {key: recipe["train"][key] for key in knobs} == knobs
    assert "train.lr_scheduler" in imported(tmp_path, train__lr_scheduler=word).understood


@pytest.mark.parametrize("word", ["linear", "step", "cosine_with_restarts", "polynomial", "rex"])
def test_schedules_that_are_not_are_reported(tmp_path, word):
    found = imported(tmp_path, train__lr_scheduler=word, train__lr_scheduler_params={"num_warmup_steps": 9})
    assert (
        "lr_scheduler" not in found.character["recipe"]["train"]
        and "warmup_steps" not in found.character["recipe"]["train"]
    )
    assert {"train.lr_scheduler", "train.lr_scheduler_params.num_warmup_steps"} <= set(found.ignored)


def test_a_warmup_ends_with_the_steps(tmp_path):
    params = {"num_warmup_steps": 50}
    recipe = recipe_of(tmp_path, train__lr_scheduler="constant_with_warmup", train__lr_scheduler_params=params)
    assert recipe["train"]["warmup_steps"] == 50
    recipe = recipe_of(tmp_path, train__lr_scheduler="constant_with_warmup", train__steps=100)
    assert recipe["train"]["warmup_steps"] == 100


@pytest.mark.parametrize(
    "word, loss", [("mse", "mse"), ("mae", "mae"), ("pseudo_huber", "huber"), ("huber", "mse"), ("l2", "mse")]
)
def test_losses_are_named_as_ai_toolkit_means_them(tmp_path, word, loss):
    found = imported(tmp_path, train__loss_type=word)
    assert found.character["recipe"]["train"]["loss"] == loss
    assert ("recipe.train.loss" in "\n".join(found.todo)) == (word in ("huber", "l2"))
    assert "train.loss_type" in imported(tmp_path, train__loss_type="wavelet").ignored


def test_the_weight_of_a_set_is_its_loss_multiplier(tmp_path):
    found = imported(tmp_path, datasets__network_weight=0.5, datasets__loss_multiplier=0.25)
    assert found.character["recipe"]["data"]["weight"] == 0.25
    assert "loss_multiplier" in found.ignored["datasets.network_weight"]
    assert "datasets.network_weight" in imported(tmp_path, datasets__network_weight=1.0).understood


def test_a_dropped_caption_keeps_the_trigger_where_there_is_one(tmp_path):
    assert recipe_of(tmp_path)["data"]["dropout_caption"] == "trigger"
    assert recipe_of(tmp_path, trigger_word=None)["data"]["dropout_caption"] == "empty"


def test_prodigy_takes_a_rate_of_one(tmp_path):
    for changes in ({"train__lr": 1e-4}, {"train__lr": None}):
        assert recipe_of(tmp_path, train__optimizer="Prodigy", **changes)["train"]["lr"] == 1
    assert recipe_of(tmp_path, train__optimizer="prodigy", train__lr=0.5)["train"]["lr"] == 0.5


def test_ema_of_a_job(tmp_path):
    assert recipe_of(tmp_path, train__ema_config={"use_ema": True})["train"]["ema"] == {"decay": 0.999}
    assert recipe_of(tmp_path, train__ema_config={"use_ema": True, "ema_decay": 0.9})["train"]["ema"] == {"decay": 0.9}
    assert recipe_of(tmp_path, train__ema_config={"ema_decay": 0.9})["train"]["ema"] is False


def test_what_the_schema_does_not_take_is_made_to_fit_with_a_line(tmp_path):
    found = imported(tmp_path, network__linear=1024, datasets__resolution=[500, 510, 4096], sample__width=1000,
                     sample__height=8, sample__sample_steps=999, train__max_grad_norm=0, train__steps=0,
                     datasets__caption_dropout_rate=2, datasets__loss_multiplier=0, train__ema_config={"use_ema": True,
                     "ema_decay": 1.0}, sample__prompts=["m1ra " * 3 + "--w 9999 --m -1"])  # fmt: skip
    recipe, todo = found.character["recipe"], "\n".join(found.todo)
    assert schema.check(found.character, "character", "x")[1] == []
    assert recipe["network"]["rank"] == recipe["network"]["alpha"] == 512
    assert recipe["data"]["resolutions"] == [496, 2048] and recipe["data"]["caption_dropout"] == 1
    assert (recipe["sample"]["width"], recipe["sample"]["height"], recipe["sample"]["steps"]) == (992, 64, 200)
    assert "max_grad_norm" not in recipe["train"] and "weight" not in recipe["data"]
    assert found.character["sample_prompts"][0]["width"] == 2048 and found.character["sample_prompts"][0]["scale"] == 0
    for key in ("network.rank", "data.resolutions[1]", "sample.width", "sample.steps", "data.weight",
                "ema", "sample_prompts[1].width"):  # fmt: skip
        assert key in todo, key
    assert "train.max_grad_norm" in found.ignored


def test_values_of_the_wrong_kind_are_reported_and_break_nothing(tmp_path):
    found = imported(tmp_path, train__lr="fast", train__steps=[1], network__linear="x", datasets__resolution="big",
                     sample__width={"a": 1}, train__batch_size="inf")  # fmt: skip
    assert {"train.lr", "train.steps", "network.linear", "datasets.resolution", "train.batch_size"} <= set(
        found.ignored
    )


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
    left = [re.search(r"--.*?(?= was left out)", line)[0] for line in found.todo if "was left out; previews" in line]
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
    assert "recipe.sample.seed: -1 draws another" in todo and "seed" not in found.character["recipe"]["sample"]
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
        "sample_prompts[2]: had the trigger several times; read it again"
    ]
    found = imported(tmp_path, sample__prompts=["a dog"])
    assert found.character["sample_prompts"] == ["a dog", scaffold.PROMPTS[0]]  # no seed moves
    assert "sample_prompts: none of the job has the trigger; one of charloom new was added" in found.todo


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
    assert "3 captions" in text and "to do: shots: A-1.png without a .txt" in text
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
    with pytest.raises(UserError, match=r"shots\.a-1-2: has no caption, nor tier, view, outfit, background"):
        project.load(root, ready="mira", image_problems=sources.problems)
    (captions / "a-1-2.txt").write_text("m1ra again")
    person = project.load(root, ready="mira", image_problems=sources.problems).characters["mira"]
    assert [json.loads(slices.prompt_sheet(person))["shots"], person.count] == [[], 4]
    judged = [finding for finding in lint._plan(json.loads(slices.lint(person))) if finding.where == "plan"]
    assert judged == []


def test_a_shot_without_a_caption_takes_the_default_or_stops(root):  # noqa: F811
    pictures(root / "mine", a="m1ra, a park", b=None)
    (root / "job.yaml").write_text(JOB.replace("/nowhere/mira", "mine"))
    assert call("import-ai-toolkit", "job.yaml", "--name", "mira").exit_code == 0
    path = root / "config" / "characters" / "mira.yaml"
    data = yaml.safe_load(path.read_text())
    data["recipe"]["data"]["default_caption"] = "a photo of {trigger}"
    path.write_text(yaml.safe_dump(data))
    person = project.load(root, ready="mira", image_problems=sources.problems).characters["mira"]
    assert json.loads(slices.caption(person, "b")) == {"default": "a photo of m1ra"}


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
    assert "captions of c.png: the trigger was put in front" in todo and "shots: d.png without a .txt" in todo
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
    assert found.ignored["datasets.mask_path"] == "masks are not supported"


def test_what_a_job_leaves_open_is_said(tmp_path):
    found = imported(tmp_path, trigger_word=None, model__name_or_path="someone/else", model__adapter_path=None,
                     sample__prompts=[], sample__sample_every=300)  # fmt: skip
    todo = "\n".join(found.todo)
    for wanted in ("trigger: the job has none", "someone/else", "training_adapter", "sample_prompts", "no multiple",
                   "no images", "counts forward passes"):  # fmt: skip
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
    ("a: 1", "is no job of ai-toolkit"),
    ("config: {process: {type: x}}", "is no job of ai-toolkit"),
    ("config: {process: [x]}", "is no job of ai-toolkit"),
    ("job: generate\nconfig: {process: [{type: x}]}", "only job: extension"),
    ("config: {name: '!', process: [{type: x}]}", "--name"),
    ("config: [", "opened and never closed"),
])  # fmt: skip
def test_what_is_no_job(tmp_path, text, message):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        aitoolkit.read(tmp_path / "job.yaml", ROOT)
    assert str(error.value).count("\n") == 0


def test_an_import_overwrites_nothing(root):  # noqa: F811
    (root / "job.yaml").write_text(JOB)
    before = (root / "config" / "characters" / "leyla.yaml").read_text()
    result = call("import-ai-toolkit", "job.yaml", "--name", "leyla")
    assert result.exit_code == 1 and "exists already" in said(result)
    assert (root / "config" / "characters" / "leyla.yaml").read_text() == before
