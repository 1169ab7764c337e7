"""Tiny bases with the config files of Z-Image-Turbo: every class and field as published, only the sizes shrunk.

``fixtures/z-image-turbo`` holds the files that the model's authors publish (Apache 2.0), byte for byte.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import build_tokenizer

FIXTURES = Path(__file__).parent / "fixtures" / "z-image-turbo"
REPO = "tiny/Z-Image"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

REAL_CONFIG = json.loads((FIXTURES / "transformer" / "config.json").read_text())
"""The published architecture of Z-Image-Turbo."""

TRANSFORMER = {"axes_dims": [8, 12, 12], "cap_feat_dim": 32, "dim": 64, "n_heads": 2, "n_kv_heads": 2, "n_layers": 2}
VAE = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 8}
TEXT_ENCODER = {
    "head_dim": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_window_layers": 3,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
}


def config(name: str) -> dict[str, Any]:
    """A published JSON file."""
    return json.loads((FIXTURES / name).read_text())


def build(folder: Path) -> Path:
    """A base in ``folder``: published JSON with the sizes above, random weights in the published layout."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(3)
    shutil.copytree(FIXTURES, folder)
    transformer = ZImageTransformer2DModel.from_config({**config("transformer/config.json"), **TRANSFORMER})
    torch.nn.init.normal_(transformer.x_pad_token, std=0.5)
    torch.nn.init.normal_(transformer.cap_pad_token, std=0.5)
    transformer.save_pretrained(folder / "transformer", max_shard_size="700KB")  # in shards, as published
    AutoencoderKL.from_config({**config("vae/config.json"), **VAE}).save_pretrained(folder / "vae")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = config("tokenizer/tokenizer_config.json")["chat_template"]
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    sizes = {**TEXT_ENCODER, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2}
    # The published weights are those of the language model, whose names have one prefix more than Qwen3Model's.
    language = Qwen3ForCausalLM(Qwen3Config.from_dict({**config("text_encoder/config.json"), **sizes}))
    language.to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    shutil.rmtree(folder / "text_encoder" / "generation_config.json", ignore_errors=True)
    for name, changes in (("transformer", TRANSFORMER), ("vae", VAE), ("text_encoder", sizes)):
        # The published spelling, not the one that today's libraries write.
        path = f"{name}/config.json"
        (folder / path).write_text(json.dumps({**config(path), **changes}, indent=2))
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a component's shards."""
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def comfy(tensors: dict[str, torch.Tensor], prefix: str = "model.diffusion_model.") -> dict[str, torch.Tensor]:
    """Transformer tensors by the names of the model's authors, which ComfyUI keeps."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if ".attention.to_k." in name or ".attention.to_v." in name:
            continue
        if ".attention.to_q." in name:
            parts = [tensors[name.replace("to_q", role)] for role in ("to_q", "to_k", "to_v")]
            name, tensor = name.replace("to_q", "qkv"), torch.cat(parts)
        for ours, theirs in (
            ("attention.to_out.0.", "attention.out."),
            ("attention.norm_q.", "attention.q_norm."),
            ("attention.norm_k.", "attention.k_norm."),
            ("all_x_embedder.2-1.", "x_embedder."),
            ("all_final_layer.2-1.", "final_layer."),
        ):
            name = name.replace(ours, theirs)
        renamed[prefix + name] = tensor.contiguous()
    return {**renamed, f"{prefix}norm_final.weight": torch.ones(1)}


def adapter(folder: Path, path: Path) -> Path:
    """A training adapter for the base in ``folder``, keys as ai-toolkit writes them."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, tensor in state(folder / "transformer").items():
        if name.startswith("layers.") and ".attention.to_" in name:
            stem = f"diffusion_model.{name.removesuffix('.weight')}"
            rows, columns = tensor.shape
            tensors[f"{stem}.lora_A.weight"] = torch.randn(4, columns, generator=generator) * 0.1
            tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, path, {"format": "pt"})
    return path


def fill_cache(cache: Path, folder: Path, repo: str = REPO, commit: str = COMMIT) -> Path:
    """``folder`` as the client library keeps it after a download: blobs by digest, links by commit, a ref; the
    snapshot's folder."""
    from charloom.core.canonical import file_digest

    home = cache / f"models--{repo.replace('/', '--')}"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = home / "blobs" / file_digest(path)
        link = home / "snapshots" / commit / path.relative_to(folder)
        for one in (blob, link):
            one.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            shutil.copyfile(path, blob)
        link.symlink_to(blob)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    return home / "snapshots" / commit
