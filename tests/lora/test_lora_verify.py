"""``charloom verify``: the check before shipping, and its verdict on other trainers' files and on broken ones."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from lora_helpers import ship
from lora_layouts import ALL, FILES, Foreign, ai_toolkit, diffsynth, musubi, onetrainer, simpletuner
from typer.testing import CliRunner

from charloom.cli.main import app
from charloom.core.tensors import read_safetensors, write_safetensors
from charloom.lora.files import read_adapter
from charloom.lora.network import Network
from charloom.lora.verify import verify
from charloom.zimage.shapes import KNOWN_BASES, Z_IMAGE_WIDTH, module_shapes, with_original_names

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures/z-image-turbo/transformer/config.json").read_text())
SHAPES = module_shapes({**PUBLISHED, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "cap_feat_dim": 32})
STEM = "diffusion_model.layers.0.attention.to_q"


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify", *arguments])
    return result.exit_code, result.output


# what is shipped


def test_module_shapes_are_those_of_the_model():
    from tiny_models import build_transformer

    model = build_transformer()
    expected = {n: tuple(m.weight.shape) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert SHAPES == expected


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_gate_passes_what_we_ship(tmp_path, kind):
    path = ship(tmp_path / kind, Network(type=kind, rank=4, alpha=2), "bf16")
    report = verify(path, SHAPES, modules=16, own=True)
    assert report.ok, str(report)
    assert report.kind == kind and report.modules == 16 and report.delta_norm > 0 and len(report.sha256) == 64
    assert report.trainer == "charloom" and report.layout == "diffusion_model"
    assert report.rank == (4 if kind != "lokr" else report.rank)
    assert {row.loader for row in report.loaders} >= {"ComfyUI", "diffusers"}


def _spoil(tmp_path, change, **options):
    tensors, header = read_safetensors(ship(tmp_path / "good", Network(rank=4, alpha=4)))
    change(tensors)
    write_safetensors(tmp_path / "bad", tensors, header)
    return verify(tmp_path / "bad", SHAPES, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{STEM}.alpha"), "no alpha in 1 of 16"),
        (lambda t: t.update({f"{STEM}.alpha": torch.tensor(1.0)}), "alpha differs from the rank"),
        (lambda t: t.pop(f"{STEM}.lora_B.weight"), "1 module is incomplete"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith(STEM)], "15 modules instead of 16"),
        (lambda t: t.update({f"{STEM}.lora_B.weight": torch.zeros(64, 4)}), "change nothing"),
        (lambda t: t.update({f"{STEM}.lora_B.weight": torch.full((64, 4), torch.inf)}), "NaN or infinity"),
        (lambda t: t.update({f"{STEM}.lora_B.weight": torch.ones(32, 4)}), r"\(32, 64\), the base has \(64, 64\)"),
        (lambda t: t.update({f"{STEM}.lora_B.weight": torch.ones(64, 3)}), "do not fit each other"),
        (lambda t: t.update({k.replace("to_q", "qkv"): t.pop(k) for k in list(t) if STEM in k}), "as in diffusers"),
        (
            lambda t: t.update({k.replace(".0.", ".9."): t.pop(k) for k in list(t) if STEM in k}),
            "has no module layers.9",
        ),
        (lambda t: t.update({k[16:]: t.pop(k) for k in list(t)}), "do not start with"),
        (lambda t: t.update({"transformer" + k[15:]: t.pop(k) for k in list(t)}), "do not start with"),
        (lambda t: t.update({k.replace("lora_A", "lora_down"): t.pop(k) for k in list(t)}), "not all keys end in"),
        (lambda t: t.update({"transformer" + k[15:]: v for k, v in list(t.items()) if STEM in k}), "twice"),
        (lambda t: t.update({"lora_te_x.lora_down.weight": torch.ones(1, 1)}), "text encoder"),
        (lambda t: t.update({"odd.key": torch.ones(1)}), "1 key is not those of an adapter"),
    ],
)
def test_gate_names_what_is_wrong(tmp_path, change, message):
    # With or without own=True: the header says that the file is ours.
    for options in ({"own": True}, {}):
        report = _spoil(tmp_path, change, modules=16, **options)
        assert not report.ok
        assert any(re.search(message, problem) for problem in report.problems), str(report)


def test_gate_refuses_files_of_others(tmp_path):
    for make in (ai_toolkit, musubi, onetrainer, diffsynth):
        assert verify(make().write(tmp_path / "x")).ok
        assert not verify(tmp_path / "x", own=True).ok


def test_gate_catches_a_loader_that_would_change_the_strength(tmp_path, monkeypatch):
    from diffusers.loaders import lora_conversion_utils as utils

    name = "_convert_non_diffusers_z_image_lora_to_diffusers"
    real = getattr(utils, name)
    monkeypatch.setattr(utils, name, lambda state: {key: tensor * 2 for key, tensor in real(state).items()})
    report = verify(ship(tmp_path / "x", Network(rank=4, alpha=4)), SHAPES)
    assert any("16 modules at another strength" in problem for problem in report.problems)


# files of others


@pytest.mark.parametrize(
    ("name", "trainer", "layout", "kind"),
    [
        ("ai-toolkit", "ai-toolkit", "diffusion_model", "lora"),
        ("musubi-tuner", "musubi-tuner", "flat", "lora"),
        ("musubi-tuner for ComfyUI", "musubi-tuner", "flat fused", "lora"),
        ("musubi-tuner LoHa", "musubi-tuner, kohya's sd-scripts or OneTrainer", "flat", "loha"),
        ("SimpleTuner", "SimpleTuner", "transformer", "lora"),
        ("SimpleTuner LyCORIS LoKr", "SimpleTuner or another trainer that uses LyCORIS", "lycoris", "lokr"),
        ("OneTrainer", "OneTrainer", "transformer", "lora"),
        ("OneTrainer kohya", "OneTrainer", "flat", "lora"),
        ("DiffSynth", "DiffSynth-Studio", "bare", "lora"),
        ("PEFT folder", "PEFT", "peft", "lora"),
        ("native", "", "native", "lora"),
        ("DoRA", "", "diffusion_model", "dora"),
        ("full difference", "", "diffusion_model", "full"),
    ],
)
def test_trainer_layout_and_kind_are_named(tmp_path, name, trainer, layout, kind):
    report = verify(FILES[name]().write(tmp_path / "x"))
    assert (report.trainer, report.layout, report.kind) == (trainer, layout, kind)


def test_files_of_kohya_and_of_diffusers_are_named(tmp_path):
    kohya = Foreign(musubi().tensors, {"ss_network_module": "networks.lora"})
    assert "kohya" in verify(kohya.write(tmp_path / "x")).trainer
    assert "diffusers" in verify(FILES["diffusers script"]().write(tmp_path / "x")).trainer


@pytest.mark.parametrize("name", FILES)
def test_a_file_passes_if_some_loader_takes_it(tmp_path, name):
    """Whatever the file, a line a kind: the longest list here would have had a line for each of its keys."""
    report = verify(FILES[name]().write(tmp_path / "x"))
    assert report.ok == (name not in ("PEFT folder", "lora_transformer_, alpha")), str(report)
    assert len(str(report).splitlines()) < 17
    assert report.ok or "none of the loaders" in report.problems[0]


def test_an_ordinary_file_of_ai_toolkit_passes_and_old_diffusers_is_named(tmp_path):
    report = verify(ai_toolkit().write(tmp_path / "x"))
    assert report.ok
    assert "diffusers 0.37.0 to 0.37.1: refuses" in str(report)
    assert "ComfyUI 0.3.76 to" in str(report)


def test_of_a_dora_no_more_is_said_than_is_so(tmp_path):
    text = str(verify(ship(tmp_path / "x", Network(type="dora", rank=4, alpha=4))))
    assert "12.8 %" in text and "24.6 %" in text and "as a plain LoRA" in text
    assert not re.search(r"(ComfyUI|diffusers).*loads whole", text)


def test_of_a_lokr_every_loader_that_takes_it_is_named(tmp_path):
    text = str(verify(ship(tmp_path / "x", Network(type="lokr", rank=4, alpha=4))))
    for line in ("diffusers 0.42.0 to 0.42.1: loads whole", "SD.Next 2026-11: loads whole", "ComfyUI 0.3.76 to"):
        assert line in text


def test_an_alpha_in_the_header_is_said_and_used(tmp_path):
    foreign = simpletuner()
    path = foreign.write(tmp_path / "x")
    assert "alpha is 2 times the rank and is in the header only" in " ".join(verify(path).notes)
    adapter = read_adapter(path)
    a, b = (foreign.tensors[f"transformer.{ALL[0]}.lora_{factor}.weight"] for factor in "AB")
    torch.testing.assert_close(adapter.delta(ALL[0]), 2 * b @ a)
    # One that equals the rank is nobody's trouble.
    assert not any("header" in note for note in verify(FILES["diffusers script"]().write(tmp_path / "y")).notes)


def _sized(module: str, out: int, columns: int) -> dict[str, torch.Tensor]:
    stem = f"diffusion_model.{module}"
    return {f"{stem}.lora_A.weight": torch.ones(2, columns), f"{stem}.lora_B.weight": torch.ones(out, 2)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (_sized("layers.0.attention.to_q", 3840, 3840), None),
        (_sized("layers.0.attention.qkv", 3 * 3840, 3840), None),
        (_sized("layers.0.attention.to_q", 3840, 3840) | _sized("layers.0.feed_forward.w1", 9999, 3840), "other sizes"),
        (_sized("layers.29.attention.to_q", 3840, 3840) | _sized("layers.30.attention.to_k", 3840, 3840), "layers.30"),
        (_sized("layers.0.attention.to_q", 2304, 2304), "Lumina Image 2.0"),
    ],
)
def test_shapes_are_checked_without_a_base(tmp_path, tensors, message):
    report = verify(Foreign(tensors).write(tmp_path / "x"))
    assert report.ok == (message is None), str(report)
    assert message is None or message in report.problems[0]
    assert not any("were not checked" in note for note in report.notes)


def test_what_is_not_made_for_z_image_says_for_what(tmp_path):
    report = verify(Foreign(_sized("layers.7.attention.to_q", 192, 192)).write(tmp_path / "x"))
    assert report.ok and "made for a width of 192, the miniature" in report.notes[0]
    assert not report.loaders and "other programs cannot load that base" in report.notes[1]
    assert "made for a width of 64, Z-Image has 3840" in verify(ai_toolkit().write(tmp_path / "x")).notes[0]


def test_known_sizes_are_the_published_ones():
    assert module_shapes(KNOWN_BASES[Z_IMAGE_WIDTH][1]) == module_shapes(PUBLISHED)
    miniature = json.loads((ROOT / "resources/bases/paperdoll/transformer/config.json").read_text())
    assert module_shapes(KNOWN_BASES[192][1]) == module_shapes(miniature)
    assert with_original_names(SHAPES)["layers.0.attention.qkv"] == (192, 64)


# files that are broken, or something else


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "a LoRA for FLUX"),
        (["transformer.single_transformer_blocks.3.attn.to_q.lora_A.weight"], "a LoRA for FLUX"),
        (["transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight"], "a LoRA for Qwen-Image"),
        (["lora_unet_input_blocks_8_1_transformer_blocks_9_attn1_to_q.lora_down.weight"], "a LoRA for SDXL"),
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "a LoRA for Stable Diffusion 1, 2 or SDXL"),
        (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a LoRA for Wan"),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"], "text encoder alone"),
        (["model.layers.0.self_attn.q_proj.lora_A.weight"], "a LoRA for a language model"),
        (["layers.0.attention.to_q.weight", "cap_embedder.1.weight"], "a whole model (Z-Image), not a LoRA"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "a whole model (FLUX"),
        (["vae.decoder.conv_in.weight", "vae.decoder.conv_in.bias"], "a whole model"),
        (["emb_params"], "a text embedding"),
        (["diffusion_model.layers.0.attention.to_q.oft_blocks"], "an adapter for Z-Image of a kind that is not known"),
        (["lora_unet_layers_0_attention_to_q.oft_blocks"], "an adapter for Z-Image of a kind that is not known"),
        ([], "has no tensors"),
    ],
)
def test_what_is_no_adapter_for_z_image_is_named(tmp_path, keys, message):
    report = verify(Foreign({key: torch.ones(2, 2) for key in keys}).write(tmp_path / "x"))
    assert len(report.problems) == 1 and message in report.problems[0], report.problems


def _truncated() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"no", "get it again"),
        (_truncated(), "cut off"),
        (_truncated()[:20], "cut off"),
        (b"PK\x03\x04" + b"\0" * 40, "pickle"),
        (b"\x80\x02}q\x00." + b"\0" * 40, "pickle"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"GGUF\x03\0\0\0" + b"\0" * 40, "GGUF"),
    ],
)
def test_unreadable_files_say_what_they_are(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    status, text = said(str(path))
    assert status == 1 and message in text and "FAILED" in text
    assert len(text.strip().splitlines()) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"lora_A.weight": torch.ones(4)},
        {"lora_A.weight": torch.ones(0, 64), "lora_B.weight": torch.ones(64, 0)},
        {"lora_A.weight": torch.full((4, 64), torch.nan)},
        {"lora_A.weight": torch.ones(4, 64, 1, 1)},
        {"alpha": torch.ones(3)},
        {"alpha": torch.tensor(torch.nan)},
        {"dora_scale": torch.ones(7, 1)},
        {"lokr_w1": torch.ones(2, 2)},
        {"hada_w1_a": torch.ones(2, 2)},
        {"lora_A.weight": torch.ones(4, 64, dtype=torch.int64)},
        {"lora_A.weight": torch.ones(4, 64, dtype=torch.bool)},
    ],
)
def test_no_file_is_too_odd_to_be_judged(tmp_path, change):
    tensors = ai_toolkit().tensors | {f"{STEM}.{role}": tensor for role, tensor in change.items()}
    path = Foreign(tensors).write(tmp_path / "x.safetensors")
    status, text = said(str(path), "--json")
    record = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert status == (0 if record["ok"] else 1)
    assert not record["ok"]


def test_the_record_for_programs(tmp_path):
    path = ship(tmp_path / "x.safetensors", Network(rank=4, alpha=2))
    status, text = said(str(path), "--json")
    record = json.loads(text)
    assert status == 0 and record["ok"] and record["problems"] == []
    assert (record["trainer"], record["layout"], record["kind"]) == ("charloom", "diffusion_model", "lora")
    assert record["rank"] == [4, 4] and record["alpha"] == [4.0, 4.0] and record["modules"] == 16
    assert {"loader", "versions", "result", "note", "evidence"} == set(record["loaders"][0])


def test_a_folder_or_nothing_is_one_line(tmp_path):
    status, text = said(str(tmp_path / "absent.safetensors"))
    assert status == 1 and "there is no such file" in text
    ai_toolkit().write(tmp_path / "adapter_model.safetensors")
    status, text = said(str(tmp_path))
    assert status == 1 and "name a file in it, e.g." in text and "adapter_model.safetensors" in text
