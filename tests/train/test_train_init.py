"""Training that starts from a LoRA of any trainer: its change is there at step 0, and the run is as exact as any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lora_layouts as foreign
import pytest
import torch
from lora_layouts import FILES, RANK, Foreign
from tiny_models import build_transformer
from train_helpers import checkpoint_bytes, job_of, quiet, recipe, state_bytes

from charloom.core.canonical import file_digest
from charloom.core.errors import UserError
from charloom.core.store import Store
from charloom.core.tensors import read_safetensors, write_safetensors
from charloom.lora import convert, export, layouts
from charloom.lora.attach import attach
from charloom.lora.files import read_adapter
from charloom.lora.modules import kind
from charloom.lora.network import Network
from charloom.lora.start import start
from charloom.train.keys import checkpoint_key
from charloom.train.loop import train
from charloom.workflow import training

PLAIN = [
    name
    for name, make in FILES.items()
    if (found := layouts.read(make().tensors)).modules
    and not found.unknown
    and {kind(parts) for parts in found.modules.values()} == {"lora"}
]


def started(path: Path, tmp_path: Path, rank: int = RANK, alpha: float | None = None, **more):
    """The adapter that starts from ``path``, and the file that it would be saved as."""
    network = Network("lora", rank, float(alpha or rank), more.get("modules", "default"), 0.0, -1)
    adapter = attach(build_transformer(), network, seed=1)
    found = start(adapter, path)
    saved = tmp_path / "saved.safetensors"
    export.export(saved, adapter.parameters, network, "fp32", {})
    return found, read_adapter(saved), adapter


def changes_are(saved, wanted: dict[str, torch.Tensor]) -> None:
    for module in saved.modules:
        expected = wanted.get(module, torch.zeros(foreign.shape(module)))
        assert torch.allclose(saved.delta(module), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())), module


@pytest.mark.parametrize("name", PLAIN)
def test_the_change_of_a_file_of_any_layout_is_there_before_the_first_step(name: str, tmp_path: Path) -> None:
    made = FILES[name]()
    path = made.write(tmp_path / "in.safetensors")
    _, saved, _ = started(path, tmp_path, alpha=2 * RANK)
    changed = set(convert.read(path)[0].modules)
    assert changed >= set(foreign.ATTENTION)
    changes_are(saved, {module: foreign.expected(module, made) for module in changed})


def test_a_smaller_rank_is_padded_without_changing_anything(tmp_path: Path) -> None:
    made = FILES["ai-toolkit"]()
    found, saved, adapter = started(made.write(tmp_path / "in.safetensors"), tmp_path, rank=7)
    changes_are(saved, {m: foreign.expected(m, made) for m in layouts.read(made.tensors).modules})
    assert found.error == 0.0 and any("rank 4 padded to 7" in note for note in found.notes)
    a = adapter.parameters[f"{foreign.ATTENTION[0]}.lora_A.weight"]
    assert a[RANK:].abs().min() > 0, "rows that can be trained"


def test_a_larger_rank_is_reduced_as_well_as_can_be_and_the_error_is_stated(tmp_path: Path) -> None:
    made = FILES["ai-toolkit"]()
    found, saved, _ = started(made.write(tmp_path / "in.safetensors"), tmp_path, rank=2)
    lost = whole = 0.0
    for module in layouts.read(made.tensors).modules:
        wanted = foreign.expected(module, made)
        values = torch.linalg.svdvals(wanted.double())
        apart = float((saved.delta(module).double() - wanted).square().sum())
        assert apart == pytest.approx(float(values[2:].square().sum()), rel=1e-4)
        lost, whole = lost + apart, whole + float(values.square().sum())
    assert found.error == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    (note,) = (note for note in found.notes if "reduced" in note)
    assert f"{found.error:.2%}" in note and "network.rank: 4" in note


def test_what_a_reduced_file_leaves_free_can_be_trained(tmp_path: Path) -> None:
    """With A and B both at zero, a component would never get a gradient."""
    empty, thin = foreign.ATTENTION[:2]
    tensors = dict(FILES["ai-toolkit"]().tensors)
    for key in [key for key in tensors if f".{empty}.lora_B" in key]:
        tensors[key] = torch.zeros_like(tensors[key])
    for key in [key for key in tensors if f".{thin}.lora_A" in key]:
        tensors[key] = tensors[key][:1].expand_as(tensors[key]).clone()  # of rank 1 in truth
    _, saved, adapter = started(Foreign(tensors).write(tmp_path / "in.safetensors"), tmp_path, rank=3)
    a, b = (tensors[f"diffusion_model.{thin}.lora_{x}.weight"].float() for x in "AB")
    assert torch.allclose(saved.delta(thin), b @ a, rtol=1e-4, atol=1e-5)
    for module, free in ((empty, slice(0, None)), (thin, slice(1, None))):
        a, b = (adapter.parameters[f"{module}.lora_{x}.weight"].detach() for x in "AB")
        assert a[free].norm(dim=1).min() > 0.1 and not b[:, free].any()


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return FILES["ai-toolkit"]().write(tmp_path / "first.safetensors")


def test_step_0_is_the_file_and_interrupted_runs_end_in_the_same_bytes(make_dataset, tmp_path: Path, first) -> None:
    made, manifest = FILES["ai-toolkit"](), make_dataset()
    settings = recipe(train={"ema": {"decay": 0.9}, "lr": 1e-4})
    job = replace(job_of(manifest, settings, tmp_path / "log"), init=first)
    straight, parts, plain = (Store(tmp_path / name) for name in ("straight", "parts", "plain"))
    lines: list[str] = []
    train(job, straight, 20, quiet, lines.append)
    saved = read_adapter(straight.path("checkpoint", checkpoint_key(job.run_key, 0), ".safetensors"))
    changes_are(saved, {module: foreign.expected(module, made) for module in read_adapter(first).modules})
    for until in (7, 10, 20):
        torch.manual_seed(until)
        train(job, parts, until, quiet, lambda line: None)
    assert checkpoint_bytes(straight, job, [10, 20]) == checkpoint_bytes(parts, job, [10, 20])
    assert state_bytes(straight, job, 20) == state_bytes(parts, job, 20)
    fresh = replace(job, init=None)
    train(fresh, plain, 20, quiet, lambda line: None)
    assert not plain.has("checkpoint", checkpoint_key(job.run_key, 0), ".safetensors")
    assert checkpoint_bytes(plain, job, [20]) != checkpoint_bytes(straight, job, [20])
    assert not any(line.startswith("warning") for line in lines)


def test_how_far_it_moved_is_counted_from_the_file(make_dataset, tmp_path: Path, first) -> None:
    job = replace(job_of(make_dataset(), recipe(train={"lr": 1e-9}), tmp_path / "log"), init=first)
    lines: list[str] = []
    train(job, Store(tmp_path / "store"), 10, quiet, lines.append)
    assert any("the adapter has not moved" in line for line in lines)


WIDER = {
    key: tensor.repeat(1, 2) if "lora_A" in key else tensor for key, tensor in FILES["ai-toolkit"]().tensors.items()
}
MISTAKES = {
    "another base": (Foreign(WIDER), {}, "is made for another base"),
    "a LoKr": (foreign.lokr(), {}, "is a LoKr"),
    "modules left out": (FILES["ai-toolkit"](), {"modules": "attention"}, "modules that network.modules leaves out"),
    "a LoHa": (FILES["LoHa"](), {}, "which cannot be converted; give a LoRA"),
    "one module left out": (
        Foreign({k: t for k, t in FILES["ai-toolkit"]().tensors.items() if ".0.attention.to_q" in k}),
        {"modules": ["to_k"]},
        "changes 1 module that network.modules leaves out",
    ),
    "no adapter": (Foreign({"model.weight": torch.ones(3, 3)}), {}, "is not an adapter for Z-Image"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_started_from_is_one_line(name: str, tmp_path: Path) -> None:
    made, more, words = MISTAKES[name]
    path = made.write(tmp_path / "in.safetensors")
    with pytest.raises(UserError) as caught:
        started(path, tmp_path, **more)
    assert words in str(caught.value) and "or LoKr" not in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_safetensors_at_all_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError):
        started(path, tmp_path)


def test_the_content_of_the_file_is_in_the_key_of_the_run_and_its_path_is_not(make_dataset, tmp_path, first) -> None:
    slice_ = json.dumps({"recipe": recipe(), "header": {"title": "x", "trigger": "y"}, "number": 2})
    settings = training.settings_of(json.loads(slice_), every=10, last=40)
    manifest, record = make_dataset(), {"digest": "base"}

    def key(init: Path | None) -> str:
        return training.key(settings, json.loads(slice_), manifest, record, init)

    moved = tmp_path / "elsewhere" / "other-name.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(first.read_bytes())
    assert key(first) == key(moved) != key(None)
    tensors, metadata = read_safetensors(first)
    write_safetensors(moved, {name: tensor * 2 for name, tensor in tensors.items()}, metadata)
    assert key(moved) not in (key(first), key(None))
    assert training.started_from(slice_, "") == slice_
    assert json.loads(training.started_from(slice_, file_digest(first)))["init"] == file_digest(first)
