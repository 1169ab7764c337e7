"""Quantized models: which Linears, accuracy of their gradients, adapters on them, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import real_base
import small_project
import torch
import torch.nn.functional as F
from diffusers import ZImageTransformer2DModel
from lora_helpers import ship
from quantize_helpers import WAYS, error, larger, predict, vary
from real_base import REAL_CONFIG
from safetensors import safe_open
from tiny_models import build_transformer

from charloom.base import hub, locks
from charloom.config.project import load as load_config
from charloom.core import versions
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.kernels import linears
from charloom.kernels import quantize as q
from charloom.lora.adapter import load_into, merge
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.workflow import prepared, slices, texts
from charloom.zimage import forward


def test_which_linears_of_the_real_architecture_are_quantised():
    with torch.device("meta"):
        model = ZImageTransformer2DModel(**REAL_CONFIG)
    total = sum(p.numel() for p in model.parameters())
    names = q.eligible(model)
    assert len(names) == 34 * 7 - 2 * 4
    assert not any(part in name for name in names for part in ("adaLN", "embedder", "final_layer"))
    assert sorted(name.split(".")[2] for name in names if name.startswith("noise_refiner")) == ["feed_forward"] * 6
    q.restructure(model, "float8")
    assert not q.eligible(model) and all(module.fits_units for module in q.quantized(model))
    assert sum(module.weight.numel() for module in q.quantized(model)) > 0.95 * total


@pytest.mark.parametrize("kind", q.KINDS)
def test_an_empty_structure_takes_the_tensors_of_a_quantised_model(kind):
    model = build_transformer()
    others = {name: t.clone() for name, t in model.state_dict().items()}
    assert q.quantize(model, kind) == 24
    for name in set(model.state_dict()) - q.stored_names(model):
        assert torch.equal(model.state_dict()[name], others[name])
    with torch.device("meta"):
        empty = ZImageTransformer2DModel.from_config(dict(model.config))
    q.restructure(empty, kind)
    shapes = {name: (t.shape, t.dtype) for name, t in empty.state_dict().items()}
    assert shapes == {name: (t.shape, t.dtype) for name, t in model.state_dict().items()}
    empty.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(predict(empty), predict(model))


def gradients(kind: str, mode: str, batches: int = 20) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """Loss and LoRA gradients on some batches."""
    model = larger()
    if kind:
        q.quantize(model, kind)
        q.set_mode(model, mode)
    adapter = attach(model, Network(rank=8, alpha=8), seed=1)
    for number, (name, parameter) in enumerate(adapter.parameters.items()):
        if "lora_B" in name:
            parameter.data.copy_(0.02 * vary(*parameter.shape, seed=number))
    out = []
    for number in range(batches):
        x, target = vary(1, 16, 16, 16, seed=number), vary(1, 16, 16, 16, seed=number + 1000)
        t = torch.tensor([(number + 0.5) / batches])
        loss = (
            (forward.forward(model, x, t, *forward.pad_captions(list(vary(1, 20, 32, seed=number)))) - target)
            .square()
            .mean()
        )
        found = torch.autograd.grad(loss, list(adapter.parameters.values()))
        out.append((loss.item(), dict(zip(adapter.parameters, found, strict=True))))
    return out


def test_gradients_and_loss_on_float8_units_are_those_of_full_precision():
    exact, rounded = gradients("", ""), gradients("float8", "emulate")
    cosines, losses = [], []
    for (loss, grads), (other, others) in zip(exact, rounded, strict=True):
        cosines += [float(F.cosine_similarity(grads[n].flatten(), others[n].flatten(), dim=0)) for n in grads]
        losses.append((other - loss) / loss)
    losses = torch.tensor(losses)
    print(f"cosine median {torch.tensor(cosines).median():.4f}, loss {losses.abs().max():.2e}")
    assert torch.tensor(cosines).median() >= 0.99
    assert losses.abs().max() < 0.01


@pytest.mark.parametrize(("kind", "mode"), WAYS)
@pytest.mark.parametrize("network", ["lora", "lokr"])
def test_adapters_on_quantised_weights(kind, mode, network):
    model = build_transformer()
    q.quantize(model, kind)
    if mode:
        q.set_mode(model, mode)
    before = predict(model)
    adapter = attach(model, Network(type=network, rank=4, alpha=6), seed=1)
    assert torch.equal(predict(model), before)
    plain = attach(build_transformer(), Network(type=network, rank=4, alpha=6), seed=1)
    assert list(adapter.parameters) == list(plain.parameters)
    assert all(torch.equal(p, plain.parameters[n]) and p.dtype == torch.float32 for n, p in adapter.parameters.items())
    for p in adapter.parameters.values():
        p.data += 0.1
    assert not torch.equal(predict(model), before)
    with adapter.disabled():
        assert torch.equal(predict(model), before)
    x = vary(1, 16, 8, 8)
    forward.forward(
        model, x, torch.tensor([0.3]), *forward.pad_captions(list(vary(1, 9, 32)))
    ).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in adapter.parameters.values())
    assert {n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n and "lokr" not in n} == set()


@pytest.mark.parametrize("kind", q.KINDS)
def test_lokr_beside_a_quantised_weight_is_what_peft_computes(kind):
    def change(model):
        adapter = attach(model, Network(type="lokr", rank=2, alpha=3, lokr_factor=4), seed=1)
        for number, p in enumerate(adapter.parameters.values()):
            p.data += 0.2 * vary(*p.shape, seed=number)
        x = vary(3, 64)
        layer = adapter.layers["layers.0.feed_forward.w1"]
        return layer(x) - layer.get_base_layer()(x)

    model = build_transformer()
    q.quantize(model, kind)
    torch.testing.assert_close(change(model), change(build_transformer()), rtol=1e-4, atol=1e-5)


def test_dora_on_quantised_weights_is_a_mistake_in_one_line():
    model = build_transformer()
    q.quantize(model, "int8")
    with pytest.raises(UserError, match="dora needs quantization.transformer none or bf16") as caught:
        attach(model, Network(type="dora", rank=4, alpha=4), seed=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "wrong"), [("float8", 1), ("nf4", 1), ("bf16", 0), ("none", 0)])
def test_dora_is_refused_when_the_recipe_is_read(kind, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = small_project.make(tmp_path)
    changes = {"recipe": {"network": {"type": "dora"}, "quantization": {"transformer": kind}}}
    if not wrong:
        load_config(folder, overrides=changes)
        return
    with pytest.raises(UserError) as caught:
        load_config(folder, overrides=changes)
    lines = str(caught.value).splitlines()
    assert lines and all(
        f"recipe.network.type: dora needs quantization.transformer none or bf16, not {kind}" in line for line in lines
    )


@pytest.mark.parametrize("kind", q.KINDS)
@pytest.mark.parametrize("network", ["lora", "dora", "lokr"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_files_are_loaded_beside_quantised_weights(tmp_path, kind, network, strength):
    path = ship(tmp_path / "x.safetensors", Network(type=network, rank=4, alpha=6))
    model = build_transformer()
    q.quantize(model, kind)
    before = predict(model)
    dense = build_transformer()  # the weights that the quantised ones stand for, as plain Linears
    for name, module in model.named_modules():
        if isinstance(module, linears.QuantizedLinear):
            dense.get_submodule(name).weight.data = module.dense()
    with load_into(model, path, strength), load_into(dense, path, strength):
        torch.testing.assert_close(predict(model), predict(dense), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(predict(model), before, atol=1e-3)
    assert torch.equal(predict(model), before)
    with pytest.raises(UserError, match="is quantized; use full-precision"):
        merge(model, path)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory) -> Path:
    return real_base.build(tmp_path_factory.mktemp("quantised") / "base")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize("kind", ["none", "bf16", *q.KINDS])
def test_a_prepared_base_comes_back_as_it_was_made(base_folder, store, tmp_path, monkeypatch, kind):
    adapter = real_base.adapter(base_folder, tmp_path / "v1.safetensors")
    lock = locks.lock({"name": "tiny", "path": str(base_folder), "adapters": {"v1": str(adapter)}}, store)
    settings = {"adapter": "v1", "quantization": kind, "recipe": 2}
    said, output = [], tmp_path / "base.safetensors"
    record = prepared.make(lock, settings, output, store, said.append)
    assert record["quantization"] == kind and record["merged"]["modules"] == 8
    # Which Linears are quantised is part of what weights were prepared for.
    for number, kinds in (("QUANTISED_LINEARS", q.KINDS), ("SCALES_ON_CPU", ("float8", "int8"))):
        key, of_rule = prepared.key(lock, settings), slices.prepared_base("v1", kind)
        with monkeypatch.context() as patch:
            patch.setattr(versions, number, 99)
            assert (prepared.key(lock, settings) == key) == (kind not in kinds)
            assert (slices.prepared_base("v1", kind) == of_rule) == (kind not in kinds), "the rule would not run again"
    again = tmp_path / "again.safetensors"
    prepared.make(lock, settings, again, store, hub.silent)
    assert again.read_bytes() == output.read_bytes()

    dtype = torch.float32 if kind == "none" else torch.bfloat16
    expected = ZImageTransformer2DModel.from_pretrained(base_folder / "transformer", torch_dtype=dtype)
    merge(expected, adapter)
    if kind in q.KINDS:
        assert said == [f"{q.quantize(expected, kind)} Linears of the blocks kept in {kind}"]
    else:
        assert said == []
    with safe_open(str(output), "pt") as file:
        assert file.metadata().get("charloom.quantization") == (kind if kind in q.KINDS else None)
        assert set(file.keys()) == set(expected.state_dict())

    model = prepared.load(lock, output, torch.float32, torch.device("cpu"))
    state = expected.state_dict()
    for name, tensor in model.state_dict().items():
        if name in q.stored_names(model):
            assert tensor.dtype == state[name].dtype and torch.equal(tensor.float(), state[name].float())
        else:
            assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name].float())
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert len(q.quantized(model)) == (6 * 7 - 2 * 4 if kind in q.KINDS else 0)
    torch.testing.assert_close(predict(model), predict(expected.float()))
    assert (
        predict(prepared.load(lock, output, torch.bfloat16, torch.device("cpu")), dtype=torch.bfloat16).isfinite().all()
    )


def test_a_quantised_file_that_is_cut_or_of_another_base_is_named(base_folder, store, tmp_path):
    lock = locks.lock({"name": "tiny", "path": str(base_folder), "adapters": {}}, store)
    output = tmp_path / "base.safetensors"
    prepared.make(lock, {"adapter": "none", "quantization": "int8", "recipe": 2}, output, store, hub.silent)
    output.write_bytes(output.read_bytes()[:-8])
    with pytest.raises(UserError, match="base.safetensors: cannot be read .* delete it"):
        prepared.load(lock, output, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_a_flipped_bit_in_a_prepared_base_is_named(base_folder, store, tmp_path, kind):
    lock = locks.lock({"name": "tiny", "path": str(base_folder), "adapters": {}}, store)
    output = tmp_path / "base.safetensors"
    prepared.make(lock, {"adapter": "none", "quantization": kind, "recipe": 2}, output, store, hub.silent)
    data = bytearray(output.read_bytes())
    for where in (-1, -(len(data) // 3)):
        output.write_bytes(bytes([*data[:where], data[where] ^ 4, *(data[where:][1:])]))
        with pytest.raises(UserError, match="base.safetensors: is damaged.* delete it"):
            prepared.load(lock, output, torch.float32, torch.device("cpu"))
    output.write_bytes(data)
    prepared.load(lock, output, torch.float32, torch.device("cpu"))


def test_the_text_encoder_is_kept_as_the_recipe_says(base_folder, tmp_path):
    store = Store(tmp_path / "store")
    lock = locks.lock({"name": "tiny", "path": str(base_folder), "adapters": {}}, store)
    words, embeds = "a photo of l3yla", {}
    for kind in ("none", "bf16", *q.KINDS):
        settings = {"quantization": kind, "recipe": 1}
        assert texts.make([words], lock, settings, store, torch.device("cpu")) == 1
        key = texts.key(words, lock, settings)
        with safe_open(str(store.path(texts.KIND, key, ".safetensors")), "pt") as file:
            embeds[kind] = file.get_tensor("embeds")
    assert all(tensor.dtype == torch.float32 for tensor in embeds.values())
    errors = {kind: error(embeds[kind], embeds["none"]) for kind in embeds}
    assert 0 < errors["bf16"] < 0.02
    assert 0 < errors["int8"] < 0.03 and 0 < errors["float8"] < 0.1 and 0 < errors["nf4"] < 0.3
    assert len({tuple(tensor.flatten().tolist()) for tensor in embeds.values()}) == 5
