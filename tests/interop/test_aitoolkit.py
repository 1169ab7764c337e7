"""Import of ai-toolkit jobs: every key accounted for once, ai-toolkit's behaviour kept, nothing made up."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import yaml
from aitoolkit_job import JOB, imported, recipe_of
from cli_helpers import ROOT, call, root, said  # noqa: F401 (root is a fixture)

from charloom.config import project, schema
from charloom.config.yaml import merge
from charloom.interop.aitoolkit import keys as aitoolkit_keys
from charloom.interop.aitoolkit import model
from charloom.interop.aitoolkit import read as aitoolkit
from charloom.interop.aitoolkit.job import Job

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
    folder = ROOT / "charloom/interop/aitoolkit"
    source = "".join((folder / f"{part}.py").read_text() for part in ("recipe", "sets", "samples"))
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


@pytest.mark.parametrize("copied", [{"path": "/models/turbo"}, {"repo": "a/b", "transformer_file": "/models/x.st"}])
@pytest.mark.parametrize("named", ["Tongyi-MAI/Z-Image-Turbo", "/models/Z-Image-Turbo/", r"D:\models\Z-Image-Turbo"])
def test_a_base_that_is_a_copy_on_this_disk_goes_by_its_name(tmp_path, copied, named):
    """The file says where it is in place of the repository."""
    bases = tmp_path / "config/bases"
    bases.mkdir(parents=True)
    (bases / "z-image-turbo.yaml").write_text(yaml.safe_dump(copied))
    job = Job({"model": {"name_or_path": named}}, {})
    assert model.read(job, tmp_path).base == "z-image-turbo" and not job.todo
    job = Job({"model": {"name_or_path": "someone/else"}}, {})
    assert model.read(job, tmp_path).base is None and job.todo


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, []),
        ({"sample__guidance_scale": 4, "sample__sample_steps": 16}, ["sample.guidance 1.0 (now 4.0)"]),
        (
            {"sample__guidance_scale": None, "sample__sample_steps": None, "model__adapter_path": None},
            ["training_adapter v1 (now none)", "sample.guidance 1.0 (now 7.0)", "sample.steps 8 (now 20)"],
        ),
        ({"model__name_or_path": "Tongyi-MAI/Z-Image", "sample__guidance_scale": 4, "model__adapter_path": None}, []),
        ({"model__name_or_path": "someone/else", "sample__guidance_scale": 4}, []),
    ],
)
def test_what_does_not_suit_a_distilled_base_is_one_line(tmp_path, changes, said):  # noqa: F811
    lines = [line for line in imported(tmp_path, **changes).todo if "distilled" in line]
    assert lines == [f"recipe: z-image-turbo is a distilled base; set {', '.join(said)}"] * bool(said)


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


def test_a_job_that_starts_from_a_lora_starts_from_it_here_too(tmp_path):
    found = imported(tmp_path, network__pretrained_lora_path="loras/first.safetensors")
    assert found.character["recipe"]["network"]["init"] == "loras/first.safetensors"
    lokr = imported(tmp_path, network__type="lokr", network__pretrained_lora_path="loras/first.safetensors")
    assert "init" not in lokr.character["recipe"]["network"]
    assert "only a LoRA can be started from another" in lokr.ignored["network.pretrained_lora_path"]


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
