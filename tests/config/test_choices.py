"""Every word that a schema allows is implemented, and nothing else is: the schemas are the only list of choices."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from charloom.config import knobs, schema
from charloom.dataset import sources
from charloom.interop.aitoolkit import recipe as aitoolkit
from charloom.judge import backend
from charloom.kernels import quantize
from charloom.lora import attach, export
from charloom.lora.network import Network
from charloom.train import losses, optim, timesteps
from charloom.train.settings import Optimisation

WEIGHTS = (*quantize.KINDS, "bf16", "none")
TABLES: dict[str, Mapping | tuple] = {
    "train.timestep_type": timesteps.TYPES,
    "train.timestep_bias": timesteps.BIASES,
    "quantization.transformer": WEIGHTS,
    "quantization.text_encoder": WEIGHTS,
    "network.modules": attach._PRESETS,
    "save.dtype": export.DTYPES,
}


@pytest.mark.parametrize("knob", TABLES)
def test_tables_have_the_words_of_the_schema(knob: str) -> None:
    assert set(knobs.choices(knob)) == set(TABLES[knob])


def test_choices_outside_of_recipes() -> None:
    base, character = (schema.load_schema(name)["properties"] for name in ("base", "character"))
    assert set(base["judge"]["enum"]) == {*backend.BACKENDS, "none"}
    assert set(character["images"]["properties"]["source"]["enum"]) == set(sources.NAMES)


def test_every_loss_has_a_formula() -> None:
    a, b = torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)
    values = [float(losses.per_item(a, b, kind)) for kind in knobs.choices("train.loss")]
    assert len(set(values)) == len(values)


def test_every_schedule_has_a_course() -> None:
    kinds = knobs.choices("train.lr_scheduler")
    rates = {optim.learning_rate(Optimisation(steps=10, lr=1.0, lr_scheduler=kind), 4) for kind in kinds}
    assert len(rates) == len(kinds)


@pytest.mark.parametrize("name", knobs.choices("train.optimizer"))
def test_every_optimiser_can_be_built_and_has_a_usual_rate(name: str) -> None:
    assert knobs.usual_rates()[name] > 0
    settings, parameters = Optimisation(optimizer=name), {"a": nn.Parameter(torch.ones(2, 2))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert optim.state_bytes(settings, list(parameters.values())) >= 0
        assert isinstance(optim.build(settings, parameters, torch.device("cpu")), torch.optim.Optimizer)


def test_every_kind_of_adapter_has_parameters_of_its_own() -> None:
    kinds = knobs.choices("network.type")
    roles = set()
    for kind in kinds:
        model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(8, 8)])})
        adapter = attach.attach(model, Network(type=kind, rank=2, modules=("layers",)), seed=1)
        roles.add(tuple(sorted(name.removeprefix("layers.0.") for name in adapter.parameters)))
    assert len(roles) == len(kinds)


@pytest.mark.parametrize(
    ("knob", "table"),
    [
        ("train.optimizer", aitoolkit._OPTIMIZERS),
        ("train.optimizer", aitoolkit._ALMOST),
        ("train.timestep_type", aitoolkit._TIMESTEPS),
        ("train.timestep_bias", aitoolkit._BIAS),
        ("quantization.transformer", aitoolkit._PRECISION),
    ],
)
def test_what_an_ai_toolkit_job_becomes_is_allowed(knob: str, table: Mapping[str, str]) -> None:
    assert set(table.values()) <= set(knobs.choices(knob))


def test_what_one_data_set_may_override_is_in_both_schemas() -> None:
    data = schema.load_schema("recipe")["properties"]["data"]["properties"]
    of_sets = schema.load_schema("dataset")["properties"]
    for key in knobs.ITEM_OVERRIDES:
        assert {k: v for k, v in of_sets[key].items() if k not in ("description", "x-reruns")} == {
            k: v for k, v in data[key].items() if k not in ("description", "default", "x-reruns")
        }
