"""Pictures from pipelines on this machine: tiny ones of the real classes, random weights."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_generators import png
from PIL import Image
from tiny_models import CAPTION_WIDTH, build_tokenizer

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.dataset.sources import diffusers as source
from charloom.dataset.sources.orders import Order
from charloom.workflow.generating import content_of_model

GIB = 2**30
SETTINGS = {"source": "diffusers", "width": 64, "height": 96, "num_inference_steps": 1, "seed": 42}


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX.2 klein."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(3)
    tokenizer = build_tokenizer()
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        ),
        text_encoder=Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=CAPTION_WIDTH,
                intermediate_size=32,
                num_hidden_layers=28,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                max_position_embeddings=1024,
            )
        ),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * CAPTION_WIDTH,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=True,
    )
    folder = tmp_path_factory.mktemp("klein")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Order]:
    reference = tmp_path / "reference.png"
    reference.write_bytes(png(999, (80, 64)))

    def made(prompt: str = "a woman", attempt: int = 0, **more: Any) -> Order:
        settings = {**SETTINGS, "prompt": prompt, **more}
        return Order("shot", settings, attempt, reference, file_digest(reference))

    return made


def opened(model: Path, said: list[str] | None = None) -> source.Diffusers:
    how = {"model": str(model), "revision": "main", "offload": "auto", "device": "cpu", "limit": None}
    return source.open({**how, "log": (said if said is not None else []).append})


def drawn(artist: source.Diffusers, one: Order) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(artist.draw(one))))


def test_a_pipeline_that_edits(klein: Path, order: Callable[..., Order]) -> None:
    said: list[str] = []
    artist = opened(klein, said)
    assert said == ["Flux2KleinPipeline: on cpu"]
    first = drawn(artist, order())
    assert first.shape == (96, 64, 3) and first.std() > 0
    assert np.array_equal(first, drawn(artist, order()))
    # Prompt, attempt and reference all matter.
    other = order()
    Image.open(io.BytesIO(png(5, (80, 64)))).save(other.reference)
    assert not np.array_equal(first, drawn(artist, other))
    assert not np.array_equal(first, drawn(artist, order(attempt=1)))
    assert not np.array_equal(first, drawn(artist, order("somebody else entirely")))


def test_the_image_to_image_pipeline_of_a_model_that_only_draws(tiny_base: Path, order: Callable[..., Order]) -> None:
    said: list[str] = []
    artist = opened(tiny_base, said)
    assert said == ["ZImageImg2ImgPipeline: on cpu"]
    picture = drawn(artist, order(strength=0.5, num_inference_steps=2))
    assert picture.shape == (96, 64, 3)
    with pytest.raises(UserError, match=r"^images\.diffusers\.options\.colour: this pipeline has no such argument"):
        artist.draw(order(options={"colour": "red"}))


def test_names_of_arguments_differ_by_family() -> None:
    qwen = {"image", "prompt", "true_cfg_scale", "guidance_scale", "num_inference_steps", "negative_prompt"}
    given = {**SETTINGS, "guidance_scale": 4.0, "options": {"negative_prompt": "blur"}}
    assert source.call(given, qwen) == {"num_inference_steps": 1, "true_cfg_scale": 4.0, "negative_prompt": "blur"}
    klein = {"image", "prompt", "guidance_scale", "num_inference_steps", "width", "height"}
    found = source.call({**SETTINGS, "guidance_scale": 4.0}, klein)
    assert found == {"num_inference_steps": 1, "guidance_scale": 4.0, "width": 64, "height": 96}
    with pytest.raises(UserError, match=r"^images\.diffusers\.strength: this pipeline has no such setting"):
        source.call({**SETTINGS, "strength": 0.5}, klein)


@pytest.mark.parametrize(
    ("whole", "largest", "budget", "expected"),
    [(15, 8, 24, "none"), (15, 8, 16, "model"), (15, 8, 8, "sequential"), (40, 38, 80, "none"), (58, 40, 44, "model")],
)
def test_what_stays_on_the_gpu(whole: int, largest: int, budget: int, expected: str) -> None:
    assert source.offload(whole * GIB, largest * GIB, budget * GIB) == expected


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"^images\.diffusers\.model: .* cannot be loaded \(") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_counts_by_what_it_holds(tmp_path: Path) -> None:
    from charloom.core.store import Store

    model, store = tmp_path / "model", Store(tmp_path / "store")
    (model / "vae").mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    (model / "vae/weights.safetensors").write_bytes(b"abc")
    (model / "README.md").write_text("x")
    before = content_of_model(model, store, print)
    (model / "README.md").write_text("y")
    moved = model.rename(tmp_path / "elsewhere")
    assert content_of_model(moved, store, print) == before
    (moved / "vae/weights.safetensors").write_bytes(b"xyz")
    assert content_of_model(moved, store, print) != before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_on_a_gpu_a_picture_is_the_same_wherever_the_weights_are(
    klein: Path, order: Callable[..., Order], offload: str
) -> None:
    how = {"model": str(klein), "revision": "main", "device": "cuda", "limit": None, "log": lambda line: None}
    artist, plain = source.open({**how, "offload": offload}), source.open({**how, "offload": "none"})
    assert np.array_equal(drawn(artist, order()), drawn(plain, order()))
