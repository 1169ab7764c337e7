"""Several LoRAs on one model, each at a strength of its own: what diffusers' ``set_adapters`` draws, in any order."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline
from lora_helpers import outputs, trained
from tiny_models import build_transformer

from charloom.core.errors import UserError
from charloom.kernels import quantize
from charloom.lora import export
from charloom.lora.adapter import load_into, load_stack
from charloom.lora.files import read_adapter
from charloom.lora.network import Network
from charloom.zimage import forward


def ship(path: Path, network: Network, seed: int = 0) -> Path:
    """A file that looks trained, and differs for each seed."""
    parameters = trained(network).parameters
    generator = torch.Generator().manual_seed(seed)
    changed = {name: p + 0.05 * torch.randn(p.shape, generator=generator) for name, p in parameters.items()}
    export.export(
        path, changed, network, "fp32", export.metadata(network, title="x", trigger="x", step=seed, provenance={})
    )
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    kinds = {
        "character": Network(rank=4, alpha=4),
        "style": Network(rank=2, alpha=1, modules=("attention",)),
        "dora": Network(type="dora", rank=4, alpha=4),
        "lokr": Network(type="lokr", rank=4, alpha=2),
    }
    return {name: ship(tmp_path / f"{name}.safetensors", kind, i) for i, (name, kind) in enumerate(kinds.items())}


def stacked(files: dict[str, Path], strengths: dict[str, float], model=None) -> torch.Tensor:
    model = model or build_transformer()
    with load_stack(model, [(files[name], strength) for name, strength in strengths.items()]):
        return outputs(model)


def test_a_stack_draws_what_set_adapters_draws(files: dict[str, Path], tiny_base: Path) -> None:
    pipe = ZImagePipeline.from_pretrained(tiny_base, torch_dtype=torch.float32)
    for name in ("character", "style"):
        pipe.load_lora_weights(str(files[name]), adapter_name=name)
    pipe.set_adapters(["character", "style"], [0.9, 0.6])
    theirs = outputs(pipe.transformer)
    stock = ZImagePipeline.from_pretrained(tiny_base, torch_dtype=torch.float32).transformer
    ours = stacked(files, {"character": 0.9, "style": 0.6}, stock)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # Neither alone, nor both at full strength, would have passed for that.
    for other in ({"character": 0.9}, {"style": 0.6}, {"character": 1.0, "style": 1.0}):
        assert (stacked(files, other, stock) - theirs).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["fp32", "bf16", "float8"])
def test_the_order_does_not_matter_to_the_last_bit(files: dict[str, Path], kind: str) -> None:
    strengths = {"character": 0.9, "style": 0.7, "dora": 0.3, "lokr": 0.5}
    found = []
    for names in itertools.islice(itertools.permutations(strengths), 0, None, 5):
        model = build_transformer().eval()
        if kind == "bf16":
            model = model.to(torch.bfloat16)
        elif kind == "float8":
            quantize.quantize(model, "float8", torch.device("cpu"))
            quantize.set_mode(model, "dequantize")
        before = outputs(model)
        found.append(stacked(files, {name: strengths[name] for name in names}, model))
        assert torch.equal(outputs(model), before)
    assert len(found) == 5 and all(torch.equal(found[0], other) for other in found[1:])


def test_every_weight_changes_by_the_sum_of_the_changes(files: dict[str, Path]) -> None:
    strengths = {"character": 0.9, "style": -0.4, "dora": 0.6, "lokr": 1.0}
    stock, model = build_transformer(), build_transformer()
    load_stack(model, [(files[name], strength) for name, strength in strengths.items()])
    for module in read_adapter(files["character"]).modules:
        weight = stock.get_submodule(module).weight
        change = torch.zeros_like(weight)
        for name, strength in strengths.items():
            adapter = read_adapter(files[name])
            if module in adapter.modules:
                change += adapter.apply(module, weight, strength) - weight
        torch.testing.assert_close(model.get_submodule(module).weight - weight, change, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bf16", "float8"])
def test_low_precision_draws_about_the_same(files: dict[str, Path], kind: str) -> None:
    strengths = {"character": 0.9, "style": 0.7, "dora": 0.3, "lokr": 0.5}
    model, reference = build_transformer().eval(), build_transformer().eval()
    if kind == "bf16":
        model = model.to(torch.bfloat16)
    else:
        quantize.quantize(model, "float8", torch.device("cpu"))
        quantize.set_mode(model, "dequantize")
        for name, linear in reference.named_modules():
            if isinstance(linear, torch.nn.Linear) and hasattr(model.get_submodule(name), "dense"):
                linear.weight.data = model.get_submodule(name).dense().float()
    expected, bare = stacked(files, strengths, reference), outputs(reference)
    error = (stacked(files, strengths, model).float() - expected).norm() / (expected - bare).norm()
    assert error < 0.02 if kind == "float8" else error < 0.1


def test_one_file_in_a_stack_is_that_file(files: dict[str, Path]) -> None:
    model = build_transformer()
    with load_into(model, files["character"], 0.8):
        alone = outputs(model)
    assert torch.equal(stacked(files, {"character": 0.8}, model), alone)
    again = stacked(files, {"character": 0.8, "style": 0.0}, model)
    torch.testing.assert_close(again, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["bf16", "float8"])
def test_compiled_blocks_on_a_gpu_draw_the_stack(files: dict[str, Path], tiny_base: Path, kind: str) -> None:
    from charloom.engine import previews
    from charloom.engine.options import EngineOptions

    device, options = torch.device("cuda"), EngineOptions()
    model = previews.load_transformer(tiny_base, None, device, options, kind)
    predict = previews.predict_for(model, options, device)
    adapters = previews.Adapters(model, options, predict)
    generator = torch.Generator().manual_seed(0)
    x, caps = torch.randn(1, 16, 8, 8, generator=generator), torch.randn(1, 32, 32, generator=generator)
    inputs = [one.to(device) for one in (x, torch.full((1,), 0.4), caps, torch.zeros(1, 32, 1, dtype=torch.bool))]

    def drawn(*names: str) -> torch.Tensor:
        with torch.no_grad(), adapters.applied([(files[name], {"character": 0.9}.get(name, 0.6)) for name in names]):
            return predict(*inputs).float().cpu()

    reference = ZImagePipeline.from_pretrained(tiny_base, torch_dtype=torch.float32).transformer
    forward.prepare(reference)
    with torch.no_grad(), load_stack(reference, [(files["character"], 0.9), (files["style"], 0.6)]):
        expected = forward.forward(reference, *(one.cpu() for one in inputs))
    both = drawn("character", "style")
    assert torch.equal(both, drawn("style", "character"))
    cosine = torch.cosine_similarity(both.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.98 and (both - drawn("character")).abs().max() > 0.05


def test_who_does_not_fit_is_named_and_nothing_is_changed(files: dict[str, Path], tmp_path: Path) -> None:
    from charloom.core.tensors import write_safetensors

    stem = "diffusion_model.layers.9.attention.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.zeros(4, 64), f"{stem}.lora_B.weight": torch.zeros(64, 4)}
    write_safetensors(tmp_path / "wrong.safetensors", tensors, {})
    model = build_transformer()
    before = outputs(model)
    with pytest.raises(UserError, match="wrong.safetensors: 1 of 1 modules do not exist"):
        load_stack(model, [(files["character"], 1.0), (tmp_path / "wrong.safetensors", 1.0)])
    assert torch.equal(outputs(model), before)
