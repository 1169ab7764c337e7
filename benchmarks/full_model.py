"""Makes a full-size Z-Image-Turbo folder of random weights from its config files, on a GPU in half a minute.

    python benchmarks/full_model.py CONFIGS OUTPUT

For measuring speed and memory where the real weights are unavailable; the pictures it draws are noise. CONFIGS is a
folder in the diffusers layout with config files and the tokenizer, OUTPUT gets weights and a training adapter too.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen3Config, Qwen3Model

DEVICE = "cuda"
ADAPTED = ("attention", "feed_forward", "adaLN")


def make(configs: Path, output: Path) -> None:
    """Write the folder."""
    torch.manual_seed(0)
    shutil.copytree(configs, output, dirs_exist_ok=True)

    def config(name: str) -> dict:
        return json.loads((configs / name / "config.json").read_text())

    with torch.device("meta"):
        transformer = ZImageTransformer2DModel.from_config(config("transformer"))
    fill(transformer).save_pretrained(output / "transformer", max_shard_size="5GB")
    factors = {}
    for name, module in transformer.layers.named_modules():
        if isinstance(module, nn.Linear) and any(part in name for part in ADAPTED):
            down, up = torch.randn(16, module.in_features), torch.randn(module.out_features, 16)
            factors[f"diffusion_model.layers.{name}.lora_A.weight"] = down.mul(0.005).to(torch.bfloat16)
            factors[f"diffusion_model.layers.{name}.lora_B.weight"] = up.mul(0.005).to(torch.bfloat16)
    save_file(factors, output / "training_adapter.safetensors")
    del transformer
    encoder_config = config("text_encoder")
    encoder_config.pop("architectures", None)
    with torch.device("meta"):
        encoder = Qwen3Model(Qwen3Config(**encoder_config))
    fill(encoder).embed_tokens.weight.data.mul_(0.05)
    encoder.save_pretrained(output / "text_encoder", max_shard_size="4GB")
    del encoder
    shutil.copy(configs / "text_encoder" / "config.json", output / "text_encoder" / "config.json")
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(config("vae"))
    fill(vae).save_pretrained(output / "vae")


def fill(model: nn.Module) -> nn.Module:
    """Give a model on the meta device random bf16 weights on the GPU, scaled so that activations keep their size."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=DEVICE)
            if parameter.ndim >= 2:
                nn.init.normal_(value, std=0.7 / parameter[0].numel() ** 0.5)
            elif name == "weight":
                value.fill_(1.0)
            else:
                nn.init.normal_(value, std=0.02)
            setattr(module, name, nn.Parameter(value, requires_grad=False))
    return model


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
