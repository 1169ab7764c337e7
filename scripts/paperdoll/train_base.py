"""Train text encoder and transformer of the miniature together by flow matching on drawn pictures."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from clock import Budget
from torch import Tensor
from train_vae import encode_all

from charloom.zimage.forward import forward_masked, padded_length, prepare

# (resolution, share of steps, batch): about the same number of tokens in each
RESOLUTIONS = ((256, 0.56, 256), (192, 0.22, 384), (128, 0.22, 640))
LENGTHS = (32, 64, 96)
SHAPES = {256: LENGTHS, 192: (32, 64), 128: (32, 64)}
"""Padded caption lengths seen at each resolution; long captions are rare and cost a graph each."""
RATE = 1.2e-3
TRAIN_SHIFT = 2.0
AVERAGING = 1e-3


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


@torch.no_grad()
def encode(vae, pictures: np.ndarray, device: torch.device, batch: int = 512) -> dict[int, Tensor]:
    """Normalised latents of all pictures at every resolution, bf16 on the device; each picture is read once."""
    sizes = [size for size, _, _ in RESOLUTIONS]
    out = {
        size: torch.empty(len(pictures), 16, size // 8, size // 8, dtype=torch.bfloat16, device=device)
        for size in sizes
    }
    for start in range(0, len(pictures), batch):
        part = torch.from_numpy(pictures[start : start + batch].copy()).to(device)
        for size in sizes:
            latents = encode_all(vae, part, size, device, batch // 2)
            out[size][start : start + len(part)] = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return out


def text_states(encoder, ids: Tensor) -> Tensor:
    """Output of the last layer but one, as ``hidden_states[-2]``; causal, so right padding changes no real row.

    The layers are called one by one: the model's own forward builds masks in ways that no CUDA graph records.
    """
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    hidden = encoder.embed_tokens(ids)
    rotations = encoder.rotary_emb(hidden, positions)
    for layer in encoder.layers[:-1]:
        out = layer(hidden, attention_mask=None, position_ids=positions, position_embeddings=rotations)
        hidden = out[0] if isinstance(out, tuple) else out
    return hidden


class Trainer:
    """Holds the two models, their optimiser and their moving average; :meth:`run` goes on where it stopped."""

    def __init__(self, transformer, encoder, device: torch.device, seed: int = 7, rate: float = RATE):
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
        cuda = device.type == "cuda"
        self.peak = rate
        self.rate = torch.tensor(rate, device=device)
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": 0.03}, {"params": plain, "weight_decay": 0.0}],
            lr=self.rate if cuda else rate,
            betas=(0.9, 0.98),
            fused=cuda,
            capturable=cuda,
        )
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.average = [p.detach().clone() for p in self.parameters]
        self.averaging = False
        self.generator = torch.Generator(device).manual_seed(seed)
        self.choice = np.random.default_rng(seed)
        self.graphs: dict[tuple[int, int], tuple] = {}
        self.step = 0
        self.spent = 0.0

    def state(self) -> dict:
        return {
            "parameters": [p.detach().cpu() for p in self.parameters],
            "average": [p.cpu() for p in self.average],
            "averaging": self.averaging,
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
        self.optimizer.load_state_dict(state["optimizer"])
        if self.device.type == "cuda":
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
        self.averaging, self.step, self.spent = state["averaging"], state["step"], state["spent"]
        self.generator.manual_seed(1000 + self.step)
        self.choice = np.random.default_rng(1000 + self.step)

    def compile(self) -> None:
        """Compile the blocks once for all sequence lengths."""
        torch._dynamo.config.recompile_limit = 64
        for block in (*self.transformer.noise_refiner, *self.transformer.context_refiner, *self.transformer.layers):
            block.compile(dynamic=True)

    def loss(self, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Flow-matching loss of normalised ``latents``, fp32 scalar; noise and sigma from the default generator."""
        sigma = torch.sigmoid(torch.randn(len(latents), device=self.device))
        sigma = TRAIN_SHIFT * sigma / (1 + (TRAIN_SHIFT - 1) * sigma)
        noise = torch.randn(latents.shape, device=self.device)
        level = sigma[:, None, None, None]
        x = (1 - level) * latents + level * noise
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cuda, cache_enabled=False):
            out = forward_masked(self.transformer, x, 1 - sigma, text_states(self.encoder, ids), mask)
        return F.mse_loss(-out.float(), noise - latents)

    def update(self, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """One optimiser update; returns the loss."""
        torch._foreach_zero_([p.grad for p in self.parameters])
        loss = self.loss(latents, ids, mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], AVERAGING)
        return loss.detach()

    def capture(self, scale: float, log) -> None:
        """Record the whole update as one CUDA graph per shape. Weights and optimiser are as before afterwards."""
        before = [p.detach().clone() for p in self.parameters]
        self.rate.zero_()
        pool = torch.cuda.graph_pool_handle()
        for size, _, count in RESOLUTIONS:
            for length in SHAPES[size]:
                n = max(2, int(count * scale))
                inputs = (
                    torch.randn(n, 16, size // 8, size // 8, device=self.device),
                    torch.ones(n, length, dtype=torch.long, device=self.device),
                    torch.zeros(n, length, 1, dtype=torch.bool, device=self.device),
                )
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(2):
                        self.update(*inputs)
                torch.cuda.current_stream().wait_stream(side)
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                    loss = self.update(*inputs)
                self.graphs[size, length] = (graph, inputs, loss)
                log(f"base: captured {size}px with {length} caption tokens")
        with torch.no_grad():
            for parameter, stored in zip(self.parameters, before, strict=True):
                parameter.copy_(stored)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def run(self, latents: dict[int, Tensor], captions: Captions, budget: Budget, log, scale: float = 1.0) -> None:
        """Train until the budget is spent; ``latents`` are normalised, one table per resolution."""
        self.transformer.train()
        shares = np.array([share for _, share, _ in RESOLUTIONS])
        while not budget.over:
            rate = budget.rate(self.peak, self.step, warmup=500)
            self.rate.fill_(rate)
            if self.device.type != "cuda":
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
            if not self.averaging and budget.progress > 0.4:
                torch._foreach_copy_(self.average, [p.detach() for p in self.parameters])
                self.averaging = True
            size, _, count = RESOLUTIONS[self.choice.choice(len(RESOLUTIONS), p=shares)]
            lengths = SHAPES[size]
            weights = captions.shares[: len(lengths)]
            length = int(self.choice.choice(lengths, p=weights / weights.sum()))
            index, ids, mask = captions.batch(max(2, int(count * scale)), length, self.generator)
            if (size, length) in self.graphs:
                graph, inputs, loss = self.graphs[size, length]
                inputs[0].copy_(latents[size][index])
                inputs[1].copy_(ids)
                inputs[2].copy_(mask)
                graph.replay()
            else:
                loss = self.update(latents[size][index].float(), ids, mask)
            if self.step % 500 == 0:
                value = loss.item()
                if not np.isfinite(value):
                    raise FloatingPointError(f"loss {value} at step {self.step}")
                log(f"base step {self.step} {size}px len {length} loss {value:.4f} t {budget.spent:.0f}s")
            self.step += 1
        self.spent = budget.spent

    @contextlib.contextmanager
    def averaged(self):
        """The moving average in place of the weights, for as long as the block lasts."""
        kept = [p.detach().clone() for p in self.parameters]
        self.use_average()
        yield
        with torch.no_grad():
            for own, stored in zip(self.parameters, kept, strict=True):
                own.copy_(stored)

    def use_average(self) -> None:
        """Replace the weights by their moving average, once there is one."""
        if not self.averaging:
            return
        with torch.no_grad():
            for own, smooth in zip(self.parameters, self.average, strict=True):
                own.copy_(smooth)
