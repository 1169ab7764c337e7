"""Adapter files: same bytes for the same content, the shipped layout, verification, merging and loading."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lora_helpers import outputs, ship, trained
from lora_layouts import ALL, FILES, expected
from safetensors import safe_open
from tiny_models import build_transformer

from charloom.core.errors import UserError
from charloom.core.tensors import read_safetensors, write_safetensors
from charloom.lora import export
from charloom.lora.adapter import load_into, merge
from charloom.lora.files import read_adapter
from charloom.lora.network import Network
from charloom.lora.verify import verify


@pytest.fixture
def model():
    return build_transformer().requires_grad_(False)


def test_same_content_same_bytes_in_every_process(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor(2.0, dtype=torch.bfloat16)}
    metadata = {name: name for name in "qwertyuiop"}
    write_safetensors(tmp_path / "a", tensors, metadata)
    write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read, header = read_safetensors(tmp_path / "a")
    assert header == metadata
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    with safe_open(str(tmp_path / "a"), "pt") as file:
        assert set(file.keys()) == {"a", "b"}


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_safetensors(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not at all")
    with pytest.raises(UserError, match="bad.safetensors: not a readable"):
        read_safetensors(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("alpha", [4.0, 8.0, 1.0])
def test_shipped_layout(tmp_path, alpha):
    network = Network(rank=4, alpha=alpha)
    path = ship(tmp_path / "x.safetensors", network, "bf16")
    tensors, header = read_safetensors(path)
    assert len(tensors) == 3 * 16
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.bfloat16}
    assert all((t.dtype == torch.float32) == key.endswith(".alpha") for key, t in tensors.items())
    stem = "diffusion_model.layers.1.attention.to_out.0"
    assert tensors[f"{stem}.lora_A.weight"].shape == (4, 64)
    assert tensors[f"{stem}.lora_B.weight"].shape == (64, 4)
    assert tensors[f"{stem}.alpha"] == 4.0
    assert header["modelspec.trigger_phrase"] == "l3yla" and json.loads(header["charloom.provenance"]) == {"seed": 42}
    assert "lora_adapter_metadata" not in header
    # The scale that was trained with is in B.
    parameters = trained(network).parameters
    expected = parameters["layers.1.attention.to_out.0.lora_B.weight"] * (alpha / 4)
    assert torch.equal(tensors[f"{stem}.lora_B.weight"], expected.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("rank", "alpha"), [(257, 257.0), (301, 150.5), (511, 511.0), (512, 1.0)])
def test_alpha_is_the_rank_whatever_the_dtype(tmp_path, rank, alpha, dtype):
    """bf16 holds whole numbers up to 256 only: 257 would come back as 256 and the LoRA weaker."""
    network = Network(rank=rank, alpha=alpha, modules=("layers.0.attention.to_q",))
    path = ship(tmp_path / "x.safetensors", network, dtype)
    adapter = read_adapter(path)
    assert {float(parts["alpha"]) for parts in adapter.modules.values()} == {float(rank)}
    assert all(adapter.scale(module) == 1.0 for module in adapter.modules)
    assert verify(path, modules=1).ok, str(verify(path))


@pytest.mark.parametrize("kind", ["lokr", "dora"])
def test_alpha_of_other_kinds_is_exact_too(tmp_path, kind):
    network = Network(type=kind, rank=301, alpha=301, modules=("layers.0.attention.to_q",))
    tensors, _ = read_safetensors(ship(tmp_path / "x.safetensors", network, "bf16"))
    assert {float(t) for key, t in tensors.items() if key.endswith(".alpha")} == {301.0}


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_magnitudes_are_kept_whole(tmp_path, dtype):
    """They are whole norms of rows, of which training changes a percent: 8 bits would lose a quarter of it."""
    network = Network(type="dora", rank=4, alpha=4)
    adapter = trained(network)
    tensors, _ = read_safetensors(ship(tmp_path / "x.safetensors", network, dtype))
    for module in adapter.layers:
        magnitude = adapter.parameters[f"{module}.lora_magnitude_vector.weight"].detach()
        assert torch.equal(tensors[f"diffusion_model.{module}.dora_scale"].flatten(), magnitude.flatten())


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_as_written_is_what_a_reader_gets(tmp_path, kind, dtype):
    network = Network(type=kind, rank=4, alpha=3)
    parameters = trained(network).parameters
    written = export.as_written(parameters, network, dtype)
    tensors, _ = read_safetensors(ship(tmp_path / "x.safetensors", network, dtype))
    for name, value in written.items():
        module, role = name.removesuffix(".weight").rsplit(".", 1)
        key = f"diffusion_model.{module}.{role.replace('lora_magnitude_vector', 'dora_scale')}"
        stored = tensors.get(key, tensors.get(f"{key}.weight")).float().view(value.shape)
        torch.testing.assert_close(value * (0.75 if role in export.SCALED else 1.0), stored, rtol=1e-6, atol=0)
        assert value.shape == parameters[name].shape


@pytest.mark.parametrize("alpha", [torch.tensor(256.0, dtype=torch.bfloat16), torch.tensor(256.0), None])
def test_alpha_of_other_files_is_read_in_any_dtype(tmp_path, alpha):
    """Files from before, and of others, hold it in bf16 or not at all."""
    stem = "diffusion_model.layers.0.attention.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(512, 64), f"{stem}.lora_B.weight": torch.ones(64, 512)}
    if alpha is not None:
        tensors[f"{stem}.alpha"] = alpha
    write_safetensors(tmp_path / "x", tensors, {})
    assert read_adapter(tmp_path / "x").scale("layers.0.attention.to_q") == (1.0 if alpha is None else 0.5)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
@pytest.mark.parametrize("alpha", [4.0, 6.0])
def test_a_shipped_file_does_what_was_trained(tmp_path, kind, alpha):
    network = Network(type=kind, rank=4, alpha=alpha)
    base = build_transformer()
    before = outputs(base)
    trained(network, base)
    expected = outputs(base)
    assert (expected - before).abs().max() > 1e-3
    stock = build_transformer()
    with load_into(stock, ship(tmp_path / "x.safetensors", network)) as loaded:
        assert loaded.modules == 16
        torch.testing.assert_close(outputs(stock), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(outputs(stock), before)


def test_strength_and_exact_removal(tmp_path, model):
    path = ship(tmp_path / "x.safetensors", Network(rank=4, alpha=4))
    weights = {name: p.clone() for name, p in model.named_parameters()}
    name = "layers.0.feed_forward.w2"
    delta = read_adapter(path).delta(name)
    first = load_into(model, path, strength=0.6)
    changed = model.get_submodule(name).weight - weights[f"{name}.weight"]
    torch.testing.assert_close(changed, 0.6 * delta, rtol=1e-4, atol=1e-6)
    second = load_into(model, path, strength=-0.3)
    second.remove()
    first.remove()
    first.remove()
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())


def test_low_precision_bases_get_the_lora_beside_the_weight(tmp_path):
    path = ship(tmp_path / "x.safetensors", Network(rank=4, alpha=4))
    model = build_transformer().to(torch.bfloat16)
    before = {name: p.clone() for name, p in model.named_parameters()}
    plain = outputs(model)
    loaded = load_into(model, path)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    reference = build_transformer()
    with load_into(reference, path):
        expected = outputs(reference)
    assert (outputs(model).float() - expected).abs().max() < 0.05 * expected.abs().max() + 0.05
    loaded.remove()
    assert torch.equal(outputs(model), plain)


def test_merge_counts_and_measures(tmp_path, model):
    path = ship(tmp_path / "a.safetensors", Network(rank=4, alpha=4))
    weights = {name: p.clone() for name, p in model.named_parameters()}
    report = merge(model, path)
    adapter = read_adapter(path)
    norm = sum(float(adapter.delta(m).double().square().sum()) for m in adapter.modules) ** 0.5
    assert report.modules == 16 and report.rank == 4 and len(report.sha256) == 64
    assert report.delta_norm == pytest.approx(norm, rel=1e-3)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, weights[name])}
    assert changed == {f"{name}.weight" for name in report.names}
    json.dumps(report.record())


def test_merge_reads_ai_toolkit_files_without_alpha(tmp_path, model):
    a, b = torch.randn(2, 64), torch.randn(64, 2)
    stem = "diffusion_model.layers.0.attention.to_k"
    write_safetensors(tmp_path / "a", {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}, {})
    before = model.layers[0].attention.to_k.weight.clone()
    merge(model, tmp_path / "a")
    torch.testing.assert_close(model.layers[0].attention.to_k.weight, before + b @ a)


def _pair(stem, shape=(64, 64), value=1.0):
    return {f"{stem}.lora_A.weight": torch.ones(2, shape[1]), f"{stem}.lora_B.weight": torch.full((shape[0], 2), value)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"some.other.key": torch.ones(2)}, "not those of an adapter"),
        (_pair("lora_unet_blocks_0_attention_to_q"), "do not exist in the base"),
        (_pair("diffusion_model.layers.9.attention.to_q"), "do not exist in the base"),
        (_pair("diffusion_model.layers.0.attention.to_q", (32, 64)), r"made for a weight of \(32, 64\)"),
        (_pair("diffusion_model.layers.0.attention.to_q", value=0.0), "changes the weights by 0"),
        ({"diffusion_model.layers.0.attention.to_q.lora_A.weight": torch.ones(2, 64)}, "incomplete"),
        ({}, "no adapter module"),
    ],
)
def test_a_merge_is_never_a_silent_no_op(tmp_path, model, tensors, message):
    write_safetensors(tmp_path / "a.safetensors", tensors, {})
    with pytest.raises(UserError, match=message):
        merge(model, tmp_path / "a.safetensors")


def test_quantised_weights_are_not_merged_into(tmp_path, model):
    path = ship(tmp_path / "a.safetensors", Network(rank=4, alpha=4))
    linear = model.layers[0].attention.to_q
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(UserError, match="quantised"):
        merge(model, path)


@pytest.mark.parametrize(
    "name", [n for n in FILES if not any(word in n for word in ("LoKr", "LoHa", "DoRA", "full", "with a", "embedding"))]
)
def test_a_plain_lora_is_read_with_its_trained_effect_whatever_its_trainer(tmp_path, name):
    foreign = FILES[name]()
    adapter = read_adapter(foreign.write(tmp_path / "x"))
    assert adapter.modules and set(adapter.modules) <= set(ALL)
    for module in adapter.modules:
        torch.testing.assert_close(adapter.delta(module), expected(module, foreign))


def test_fp16_overflow_and_nan_are_refused():
    network = Network(rank=4, alpha=4)
    parameters = dict(trained(network).parameters)
    name = "layers.0.attention.to_q.lora_B.weight"
    parameters[name] = parameters[name].detach().clone()
    parameters[name][0, 0] = 1e5
    with pytest.raises(UserError, match="too large for fp16"):
        export.layout(parameters, network, "fp16")
    export.layout(parameters, network, "bf16")
    parameters[name][0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        export.layout(parameters, network, "fp32")


def test_stock_diffusers_loads_it_at_the_same_strength(tmp_path, tiny_base):
    from diffusers import ZImagePipeline

    network = Network(rank=4, alpha=2)
    path = ship(tmp_path / "x.safetensors", network)
    pipe = ZImagePipeline.from_pretrained(tiny_base, vae=None, text_encoder=None, tokenizer=None)
    base = build_transformer()
    base.load_state_dict(pipe.transformer.state_dict())
    pipe.load_lora_weights(str(path))
    with load_into(base, path):
        torch.testing.assert_close(outputs(pipe.transformer), outputs(base), rtol=1e-4, atol=1e-4)


def test_files_do_not_depend_on_the_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from lora_helpers import ship, Network\n"
        "ship(Path(sys.argv[1]), Network(rank=4, alpha=8), 'bf16')"
    )
    here = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a"), str(here)], check=True, cwd=here.parent)
    assert (tmp_path / "a").read_bytes() == ship(tmp_path / "b", Network(rank=4, alpha=8), "bf16").read_bytes()
