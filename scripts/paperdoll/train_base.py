"""Train text encoder and transformer of the miniature together by flow matching on drawn pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from clock import Budget
from torch import Tensor

from charloom.zimage.forward import forward_masked, padded_length, prepare

# (resolution, share of steps, batch): about the same number of tokens in each
RESOLUTIONS = ((256, 0.56, 256), (192, 0.22, 384), (128, 0.22, 640))
LENGTHS = (32, 64, 96)
RATE = 1.2e-3
TRAIN_SHIFT = 2.0
EMPTY_TOKENS = 8


class Captions:
    """Caption token ids on the device, indexed by padded length."""

    def __init__(self, tokens: np.ndarray, device: torch.device):
        flat = tokens.reshape(-1, tokens.shape[-1])
        self.variants = tokens.shape[1]
        self.lengths = torch.from_numpy(flat[:, 0].astype(np.int64)).to(device)
        self.ids = torch.from_numpy(flat[:, 1:].astype(np.int64)).to(device)
        padded = np.array([padded_length(int(n)) for n in flat[:, 0]])
        self.rows = {n: torch.from_numpy(np.flatnonzero(padded == n)).to(device) for n in LENGTHS}
        self.shares = np.array([len(self.rows[n]) for n in LENGTHS], dtype=float)
        # long captions are rare in the world and must still be seen often enough
        self.shares = np.maximum(self.shares / self.shares.sum(), (0.1, 0.1, 0.06))
        self.shares /= self.shares.sum()

    def batch(self, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Picture indices (B,), ids (B, length), padding mask (B, length, 1)."""
        rows = self.rows[length]
        picked = rows[torch.randint(len(rows), (count,), generator=generator, device=rows.device)]
        ids = self.ids[picked, :length]
        mask = torch.arange(length, device=rows.device) >= self.lengths[picked][:, None]
        return picked // self.variants, ids, mask[..., None]


def text_states(encoder, ids: Tensor) -> Tensor:
    """Output of the last layer but one, as ``hidden_states[-2]``; causal, so right padding changes no real row."""
    return encoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-2]


class Trainer:
    """Holds the two models, their optimiser and their moving average; :meth:`run` goes on where it stopped."""

    def __init__(self, transformer, encoder, device: torch.device, seed: int = 7):
        self.device = device
        self.transformer = prepare(transformer).to(device)
        self.encoder = encoder.to(device)
        processor = self.transformer.layers[0].attention.processor
        for block in (*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers):
            block.attention.processor = processor
        # the encoder's last layer and norm are never read
        self.parameters = [p for p in (*self.transformer.parameters(), *self.encoder.parameters()) if p.requires_grad]
        decay = [p for p in self.parameters if p.ndim >= 2]
        plain = [p for p in self.parameters if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.03}, {"params": plain, "weight_decay": 0.0}],
            lr=RATE,
            betas=(0.9, 0.98),
            fused=device.type == "cuda",
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.generator = torch.Generator(device).manual_seed(seed)
        self.choice = np.random.default_rng(seed)
        self.step = 0
        self.spent = 0.0

    def state(self) -> dict:
        return {
            "parameters": [p.detach().cpu() for p in self.parameters],
            "average": [p.cpu() for p in self.average],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.spent,
        }

    def load(self, state: dict) -> None:
        with torch.no_grad():
            for own, stored in zip(self.parameters, state["parameters"], strict=True):
                own.copy_(stored)
            for own, stored in zip(self.average, state["average"], strict=True):
                own.copy_(stored)
        if state.get("optimizer"):
            self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]
        self.generator.manual_seed(1000 + self.step)
        self.choice = np.random.default_rng(1000 + self.step)

    def compile(self) -> None:
        """Compile the blocks once for all sequence lengths."""
        for block in (*self.transformer.noise_refiner, *self.transformer.context_refiner, *self.transformer.layers):
            block.compile(dynamic=True)

    def loss(self, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Flow-matching loss of normalised ``latents``, fp32 scalar."""
        sigma = torch.sigmoid(torch.randn(len(latents), generator=self.generator, device=self.device))
        sigma = TRAIN_SHIFT * sigma / (1 + (TRAIN_SHIFT - 1) * sigma)
        noise = torch.randn(latents.shape, generator=self.generator, device=self.device)
        level = sigma[:, None, None, None]
        x = (1 - level) * latents + level * noise
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            out = forward_masked(self.transformer, x, 1 - sigma, text_states(self.encoder, ids), mask)
        return F.mse_loss(-out.float(), noise - latents)

    def run(self, latents: dict[int, Tensor], captions: Captions, budget: Budget, log, scale: float = 1.0) -> None:
        """Train until the budget is spent; ``latents`` are normalised, one table per resolution."""
        self.transformer.train()
        shares = np.array([share for _, share, _ in RESOLUTIONS])
        while not budget.over:
            for group in self.optimizer.param_groups:
                group["lr"] = budget.rate(RATE, self.step, warmup=500)
            size, _, count = RESOLUTIONS[self.choice.choice(len(RESOLUTIONS), p=shares)]
            length = int(self.choice.choice(LENGTHS, p=captions.shares))
            index, ids, mask = captions.batch(max(2, int(count * scale)), length, self.generator)
            loss = self.loss(latents[size][index].float(), ids, mask)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
            self.optimizer.step()
            keep = min(0.9995, (self.step + 1) / (self.step + 20))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - keep)
            if self.step % 250 == 0:
                value = loss.item()
                if not np.isfinite(value):
                    raise FloatingPointError(f"loss {value} at step {self.step}")
                log(f"base step {self.step} {size}px len {length} loss {value:.4f} t {budget.spent:.0f}s")
            self.step += 1
        self.spent = budget.spent

    def use_average(self) -> None:
        """Replace the weights by their moving average (for export only)."""
        with torch.no_grad():
            for own, smooth in zip(self.parameters, self.average, strict=True):
                own.copy_(smooth)
