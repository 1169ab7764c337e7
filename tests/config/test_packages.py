"""Packages that only some recipes need: said before a run, and by the first job that has the training's device."""

from __future__ import annotations

import sys

import pytest
import small_project

from charloom.config import notices, packages
from charloom.config.project import load
from charloom.core.errors import UserError
from charloom.workflow import jobs

MARA = "config/characters/mara.yaml"


@pytest.fixture
def mara(tmp_path, monkeypatch):
    """A function that gives Mara with a recipe, where no optional package is installed."""
    monkeypatch.setattr(packages, "_is_there", lambda module: False)
    small_project.make(tmp_path)

    def with_recipe(**recipe):
        small_project.edit(tmp_path / MARA, recipe=recipe)
        return load(tmp_path).characters["mara"]

    return with_recipe


@pytest.mark.parametrize(
    ("recipe", "gpu", "said"),
    [
        (
            {"train": {"optimizer": "adamw8bit"}},
            True,
            ["pip install 'charloom[cuda]', or set recipe: {train: {optimizer: adamw}}"],
        ),
        ({"train": {"optimizer": "adamw8bit"}}, False, []),  # plain adamw there
        (
            {"train": {"optimizer": "lion"}},
            False,
            ["recipe.train.optimizer: lion", "pip install 'charloom[optimizers]'"],
        ),
        ({"train": {"optimizer": "adamw"}}, True, []),
        ({"train": {"optimizer": "adafactor"}}, True, []),
        ({"quantization": {"text_encoder": "nf4"}}, False, ["or set recipe: {quantization: {text_encoder: float8}}"]),
    ],
)
def test_what_the_recipe_lacks_is_a_notice(mara, monkeypatch, recipe, gpu, said):
    monkeypatch.setattr(notices.platform, "system", lambda: "Linux")
    recipe = {"train": {"optimizer": "adamw"}, **recipe}
    lines = notices.of_packages(mara(**recipe), gpu)
    assert len(lines) == bool(said) and all(part in lines[0] for part in said)


def test_every_optimizer_is_known_here_or_needs_nothing_more():
    from charloom.config import knobs

    assert {*knobs.choices("train.optimizer")} == {*packages.OPTIMIZERS, "adamw", "adafactor"}


def test_the_first_job_with_a_device_refuses_before_it_encodes(mara, monkeypatch):
    one = mara(train={"optimizer": "lion"}, quantization={"transformer": "none", "text_encoder": "none"})
    monkeypatch.setenv(packages.VARIABLE, packages.told([one], True))
    monkeypatch.setattr(sys, "argv", ["encode_text.py", "--output", "results/mara/embeddings/closeup-01.safetensors"])
    with pytest.raises(UserError, match=r"^recipe.train.optimizer: lion needs the package lion-pytorch: pip install"):
        jobs.torch_device("cpu", 1)
    monkeypatch.setattr(sys, "argv", ["encode_text.py", "--output", "results/marab/embeddings/closeup-01.safetensors"])
    assert jobs.torch_device("cpu", 1).type == "cpu"  # of another character


def test_what_only_a_cuda_device_needs_stops_no_other(mara):
    text = packages.told([mara(train={"optimizer": "adamw8bit"})], True)
    command = ["results/mara/dataset.json"]
    assert packages.of_job(text, command, cuda=True) and not packages.of_job(text, command, cuda=False)
    assert packages.told([mara(train={"optimizer": "adamw"})], True) == "" and packages.of_job("", command, True) == []
