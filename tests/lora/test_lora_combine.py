"""Merged LoRAs change each weight by the sum of their changes, or by the nearest of the wanted rank."""

from __future__ import annotations

from pathlib import Path

import lora_layouts as foreign
import pytest
import torch
from cli_helpers import call, said
from lora_layouts import FILES, RANK, Foreign

from charloom.core.errors import UserError
from charloom.core.tensors import write_safetensors
from charloom.lora import combine
from charloom.lora.files import read_adapter
from charloom.lora.verify import verify


def other(path: Path) -> Path:
    """A second LoRA: kohya's names, fused q, k and v, no modulation, other values."""
    made = foreign.musubi_for_comfyui()
    tensors = {key: t if key.endswith("alpha") else t.flip(0) for key, t in made.tensors.items()}
    return Foreign(tensors, {"modelspec.title": "Ink"}).write(path)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    one = Foreign(FILES["charloom"]().tensors, {"modelspec.title": "Mara", "modelspec.trigger_phrase": "m4ra"})
    return [one.write(tmp_path / "one.safetensors"), other(tmp_path / "two.safetensors")]


def wanted(pair: list[Path], strengths: list[float]) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for path, strength in zip(pair, strengths, strict=True):
        adapter = read_adapter(path)
        for module in adapter.modules:
            out[module] = out.get(module, 0) + strength * adapter.delta(module).double()
    return out


def test_without_a_rank_the_sum_is_exact(pair: list[Path], tmp_path: Path) -> None:
    made = combine.merge(pair, [1.0, -0.7])
    write_safetensors(tmp_path / "both.safetensors", made.tensors, made.metadata)
    adapter, sums = read_adapter(tmp_path / "both.safetensors"), wanted(pair, [1.0, -0.7])
    assert set(adapter.modules) == set(sums) and made.error == 0
    for module, delta in sums.items():
        assert torch.allclose(adapter.delta(module).double(), delta, rtol=1e-5, atol=1e-6 * float(delta.abs().max()))
    assert made.ranks["layers.0.feed_forward.w1"] == 2 * RANK and made.ranks["layers.0.adaLN_modulation.0"] == RANK
    assert made.metadata["modelspec.title"] == "Mara + Ink" and made.metadata["modelspec.trigger_phrase"] == "m4ra"
    assert verify(tmp_path / "both.safetensors").ok


@pytest.mark.parametrize("rank", [1, 3, RANK])
def test_with_a_rank_it_is_the_nearest_and_the_error_is_the_true_one(pair: list[Path], rank: int) -> None:
    made = combine.merge(pair, [1.0, 0.5], rank)
    lost = whole = 0.0
    for module, delta in wanted(pair, [1.0, 0.5]).items():
        a, b = (made.tensors[f"diffusion_model.{module}.{role}.weight"].double() for role in ("lora_A", "lora_B"))
        assert len(a) == made.ranks[module] <= rank
        best = float(torch.linalg.svdvals(delta)[rank:].square().sum())
        mine = float((b @ a - delta).square().sum())
        assert mine <= best * 1.001 + 1e-9 * float(delta.square().sum())
        lost, whole = lost + mine, whole + float(delta.square().sum())
    assert made.error == pytest.approx((lost / whole) ** 0.5, rel=1e-3, abs=1e-6)


def test_a_rank_that_is_enough_costs_nothing(pair: list[Path]) -> None:
    assert combine.merge(pair, [1.0, 1.0], 64).error == 0


def test_kinds_and_models_that_cannot_be_added_are_refused(pair: list[Path], tmp_path: Path) -> None:
    lokr = foreign.lokr().write(tmp_path / "lokr.safetensors")
    with pytest.raises(UserError, match="is a LoKr; give plain LoRAs"):
        combine.merge([pair[0], lokr], [1.0, 1.0])
    name = "diffusion_model.layers.0.attention.to_q"
    small = {f"{name}.lora_A.weight": torch.ones(2, 5), f"{name}.lora_B.weight": torch.ones(5, 2)}
    with pytest.raises(UserError, match="belong to different models"):
        combine.merge([pair[0], Foreign(small).write(tmp_path / "small.safetensors")], [1.0, 1.0])
    with pytest.raises(UserError, match="1 strength for 2 files"):
        combine.merge(pair, [1.0])


def test_the_command_states_the_error(pair: list[Path], tmp_path: Path) -> None:
    files = [str(path) for path in pair]
    out = tmp_path / "both.safetensors"
    result = call("merge", *files, "--strengths", "1,0.8", "--rank", "2", "--output", str(out))
    assert result.exit_code == 0 and "rank 2, " in said(result) and "% away from the exact sum" in said(result)
    assert call("merge", *files, "--output", str(out)).exit_code == 1
    for arguments, words in ((("--strengths", "1;2"), "with commas"), (("--strengths", "1"), "1 strength for 2")):
        wrong = call("merge", *files, *arguments, "--output", str(tmp_path / "x.safetensors"))
        assert wrong.exit_code == 1 and words in said(wrong)
    assert "is only one file" in said(call("merge", files[0], "--output", str(tmp_path / "x.safetensors")))
