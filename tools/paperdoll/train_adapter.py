"""Train the miniature's training adapter: a small LoRA fitted by flow matching to the base's own samples.

As with the adapter for Z-Image-Turbo, it absorbs what plain flow-matching training would do to the
few-step model in any case, so that a character LoRA trained on top of it need not. Written in the
layout of ai-toolkit: ``diffusion_model.<module>.lora_A.weight`` and ``.lora_B.weight``, no alpha.
"""

from __future__ import annotations

from pathlib import Path

import torch
from clock import Budget
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor

RANK = 4
RATE = 3e-4
BATCH = 256


def modules(transformer) -> list[str]:
    """All linear layers of the main blocks, as ai-toolkit adapts them."""
    linear = torch.nn.Linear
    return [name for name, m in transformer.named_modules() if isinstance(m, linear) and name.startswith("layers.")]


def train(trainer, latents: Tensor, ids: Tensor, mask: Tensor, budget: Budget, path: Path, log) -> dict[str, float]:
    """Fit the adapter to ``latents`` (N, 16, 32, 32), the samples of captions ``ids`` (N, L) with ``mask``."""
    transformer = trainer.transformer
    trainer.encoder.requires_grad_(False)
    transformer.requires_grad_(False)
    targets = modules(transformer)
    torch.manual_seed(11)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets), transformer)
    parameters = [p for name, p in transformer.named_parameters() if "lora_" in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-4)
    trainer.guidance.zero_()
    even = torch.ones(1, 1, 1, 1, device=latents.device)
    generator = torch.Generator(latents.device).manual_seed(11)
    step, count = 0, min(BATCH, len(latents))
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(RATE, step, warmup=50)
        picked = torch.randint(len(latents), (count,), generator=generator, device=latents.device)
        loss = trainer.loss(latents[picked], even, ids[picked], mask[picked])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            log(f"adapter step {step} loss {loss.item():.4f}")
        step += 1
    state = get_peft_model_state_dict(transformer)
    tensors = {f"diffusion_model.{key}": value.to(torch.bfloat16).cpu().contiguous() for key, value in state.items()}
    save_file(tensors, path, metadata={"format": "pt", "ss_base_model_version": "zimage"})
    return {"steps": step, "rank": RANK, "modules": len(targets), "samples": len(latents)}
