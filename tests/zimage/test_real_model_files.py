"""Constants of the real Z-Image-Turbo, read from its own config files and tokenizer; no weights are needed.

Set CHARLOOM_Z_IMAGE to a folder with transformer/config.json, vae/config.json and tokenizer/ of the model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from real_base import REAL_CONFIG

from charloom.lora.attach import target_modules
from charloom.lora.verify import module_shapes
from charloom.zimage import flow, text

FOLDER = os.environ.get("CHARLOOM_Z_IMAGE", "")

pytestmark = pytest.mark.skipif(
    not FOLDER, reason="CHARLOOM_Z_IMAGE names no folder with the config files and the tokenizer of Z-Image-Turbo"
)


def config(part: str, name: str = "config.json") -> dict:
    return json.loads((Path(FOLDER) / part / name).read_text())


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(FOLDER) / "tokenizer")


@pytest.mark.parametrize("prompt", ["", "a close-up portrait photo of l3yla, frontal view", "x " * 700])
def test_the_template_is_the_documented_text(tokenizer, prompt):
    literal = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert text.template(tokenizer, prompt) == literal
    ids = tokenizer(literal, add_special_tokens=False)["input_ids"]
    assert text.token_ids(tokenizer, prompt) == ids[: text.MAX_TOKENS]


def test_the_template_costs_eight_tokens(tokenizer):
    # <|im_start|> user \n ... <|im_end|> \n <|im_start|> assistant \n
    empty = text.token_ids(tokenizer, "")
    assert empty == [151644, 872, 198, 151645, 198, 151644, 77091, 198]
    prompt = "a full body photo of l3yla, beach"
    own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert text.token_ids(tokenizer, prompt) == [*empty[:3], *own, *empty[3:]]


@pytest.mark.parametrize(
    ("word", "tokens"),
    [("l3yla", 3), ("n1ka", 3), ("cam1l", 3), ("0rlah", 4), ("yun4a", 4), ("ohwx", 2), ("leyla", 2)],
)
def test_tokens_of_triggers(tokenizer, word, tokens):
    """Within a caption, so with the space before it. Every digit is a token of its own in this vocabulary."""
    assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == tokens


def test_the_default_modules_of_the_real_transformer():
    raw = {key: value for key, value in config("transformer").items() if not key.startswith("_")}
    with torch.device("meta"):
        model = ZImageTransformer2DModel(**raw)
    names = target_modules(model, "default")
    assert len(names) == 240 and all(name.startswith("layers.") for name in names)
    shapes = module_shapes(config("transformer"))
    assert shapes == module_shapes(REAL_CONFIG)
    assert {name: tuple(model.get_submodule(name).weight.shape) for name in names} == {n: shapes[n] for n in names}


def test_shift_and_scale():
    vae = config("vae")
    assert (vae["scaling_factor"], vae["shift_factor"], vae["latent_channels"]) == (0.3611, 0.1159, 16)
    assert config("scheduler", "scheduler_config.json")["shift"] == flow.SHIFT
