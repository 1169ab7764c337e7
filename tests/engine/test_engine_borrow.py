"""The plain base in the place of the trained one: it draws as it would alone, and training goes on untouched."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from tiny_models import CAPTION_WIDTH, build_transformer

from charloom.engine import borrow, fuse, host
from charloom.engine import compile as compiling
from charloom.engine.borrow import Borrowed, CannotBorrow, HostCopy, in_main_memory
from charloom.engine.swap import Swap
from charloom.kernels import quantize
from charloom.lora.attach import attach
from charloom.lora.network import Network
from charloom.zimage.forward import forward, prepare


def model_of(seed: int, kind: str) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = build_transformer().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    if kind != "none":
        quantize.quantize(model, kind, "cpu")
    if kind == "float8":
        quantize.set_mode(model, "emulate")  # the mode in which Linears are fused
    return prepare(model.eval())


def trained_of(kind: str) -> torch.nn.Module:
    model = model_of(1, kind)
    adapter = attach(model, Network(rank=4, alpha=4), 1)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    assert fuse.fuse(compiling.blocks_of(model))
    model.__dict__["modulations"] = fuse.Modulations(list(model.layers))
    return model


def empty(kind: str) -> torch.nn.Module:
    with torch.device("meta"):
        model = build_transformer()
    if kind != "none":
        quantize.restructure(model, kind)
    return model


def seen(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x, caps = torch.randn(1, 16, 8, 8, generator=generator), torch.randn(1, 32, CAPTION_WIDTH, generator=generator)
    with torch.no_grad():
        return forward(model, x, torch.tensor([0.4]), caps, torch.zeros(1, 32, 1, dtype=torch.bool))


def plain(kind: str, alone: torch.nn.Module) -> tuple[HostCopy, HostCopy]:
    return in_main_memory(empty(kind), alone.state_dict().items(), torch.float32)


@pytest.mark.parametrize("kind", ["none", "float8"])
def test_both_compute_as_if_alone(kind: str) -> None:
    trained, alone = trained_of(kind), model_of(2, kind)
    before = seen(trained)
    borrowed = Borrowed(empty(kind), plain(kind, alone), trained)
    if kind == "float8":
        quantize.set_mode(borrowed.model, "emulate")
    prepare(borrowed.model)
    assert torch.equal(seen(trained), before)
    for _ in range(2):
        with borrowed.in_place() as model:
            assert torch.equal(seen(model), seen(alone)) and not torch.equal(seen(model), before)
        assert torch.equal(seen(trained), before)


def test_the_trained_weights_come_back_after_an_error() -> None:
    trained, alone = trained_of("none"), model_of(2, "none")
    before = seen(trained)
    borrowed = Borrowed(empty("none"), plain("none", alone), trained)
    with pytest.raises(RuntimeError, match="while drawing"), borrowed.in_place():
        raise RuntimeError("while drawing")
    assert torch.equal(seen(trained), before)


def test_weights_that_have_moved_are_left_alone() -> None:
    trained, alone = trained_of("none"), model_of(2, "none")
    borrowed = Borrowed(empty("none"), plain("none", alone), trained)
    moved = trained.layers[0].attention_norm1.weight
    moved.data = moved.data.clone()
    before = seen(trained)
    with pytest.raises(CannotBorrow, match="have moved"), borrowed.in_place():
        pytest.fail("nothing may be copied")
    assert torch.equal(seen(trained), before)


def test_blocks_that_share_a_place_lend_nothing() -> None:
    trained, alone = trained_of("none"), model_of(2, "none")
    Swap(list(trained.layers), torch.device("cpu"), slots=1)
    with pytest.raises(CannotBorrow, match="live in main memory"):
        Borrowed(empty("none"), plain("none", alone), trained)


def test_another_number_format_cannot_borrow() -> None:
    with pytest.raises(CannotBorrow, match="differ from those in training"):
        Borrowed(empty("none"), plain("none", model_of(2, "none")), trained_of("int8"))


def test_without_main_memory_nothing_is_borrowed(monkeypatch) -> None:
    monkeypatch.setattr("charloom.engine.borrow.SPARE", 2**60)
    with pytest.raises(CannotBorrow, match="GiB of main memory"):
        plain("none", model_of(2, "none"))


def test_reading_ends_once_nobody_wants_it() -> None:
    alone, asked = model_of(2, "none"), []
    with pytest.raises(CannotBorrow, match="no longer wanted"):
        in_main_memory(empty("none"), alone.state_dict().items(), wanted=lambda: asked.append(1) or len(asked) < 3)
    assert len(asked) == 3


def test_copies_of_weights_are_counted_while_they_are_there() -> None:
    gc.collect()
    before = borrow.held()
    copies = plain("none", model_of(2, "none"))
    assert borrow.held() - before == 2 * copies[0].size > 0
    del copies
    assert borrow.held() == before


def test_the_limit_of_a_job_on_a_cluster_counts(tmp_path, monkeypatch) -> None:
    """Slurm and systemd limit a group of the process's own, below the root that it sees."""
    gib, root = 2**30, tmp_path / "cgroup"
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: SimpleNamespace(available=200 * gib))
    own = root / "system.slice" / "job_7" / "step_0"
    own.mkdir(parents=True)
    for group, most in ((own, "max"), (own.parent, 16 * gib)):
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{4 * gib}\n")
        (group / "memory.stat").write_text("")
    (tmp_path / "self").write_text("0::/system.slice/job_7/step_0\n")
    assert host.available(root, tmp_path / "self") == 12 * gib
    assert host.available(root, tmp_path / "none") == 200 * gib


def test_files_that_were_read_leave_a_container_its_memory(tmp_path, monkeypatch) -> None:
    gib = 2**30
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: SimpleNamespace(available=9 * gib))
    (tmp_path / "memory.max").write_text(f"{4 * gib}\n")
    (tmp_path / "memory.current").write_text(f"{3 * gib}\n")
    (tmp_path / "memory.stat").write_text(f"anon {gib}\nactive_file {gib}\ninactive_file {gib // 2}\n")
    assert host.available(tmp_path, tmp_path / "none") == 2.5 * gib
    (tmp_path / "memory.max").write_text("max\n")
    assert host.available(tmp_path, tmp_path / "none") == 9 * gib
