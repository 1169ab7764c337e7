"""A small network that reads every attribute of a doll, and who it is, from one picture.

The identity embedding is built from the identity attributes that can be read: for each of them the
class probabilities minus the uniform distribution, weighted and laid side by side. Two pictures of
one person point the same way, two strangers are orthogonal on average, and what cannot be seen (eyes
from behind) adds nothing. It is a measuring device: it knows nothing of LoRAs or of prompts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from charloom.paperdoll.attributes import IDENTITY_VALUES, SCENE_VALUES

SIZE = 256
TABLES: dict[str, tuple[str, ...]] = {**IDENTITY_VALUES, **SCENE_VALUES}


class _Block(nn.Module):
    """Depthwise 5x5, two pointwise layers, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.up = nn.Conv2d(width, width * 2, 1)
        self.down = nn.Conv2d(width * 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(self.mix(x)))))


class Probe(nn.Module):
    """Pictures (B, 3, 256, 256) in [-1, 1] to logits per attribute."""

    WIDTHS = (32, 64, 128, 224)
    DEPTHS = (1, 2, 3, 3)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, self.WIDTHS[0], 5, stride=2, padding=2)]
        for stage, (width, depth) in enumerate(zip(self.WIDTHS, self.DEPTHS, strict=True)):
            if stage:
                layers += [nn.GroupNorm(1, self.WIDTHS[stage - 1])]
            layers += [nn.Conv2d(self.WIDTHS[max(stage - 1, 0)], width, 3, stride=2, padding=1)]
            layers += [_Block(width) for _ in range(depth)]
        self.trunk = nn.Sequential(*layers)
        width = self.WIDTHS[-1]
        self.queries = nn.Parameter(torch.randn(len(TABLES), width) * 0.05)
        self.key = nn.Conv2d(width, width, 1)
        self.position = nn.Parameter(torch.zeros(1, width, 8, 8))
        self.heads = nn.ModuleDict({key: nn.Linear(width, len(values)) for key, values in TABLES.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits (B, number of values) per attribute; each attribute attends to its own part of the picture."""
        features = self.trunk(pixels)
        keys = (self.key(features) + self.position).flatten(2)
        weights = torch.softmax(torch.einsum("qc,bcn->bqn", self.queries, keys), dim=-1)
        pooled = torch.einsum("bqn,bcn->bqc", weights, features.flatten(2))
        return {key: head(pooled[:, i]) for i, (key, head) in enumerate(self.heads.items())}

    @torch.no_grad()
    def read(self, images: np.ndarray, batch_size: int = 32) -> dict:
        """Read uint8 pictures (B, H, W, 3) of any size.

        Returns ``{"attributes": {name: probabilities (B, K)}, "identity": unit vectors (B, E)}``, numpy fp32.
        """
        device = self.queries.device
        rows: dict[str, list[Tensor]] = {key: [] for key in TABLES}
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
            pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
            if pixels.shape[-2:] != (SIZE, SIZE):
                pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(-1, 1)
            for key, logits in self(pixels).items():
                rows[key].append(torch.softmax(logits.float(), dim=-1).cpu())
        probabilities = {key: torch.cat(parts) for key, parts in rows.items()}
        return {
            "attributes": {key: value.numpy() for key, value in probabilities.items()},
            "identity": identity_vectors(probabilities).numpy(),
        }

    def save(self, path: Path) -> None:
        """fp16 weights in one safetensors file, with the attribute tables in its header."""
        tensors = {key: value.to(torch.float16).contiguous() for key, value in self.state_dict().items()}
        save_file(tensors, path, metadata={"tables": json.dumps({k: list(v) for k, v in TABLES.items()})})

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Load in fp32 for reading."""
        probe = cls()
        probe.load_state_dict({key: value.float() for key, value in load_file(path).items()})
        return probe.eval().requires_grad_(False)


def identity_vectors(probabilities: dict[str, Tensor]) -> Tensor:
    """Unit vectors (B, E) from identity attribute probabilities {name: (B, K)}.

    Each attribute contributes ``(p - 1/K) * sqrt(K / (K - 1))``, of length 1 when certain and 0 when unreadable.
    """
    parts = []
    for key in IDENTITY_VALUES:
        count = probabilities[key].shape[-1]
        parts.append((probabilities[key] - 1.0 / count) * (count / (count - 1.0)) ** 0.5)
    return F.normalize(torch.cat(parts, dim=-1), dim=-1)
