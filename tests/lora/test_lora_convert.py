"""Conversions keep the change of every weight, whatever the layout, and `verify` suggests the right one."""

from __future__ import annotations

import json
from pathlib import Path

import lora_layouts as foreign
import pytest
import torch
from cli_helpers import call, said
from lora_layouts import FILES, RANK, Foreign

from charloom.core.errors import UserError
from charloom.core.tensors import read_safetensors, write_safetensors
from charloom.lora import convert, layouts, loaders
from charloom.lora.files import AdapterFile, read_adapter
from charloom.lora.fused import split
from charloom.lora.verify import verify

SOURCES = [name for name, make in FILES.items()
           if not any("hada_" in key or key.endswith(".diff") or key == "odd.key" or key.startswith("bundle_emb")
                      for key in make().tensors)]  # fmt: skip
TARGETS = [
    (target, fused) for target in convert.TARGETS for fused in ((False, True) if target == "kohya" else (False,))
]


def write(path: Path, made: convert.Converted) -> Path:
    write_safetensors(path, made.tensors, made.metadata)
    return path


def changes(path: Path) -> dict[str, torch.Tensor]:
    """The change of each weight by diffusers' name: read with the table of names alone, not by the code under test."""
    tensors, metadata = read_safetensors(path)
    contents = layouts.read(tensors)
    assert not contents.unknown
    adapter = AdapterFile(path, contents.modules, metadata)
    out = {}
    for module in contents.modules:
        delta = adapter.delta(module)
        if module.endswith("attention.qkv"):
            for part, rows in zip(("to_q", "to_k", "to_v"), delta.split(len(delta) // 3), strict=True):
                out[module.replace("qkv", part)] = rows
        else:
            out[module.replace("attention.out", "attention.to_out.0")] = delta
    return out


@pytest.mark.parametrize("name", SOURCES)
def test_every_conversion_keeps_the_change_of_every_weight(name: str, tmp_path: Path) -> None:
    made = FILES[name]()
    source = made.write(tmp_path / "in.safetensors")
    wanted = {module: foreign.expected(module, made) for module in changes(source)}
    for index, (target, fused) in enumerate(TARGETS):
        path = write(tmp_path / f"{index}.safetensors", convert.convert(source, target, fused=fused))
        found = changes(path)
        # Fusing gives rows of zeros to parts that had no adapter.
        assert set(found) >= set(wanted) and not any(found[module].any() for module in set(found) - set(wanted))
        for module, delta in wanted.items():
            assert torch.allclose(found[module], delta, rtol=1e-6, atol=1e-6 * float(delta.abs().max())), (
                target,
                module,
            )


THERE_AND_BACK = (
    "ai-toolkit",
    "musubi-tuner",
    "musubi-tuner for ComfyUI",
    "SimpleTuner",
    "native",
    "DiffSynth, alpha 1",
)


@pytest.mark.parametrize("name", THERE_AND_BACK)
def test_there_and_back_again_is_the_same_change(name: str, tmp_path: Path) -> None:
    made = FILES[name]()
    source = made.write(tmp_path / "in.safetensors")
    modules = list(changes(source))
    for index, (there, fused) in enumerate(TARGETS):
        one = write(tmp_path / f"{index}a.safetensors", convert.convert(source, there, fused=fused))
        for back, again in TARGETS:
            found = changes(write(tmp_path / f"{index}b.safetensors", convert.convert(one, back, fused=again)))
            for module in modules:
                wanted = foreign.expected(module, made)
                assert torch.allclose(found[module], wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


def test_names_and_ranks_are_those_of_the_target(tmp_path: Path) -> None:
    source = foreign.ai_toolkit().write(tmp_path / "in.safetensors")
    stem = "layers.0.attention"
    wanted = {
        "charloom": (f"diffusion_model.{stem}.to_q.lora_A.weight", RANK, True, "diffusion_model"),
        "diffusers": (f"transformer.{stem}.to_q.lora_A.weight", RANK, False, "transformer"),
        "comfyui": (f"diffusion_model.{stem}.qkv.lora_A.weight", 3 * RANK, False, "native"),
        "kohya": ("lora_unet_layers_0_attention_to_q.lora_down.weight", RANK, True, "flat"),
    }
    for target, (key, rank, alpha, layout) in wanted.items():
        tensors = convert.convert(source, target).tensors
        assert len(tensors[key]) == rank, target
        assert any(name.endswith(".alpha") for name in tensors) is alpha
        assert layouts.read(tensors).layout == layout


def test_factors_without_a_scale_are_not_touched(tmp_path: Path) -> None:
    tensors = {key: t.bfloat16() for key, t in foreign.ai_toolkit().tensors.items()}
    source = Foreign(tensors).write(tmp_path / "in.safetensors")
    made = convert.convert(source, "diffusers").tensors
    assert {key.replace("transformer.", "diffusion_model."): t.dtype for key, t in made.items()} == {
        key: torch.bfloat16 for key in tensors
    }
    assert all(torch.equal(t, tensors[key.replace("transformer.", "diffusion_model.")]) for key, t in made.items())
    # Halves are exact in bf16, thirds are not.
    assert convert.scaled(torch.ones(1).bfloat16(), 0.5).dtype == torch.bfloat16
    assert convert.scaled(torch.ones(1).bfloat16() * 0.3, 1 / 3).dtype == torch.float32


def test_a_block_diagonal_fusion_is_undone_at_its_rank(tmp_path: Path) -> None:
    source = foreign.musubi_for_comfyui().write(tmp_path / "in.safetensors")
    made = convert.convert(source, "charloom").tensors
    assert {len(t) for key, t in made.items() if key.endswith("lora_A.weight")} == {RANK}


def test_parts_that_share_a_factor_keep_their_rank(tmp_path: Path) -> None:
    source = foreign.native().write(tmp_path / "in.safetensors")
    tensors, _ = read_safetensors(source)
    for key in [key for key in tensors if "qkv.lora_B" in key]:
        tensors[key] = torch.randn(tensors[key].shape)
    source = Foreign(tensors).write(tmp_path / "shared.safetensors")
    apart = write(tmp_path / "apart.safetensors", convert.convert(source, "charloom"))
    again = convert.convert(apart, "comfyui").tensors
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("target", ["charloom", "diffusers", "comfyui", "kohya"])
def test_a_strength_is_folded_into_the_change(target: str, tmp_path: Path) -> None:
    source = foreign.musubi().write(tmp_path / "in.safetensors")
    made = changes(write(tmp_path / "out.safetensors", convert.convert(source, target, strength=0.8)))
    for module, delta in changes(source).items():
        assert torch.allclose(made[module], 0.8 * delta, rtol=1e-6, atol=1e-7)


def test_an_alpha_in_the_header_alone_has_the_effect_that_diffusers_gives_it_and_is_named(tmp_path: Path) -> None:
    source = foreign.simpletuner().write(tmp_path / "in.safetensors")
    made = convert.convert(source, "comfyui")
    assert "lora_adapter_metadata" not in made.metadata
    assert any("header only, 2 times the rank" in note for note in made.notes)


def test_alphas_of_single_modules_are_read_from_the_header(tmp_path: Path) -> None:
    made = foreign.diffusers_script()
    config = json.loads(made.metadata["lora_adapter_metadata"])
    config["transformer.alpha_pattern"] = {"layers.1.attention.to_k": 3 * RANK, "to_q": RANK / 2}
    header = {"lora_adapter_metadata": json.dumps(config)}
    found = changes(write(tmp_path / "x.safetensors", convert.convert(
        Foreign(made.tensors, header).write(tmp_path / "in.safetensors"), "charloom")))  # fmt: skip
    for module, scale in (("0.attention.to_q", 0.5), ("1.attention.to_k", 3.0), ("0.attention.to_k", 1.0)):
        name = f"layers.{module}"
        assert torch.allclose(found[name], foreign.expected(name, made) * scale, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["OneTrainer DoRA", "DoRA, alpha", "DoRA of PEFT", "DoRA, magnitude"])
def test_magnitudes_of_a_dora_go_along(name: str, tmp_path: Path) -> None:
    source = FILES[name]().write(tmp_path / "in.safetensors")
    plain = convert.convert(source, "diffusers").tensors
    column = convert.convert(source, "charloom").tensors
    together = convert.convert(source, "comfyui").tensors
    for module in foreign.PLAIN:
        rows = foreign.shape(module)[0]
        assert plain[f"transformer.{module}.lora_magnitude_vector"].shape == (rows,)
        assert column[f"diffusion_model.{module}.dora_scale"].shape == (rows, 1)
    q = plain["transformer.layers.0.attention.to_q.lora_magnitude_vector"]
    assert torch.equal(together["diffusion_model.layers.0.attention.qkv.dora_scale"][: len(q), 0], q)


def test_a_lokr_on_fused_rows_is_cut_where_its_first_factor_allows(tmp_path: Path) -> None:
    def adapter(rows: int) -> AdapterFile:
        parts = {"lokr_w1": torch.randn(rows, 2), "lokr_w2": torch.randn(8, 4)}
        return AdapterFile(Path("x"), {"layers.0.attention.qkv": parts})

    whole = adapter(6)
    cut = split(whole)
    three = [cut[f"layers.0.attention.{part}"] for part in ("to_q", "to_k", "to_v")]
    stacked = torch.cat([torch.kron(parts["lokr_w1"], parts["lokr_w2"]) for parts in three])
    assert torch.equal(stacked, whole.delta("layers.0.attention.qkv"))
    with pytest.raises(UserError, match="cannot be cut into three"):
        split(adapter(4))


MISTAKES = {
    "LoHa": ("LoHa", {}, "which cannot be converted"),
    "a key of nobody": ("with a key of nobody", {}, "odd.key; remove them first"),
    "a DoRA at a strength": ("DoRA", {"strength": 0.5}, "cannot be folded in without the base"),
    "strength 0": ("ai-toolkit", {"strength": 0.0}, "leaves nothing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_converted_is_one_line(mistake: str, tmp_path: Path) -> None:
    name, options, words = MISTAKES[mistake]
    source = FILES[name]().write(tmp_path / "in.safetensors")
    with pytest.raises(UserError, match=words) as error:
        convert.convert(source, "charloom", **options)
    assert "\n" not in str(error.value)


def test_too_large_for_fp16_is_an_error(tmp_path: Path) -> None:
    tensors = {key: t * 1e7 for key, t in foreign.ai_toolkit().tensors.items()}
    source = Foreign(tensors).write(tmp_path / "in.safetensors")
    with pytest.raises(UserError, match="too large for fp16"):
        convert.convert(source, "charloom", dtype=torch.float16)


def test_the_command_writes_a_file_that_passes_and_overwrites_none(tmp_path: Path) -> None:
    source = foreign.musubi().write(tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    result = call("convert", str(source), str(out), "--to", "charloom")
    assert result.exit_code == 0, said(result)
    assert "14 modules" in said(result)
    assert verify(out).ok and read_adapter(out).modules
    again = call("convert", str(source), str(out), "--to", "charloom")
    assert again.exit_code == 1 and "is not overwritten" in said(again)
    for arguments, words in (
        ((str(source), str(tmp_path / "x.bin"), "--to", "charloom"), ".safetensors"),
        ((str(tmp_path / "none.safetensors"), str(tmp_path / "x.safetensors"), "--to", "charloom"), "no such file"),
        ((str(source), str(tmp_path / "x.safetensors"), "--to", "flux"), "charloom, diffusers, comfyui, kohya"),
    ):
        wrong = call("convert", *arguments)
        assert wrong.exit_code == 1 and words in said(wrong) and said(wrong).count("\n") == 1
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:3000])
    wrong = call("convert", str(tmp_path / "cut.safetensors"), str(tmp_path / "x.safetensors"), "--to", "charloom")
    assert "it is cut off" in said(wrong) and not (tmp_path / "x.safetensors").exists()


def test_a_converted_file_of_ours_is_not_asked_for_our_layout(tmp_path: Path) -> None:
    header = {"charloom.provenance": "{}", "ss_network_module": "charloom.lora", "modelspec.title": "Mara"}
    source = Foreign(FILES["charloom"]().tensors, header).write(tmp_path / "in.safetensors")
    for target in convert.TARGETS:
        made = convert.convert(source, target)
        assert made.metadata["modelspec.title"] == "Mara"
        assert not verify(write(tmp_path / f"{target}.safetensors", made)).problems


HELPED = ("musubi-tuner", "PEFT folder", "lora_transformer_, alpha", "native", "SimpleTuner", "OneTrainer kohya",
          "transformer. A/B, alpha", "LoKr transformer., alpha")  # fmt: skip


@pytest.mark.parametrize("name", HELPED)
def test_verify_names_the_conversion_that_helps(name: str, tmp_path: Path) -> None:
    source = FILES[name]().write(tmp_path / "in.safetensors")
    before = verify(source)
    note = next(note for note in before.notes if "charloom convert in.safetensors" in note)
    target = note.split("--to ")[1]
    after = verify(write(tmp_path / "out.safetensors", convert.convert(source, target)))
    whole = {row.loader for row in loaders.newest(after.loaders) if row.result == loaders.WHOLE}
    promised = set(note.removeprefix("for ").split(":")[0].split(" and "))
    assert promised and promised <= whole
    assert not promised & {row.loader for row in loaders.newest(before.loaders) if row.result == loaders.WHOLE}


def test_verify_names_no_conversion_where_none_is_needed(tmp_path: Path) -> None:
    assert "convert" not in str(verify(FILES["charloom"]().write(tmp_path / "x.safetensors")))
