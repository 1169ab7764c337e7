"""Train text encoder and transformer of the miniature together by flow matching on drawn pictures."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import torch
import torch.nn.functional as F
from clock import Budget
from torch import Tensor
from train_vae import encode_all

from charloom.paperdoll import attributes
from charloom.zimage import flow
from charloom.zimage.forward import forward, padded_length, prepare
from charloom.zimage.text import token_ids

# (resolution, share of steps, batch): about the same number of tokens in each
RESOLUTIONS = ((256, 0.56, 256), (192, 0.22, 384), (128, 0.22, 640))
LENGTHS = (32, 64, 96)
SHAPES = {256: LENGTHS, 192: (32, 64), 128: (32, 64)}
"""Padded caption lengths seen at each resolution; long captions are rare and cost a graph each."""
RATE = 1.2e-3
AVERAGING = 1e-3
ON_SCHEDULE = 0.5
"""Share of noise levels drawn from those that an 8-step sampler visits; the others are logit-normal."""
BLANK = 0.1
"""Share of captions that are replaced by the empty prompt."""
GUIDANCE = 0.55
"""Strength w of guidance that is trained into the model, which then acts like guidance 1 / (1 - w)."""
HARD = {"skeptical": 3, "contemplative": 2, "serious": 2, "neutral": 2}
"""Expressions that are learned last, and how many times as often they are shown as the others."""
DETAIL = 4.0
"""How much more a latent cell of the face counts than one of the background."""


class Captions:
    """Caption token ids on the device, indexed by padded length; a picture is drawn as often as ``repeats`` says."""

    def __init__(self, tokens: np.ndarray, repeats: np.ndarray, device: torch.device):
        flat = tokens.reshape(-1, tokens.shape[-1])
        self.variants = tokens.shape[1]
        self.lengths = torch.from_numpy(flat[:, 0].astype(np.int64)).to(device)
        self.ids = torch.from_numpy(flat[:, 1:].astype(np.int64)).to(device)
        padded = np.array([padded_length(int(n)) for n in flat[:, 0]])
        rows = {n: np.flatnonzero(padded == n) for n in LENGTHS}
        self.shares = np.array([len(rows[n]) for n in LENGTHS], dtype=float)
        repeated = {n: np.repeat(found, repeats[found // self.variants]) for n, found in rows.items()}
        self.rows = {n: torch.from_numpy(found).to(device) for n, found in repeated.items()}
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


def hard_cases(labels: dict[str, np.ndarray]) -> np.ndarray:
    """How often each picture is shown: more often where a brow and a corner of the mouth make the expression."""
    often = np.array([HARD.get(name, 1) for name in attributes.EXPRESSION])
    near = labels["tier"] != attributes.TIER.index("full-body")
    return np.where(near & (labels["expression"] >= 0), often[labels["expression"]], 1)


def null_tokens(tokenizer, longest: int) -> tuple[list[int], int]:
    """Ids of the empty prompt in its template, zero-padded to ``longest``, and their number."""
    ids = token_ids(tokenizer, "")
    return ids + [0] * (longest - len(ids)), len(ids)


class DetailWeights:
    """Weight of every latent cell by picture: faces are small and hold most of what a caption asks for."""

    def __init__(self, maps: dict[int, Tensor], rows: Tensor):
        self.maps, self.rows = maps, rows

    def __call__(self, index: Tensor, size: int) -> Tensor:
        """(B, 1, size / 8, size / 8) for pictures ``index`` (B,)."""
        return self.maps[size][self.rows[index]]


def detail_weights(maps: np.ndarray, labels: dict[str, np.ndarray], device: torch.device) -> DetailWeights:
    """Weights from ``world.detail_maps`` (tiers, views, 32, 32), 1 in the mean over all pictures."""
    rows = torch.from_numpy(labels["tier"].astype(np.int64) * maps.shape[1] + labels["view"].astype(np.int64))
    flat = 1.0 + DETAIL * torch.from_numpy(maps).float().flatten(0, 1)[:, None]
    flat /= flat[rows].mean()
    sizes = {size: F.adaptive_avg_pool2d(flat, size // 8).to(device) for size, _, _ in RESOLUTIONS}
    return DetailWeights(sizes, rows.to(device))


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
    """Holds the two models, their optimiser and their moving average; :meth:`run` resumes where it stopped."""

    def __init__(
        self, transformer, encoder, device: torch.device, null: tuple[list[int], int], seed: int = 7, rate: float = RATE
    ):
        self.device = device
        self.null = torch.tensor(null[0], device=device)
        self.null_length = null[1]
        self.levels = torch.tensor(flow.sample_sigmas(8)[:-1], device=device)
        self.guidance = torch.zeros((), device=device)
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

    def sigmas(self, count: int) -> Tensor:
        """Noise levels (count,): half of them near those of the 8-step sampler, half logit-normal."""
        visited = self.levels[torch.randint(len(self.levels), (count,), device=self.device)]
        visited = (visited + 0.02 * torch.randn(count, device=self.device)).clamp(0.02, 1.0)
        spread = torch.sigmoid(torch.randn(count, device=self.device))
        return torch.where(torch.rand(count, device=self.device) < ON_SCHEDULE, visited, spread)

    def loss(self, latents: Tensor, weight: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Flow-matching loss of normalised ``latents``, fp32 scalar; noise and sigma from the default generator.

        The model is guided as Z-Image-Turbo is: it learns to draw with one pass what guidance would need two
        for. Its target is ``v + w (v(caption) - v(nothing))`` with its own predictions (model guidance,
        arXiv 2502.12154).
        """
        count, length = ids.shape
        sigma = self.sigmas(count)
        noise = torch.randn(latents.shape, device=self.device)
        level = sigma[:, None, None, None]
        x = (1 - level) * latents + level * noise
        blank = torch.rand(count, 1, device=self.device) < BLANK
        nothing = torch.arange(length, device=self.device) >= self.null_length
        ids = torch.where(blank, self.null[:length], ids)
        mask = torch.where(blank[..., None], nothing[:, None], mask)
        cuda = self.device.type == "cuda"
        predict = functools.partial(forward, self.transformer)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cuda, cache_enabled=False):
            predicted = flow.velocity(predict, x, sigma, text_states(self.encoder, ids), mask).float()
            with torch.no_grad():
                caps = text_states(self.encoder, self.null[None, :length]).expand(count, -1, -1)
                empty = nothing[None, :, None].expand(count, -1, -1)
                unsaid = flow.velocity(predict, x, sigma, caps, empty).float()
        strength = torch.where(blank[..., None, None], 0.0, self.guidance)
        target = noise - latents + strength * (predicted.detach() - unsaid)
        return ((predicted - target).square() * weight).mean()

    def update(self, latents: Tensor, weight: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """One optimiser update; returns the loss."""
        torch._foreach_zero_([p.grad for p in self.parameters])
        loss = self.loss(latents, weight, ids, mask)
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
                    torch.ones(n, 1, size // 8, size // 8, device=self.device),
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

    def run(
        self,
        latents: dict[int, Tensor],
        weights: DetailWeights,
        captions: Captions,
        budget: Budget,
        log,
        scale: float = 1.0,
    ) -> None:
        """Train until the budget is spent; ``latents`` are normalised, one table per resolution."""
        self.transformer.train()
        shares = np.array([share for _, share, _ in RESOLUTIONS])
        while not budget.over:
            rate = budget.rate(self.peak, self.step, warmup=500)
            self.rate.fill_(rate)
            # The unconditional prediction has to be learned before it can guide.
            self.guidance.fill_(GUIDANCE * min(1.0, budget.progress / 0.15))
            if self.device.type != "cuda":
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
            if not self.averaging and budget.progress > 0.4:
                torch._foreach_copy_(self.average, [p.detach() for p in self.parameters])
                self.averaging = True
            size, _, count = RESOLUTIONS[self.choice.choice(len(RESOLUTIONS), p=shares)]
            lengths = SHAPES[size]
            odds = captions.shares[: len(lengths)]
            length = int(self.choice.choice(lengths, p=odds / odds.sum()))
            index, ids, mask = captions.batch(max(2, int(count * scale)), length, self.generator)
            if (size, length) in self.graphs:
                graph, inputs, loss = self.graphs[size, length]
                values = (latents[size][index], weights(index, size), ids, mask)
                for static, value in zip(inputs, values, strict=True):
                    static.copy_(value)
                graph.replay()
            else:
                loss = self.update(latents[size][index].float(), weights(index, size), ids, mask)
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
